"""The heartbeat: one thread renews all leases that this process holds, with one statement."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from orchestrator.domain.journal import Lease
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.ports import StepStore

log = logging.getLogger(__name__)

BEATS_A_LEASE = 3
"""So that one lost beat loses no lease."""


class Heartbeat:
    """Implements `orchestrator.flow.ports.LeaseKeeper`. Its thread starts with the first lease and ends with `stop`."""

    def __init__(self, store: StepStore, lease_for: timedelta) -> None:
        self._store = store
        self._lease_for = lease_for
        self._held: dict[Lease, threading.Event] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[Callable[[], bool]]:
        """Keep the lease renewed while the context lasts; yields a function that tells whether it was lost."""
        lost = threading.Event()
        with self._lock:
            self._held[lease] = lost
            self._start()
        try:
            yield lost.is_set
        finally:
            with self._lock:
                self._held.pop(lease, None)

    def held(self) -> list[Lease]:
        """The leases that this process holds now."""
        with self._lock:
            return list(self._held)

    def stop(self) -> None:
        """End the thread; leases still held run out by themselves."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = self._lease_for.total_seconds() / BEATS_A_LEASE
        while not self._stop.wait(pause):
            if not (held := self.held()):
                continue
            try:
                self._note_lost(self._store.renew(held, self._lease_for))
            except StoreUnavailable as error:
                # The next beat tries again; a lease that runs out meanwhile is fenced at its next write.
                log.warning("leases.not_renewed", extra={"held": len(held), "why": str(error)})
            except Exception:  # a defect must not end the heartbeat of all other leases
                log.exception("leases.defect", extra={"held": len(held)})

    def _note_lost(self, lost: Iterable[Lease]) -> None:
        with self._lock:
            for lease in lost:
                if lease in self._held:
                    self._held[lease].set()
                    log.warning("leases.lost", extra={"task_id": lease.task_id, "step": lease.step})
