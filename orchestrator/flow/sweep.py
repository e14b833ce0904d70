"""The sweep: ring the doorbells of tasks that should move and do not, as far as the broker has room."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.domain.turns import Window, place_of
from orchestrator.errors import DispatchFailed
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import Dispatcher, SweepStore

log = logging.getLogger(__name__)

BATCH = 500
"""Rows one statement takes, so that none holds locks for long."""


QUIET = 100
"""Messages in the broker that workers take up within a moment. With more of them a doorbell unanswered for a stall time
is late rather than lost, and ringing again would only make the queue longer."""


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """See the settings of the same names."""

    stall: timedelta = timedelta(seconds=10)
    dispatch_window: int = 2_000
    event_wait: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep did."""

    dispatched: int
    expired_events: int


class Sweep:
    """Recovery by looking: whatever was lost on its way to a worker is sent again from the rows."""

    def __init__(self, store: SweepStore, dispatcher: Dispatcher, limits: SweepLimits) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.limits = limits

    def run(self) -> SweepResult:
        """Sweep once. Several at the same time are harmless.

        Raises:
            StoreUnavailable: PostgreSQL is away; the next sweep does it.
        """
        result = SweepResult(self._ring(), self.store.expire_events(BATCH, self.limits.event_wait))
        if result.dispatched or result.expired_events:
            log.info("sweep.done", extra={"dispatched": result.dispatched, "expired_events": result.expired_events})
        return result

    def _ring(self) -> int:
        rung = 0
        try:
            window = Window(self.limits.dispatch_window, self.dispatcher.waiting())
            busy, ahead = window.waiting > QUIET, window.most_urgent
            # What is most urgent may have room where the rest has none.
            while (until := window.last_with_room()) is not None:
                limit = min(window.room(until), BATCH)
                doorbells = self.store.ring_due(limit, self.limits.stall, busy=busy, until=until, ahead=ahead)
                if not doorbells:
                    break
                reach(FaultPoint.SWEEP_MARKED)
                self.dispatcher.dispatch(doorbells)
                rung += len(doorbells)
                for doorbell in doorbells:
                    window.fill(place_of(doorbell.priority, doorbell.lane))
        except DispatchFailed as error:
            log.warning("sweep.broker_away", extra={"why": str(error), "dispatched": rung})
        return rung
