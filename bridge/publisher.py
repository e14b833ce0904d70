"""The process that publishes, forked by the bridge before anything runs: both have a processor to themselves.

It has the bridge's settings, stops with it, and ends soon where the bridge is killed. Where it ends by itself the
bridge stops as well: half a bridge would look alive.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import closing, suppress
from types import TracebackType
from typing import Self

from bridge.updates import Publisher
from orchestrator.errors import PublisherEnded
from orchestrator.forking import await_exit, prepare_to_fork, when_parent_dies
from orchestrator.settings import Settings
from orchestrator.wiring import build_store

log = logging.getLogger(__name__)

HEARS_WITHIN = 1.0
"""Seconds after its end in which the bridge was told to stop as well, where both were."""
STOPS_WITHIN = 8.0
"""Seconds in which it has ended, told to stop; then it is ended."""


class PublisherProcess:
    """Forks; what follows runs in both processes, and `is_this` says in which.

    In the bridge it is a context manager: the process is stopped at its end.

    Args:
        stop: set when this process is told to stop; set here where the publisher ends by itself.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._bridge = os.getpid()
        prepare_to_fork()
        self._pid = os.fork()
        self._exit_code: int | None = None
        self._alone = False
        """Whether it ended without the bridge being told to."""
        self._watch = threading.Thread(target=self._wait, name="watches-publisher", daemon=True)

    @property
    def is_this(self) -> bool:
        """Whether this is the process that publishes."""
        return self._pid == 0

    def run(self, settings: Settings) -> None:
        """Publish until told to stop, or until the bridge has died."""
        when_parent_dies(self._bridge, self._end_without_bridge)
        with closing(build_store(settings, "orchestrator-bridge")) as store:
            Publisher(settings, store, self._stop).run()

    def _end_without_bridge(self) -> None:
        if not self._stop.is_set():
            log.warning("updates.bridge_died", extra={"then": "another bridge publishes"})
            self._stop.set()

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for how in (signal.SIGTERM, signal.SIGKILL):  # what it has not published by then is in the outbox
            with suppress(ProcessLookupError):
                os.kill(self._pid, how)
            self._watch.join(STOPS_WITHIN)
        if error is None and self._alone:
            raise PublisherEnded(
                f"the process that publishes updates ended by itself, with exit code {self._exit_code}",
                hint="The log tells why. Start the bridge again: what was not published is in the outbox.",
            )

    def _wait(self) -> None:
        try:
            self._exit_code = await_exit(self._pid)
            # Told to stop, both are, and the bridge may hear of it a little later.
            self._alone = not self._stop.wait(HEARS_WITHIN)
            if self._alone:
                log.error("bridge.publisher_ended", extra={"exit_code": self._exit_code, "then": "the bridge stops"})
        finally:
            self._stop.set()
