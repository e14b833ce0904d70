"""The end of a worker that was told to stop: calls in flight get a while, what still runs then is handed back.

Celery's warm shutdown takes no new messages and waits for running steps without end; a supervisor would not. So a
thread ends the process in time: the leases that it still holds are released, and other workers go on with those tasks
at once. A call that is broken off is in flight in the journal; the next worker treats it as one whose reply was lost.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from orchestrator.domain.journal import Dispatch, Lease
from orchestrator.errors import DispatchFailed, StoreUnavailable
from orchestrator.flow.ports import Dispatcher, StepStore

log = logging.getLogger(__name__)

LONGEST_RESERVE = 1.5
"""Seconds of the stop period that are kept for handing back."""


class Drain:
    """Begins with `begin`; from then on `stopping` is true, and the process has ended when the period is over.

    Args:
        store: where leases are released.
        dispatcher: rings for what was handed back.
        held: the leases that this process holds.
        period: seconds (``ORCHESTRATOR_STOP_PERIOD``).
        leave: ends the process; running threads cannot be ended otherwise.
    """

    def __init__(
        self,
        store: StepStore,
        dispatcher: Dispatcher,
        held: Callable[[], Sequence[Lease]],
        period: float,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._held = held
        self._period = period
        self._leave = leave or _leave
        self._begun = threading.Event()

    def stopping(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Start the clock. Safe in a signal handler, and more than once."""
        if not self._begun.is_set():
            self._begun.set()
            threading.Thread(target=self._run, name="drain", daemon=True).start()

    def _run(self) -> None:
        reserve = min(LONGEST_RESERVE, self._period / 4)
        log.info("worker.stopping", extra={"in_flight": len(self._held()), "stop_period_seconds": self._period})
        threading.Event().wait(self._period - reserve)
        # Still here: Celery waits for steps that do not end in time. Whatever hangs now, the process ends.
        last = threading.Timer(reserve, self._leave)
        last.daemon = True
        last.start()
        self.hand_back()
        self._leave()

    def hand_back(self) -> None:
        """Release what is held and ring for it. Raises nothing: leases that stay run out by themselves."""
        held = self._held()
        try:
            doorbells: Sequence[Dispatch] = self._store.release(held, datetime.now(UTC))
            log.warning("worker.handed_back", extra={"held": len(held), "handed_back": len(doorbells)})
            self._dispatcher.dispatch(doorbells)
        except StoreUnavailable as error:
            log.warning("worker.not_handed_back", extra={"why": str(error), "then": "the leases run out"})
        except DispatchFailed as error:
            log.warning("worker.not_rung", extra={"why": str(error), "then": "the sweep rings"})


def _leave() -> None:
    logging.shutdown()
    os._exit(0)
