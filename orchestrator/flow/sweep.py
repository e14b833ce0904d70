"""The sweep: ring the doorbells of tasks that should move and do not, as far as the broker has room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import LAST_PLACE, TenantLoad, Window, place_of
from orchestrator.domain.value import Value
from orchestrator.errors import DispatchFailed
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import Dispatcher

log = logging.getLogger(__name__)

BATCH = 500
"""Rows one statement takes, so that none holds locks for long."""


QUIET = 100
"""Messages in the broker that workers take up within a moment. With more of them a doorbell unanswered for a stall time
is late rather than lost, and ringing again would only make the queue longer."""


class SweepStore(Protocol):
    """Recovery of what should move and does not."""

    def ring_due_delegations(self, limit: int, stall: timedelta, *, busy: bool = False) -> Sequence[Dispatch]:
        """Up to ``limit`` delegations of parallel steps that are due, most urgent first.

        ``stall`` and ``busy`` as with `ring_due`. Those whose step has ended meanwhile are left: a call still marked in
        flight becomes ``unknown``.
        """

    def ring_due_cancellations(self, limit: int, stall: timedelta) -> Sequence[Dispatch]:
        """Up to ``limit`` calls that are not wanted any more, of which their agents are to be told now."""

    def end_leases(self, place: str, has_died: Callable[[str], bool], lease: timedelta) -> int:
        """End the leases of processes that have died, so that their tasks and delegations are due now.

        Args:
            place: beginning of the names of those that can be judged.
            has_died: whether the process of a name has.
            lease: how long a lease lasts at most.
        """

    def ring_again(self, stall: timedelta) -> int:
        """The broker has lost every doorbell: what was rung and not taken up is due at once, whatever the broker holds
        by now. Returns how many tasks and delegations that are.
        """

    def ring_due(
        self, limit: int, stall: timedelta, *, busy: bool = False, until: int = LAST_PLACE, ahead: int = -1
    ) -> Sequence[Dispatch]:
        """Up to ``limit`` tasks that are due (``due_at`` passed, not ended, not paused, no lease in force).

        Most urgent first, ageing included; of equally urgent ones each tenant's first before any tenant's second, what
        is begun before what is new, oldest first. New ones only as far as their tenants' caps have room. Each is due
        again after ``stall`` unless it moves. Rows locked by another are skipped, so several callers are harmless.

        Args:
            limit: how many at most.
            stall: see above; while many messages wait, longer with each ring that went unanswered.
            busy: many messages wait in the broker, so tasks whose doorbell has been rung most likely have theirs among
                them and are left in peace for some stall times more.
            until: the last place (`orchestrator.domain.turns`) that is wanted.
            ahead: urgency of the first doorbell that waits in the broker. A task that waits behind it and has become
                much more urgent since it was rung is rung again, higher up.
        """

    def expire_events(self, limit: int, older_than: timedelta) -> int:
        """Dead-letter events that waited for their task longer than ``older_than``; returns how many."""

    def undispatched(self) -> int:
        """How many tasks are due now and not in the hands of a worker."""

    def tenants(self) -> Sequence[TenantLoad]:
        """Tenants with tasks in flight or due, most in flight first."""


class Broker(Dispatcher, Protocol):
    """A dispatcher that tells whether it still has what it was given."""

    def emptied(self) -> bool:
        """Whether our mark is gone: it was emptied, restarted without its data, or is new. Raises `DispatchFailed`."""

    def mark(self) -> None:
        """Leave our mark. Raises `DispatchFailed`."""


class Neighbours(Value, frozen=True):
    """Processes whose lives this one can judge; none without a place."""

    place: str = ""
    """Beginning of their names."""
    has_died: Callable[[str], bool] = lambda _name: False


class SweepLimits(Value, frozen=True):
    """See the settings of the same names."""

    lease: timedelta = timedelta(seconds=9)

    stall: timedelta = timedelta(seconds=10)
    dispatch_window: int = 2_000
    event_wait: timedelta = timedelta(days=1)


class SweepResult(Value, frozen=True):
    """What one sweep did."""

    dispatched: int
    expired_events: int


class Sweep:
    """Recovery by looking: whatever was lost on its way to a worker is sent again from the rows."""

    def __init__(
        self, store: SweepStore, dispatcher: Broker, limits: SweepLimits, neighbours: Neighbours | None = None
    ) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.limits = limits
        self.neighbours = neighbours or Neighbours()

    def run(self) -> SweepResult:
        """Sweep once. Several at the same time are harmless.

        Raises:
            StoreUnavailable: PostgreSQL is away; the next sweep does it.
        """
        self._notice_the_dead()
        result = SweepResult(self._ring(), self.store.expire_events(BATCH, self.limits.event_wait))
        if result.dispatched or result.expired_events:
            log.info("sweep.done", extra={"dispatched": result.dispatched, "expired_events": result.expired_events})
        return result

    def _ring(self) -> int:
        rung = 0
        try:
            self._notice_emptied()
            window = Window(self.limits.dispatch_window, self.dispatcher.waiting())
            busy, ahead = window.waiting > QUIET, window.most_urgent
            # Few as well, and what they end is work for nothing.
            rung += self._send(self.store.ring_due_cancellations(BATCH, self.limits.stall))
            # Few at a time, since each step has only some under way: they need no place in the window.
            rung += self._send(self.store.ring_due_delegations(BATCH, self.limits.stall, busy=busy))
            # What is most urgent may have room where the rest has none.
            while (until := window.last_with_room()) is not None:
                limit = min(window.room(until), BATCH)
                doorbells = self.store.ring_due(limit, self.limits.stall, busy=busy, until=until, ahead=ahead)
                rung += self._send(doorbells)
                for doorbell in doorbells:
                    window.fill(place_of(doorbell.priority, doorbell.lane))
                if len(doorbells) < limit:
                    # All that was due. On a slow machine the first of them may be due again by now, and would be rung
                    # over and over by a sweep without end.
                    break
        except DispatchFailed as error:
            log.warning("sweep.broker_away", extra={"why": str(error), "dispatched": rung})
        return rung

    def _notice_the_dead(self) -> None:
        place, has_died = self.neighbours.place, self.neighbours.has_died
        if place and (ended := self.store.end_leases(place, has_died, self.limits.lease)):
            log.warning("sweep.leases_of_the_dead", extra={"ended": ended})

    def _notice_emptied(self) -> None:
        if not self.dispatcher.emptied():
            return
        lost = self.store.ring_again(self.limits.stall)
        # Marked last: should we die in between, the next sweep does the same again.
        self.dispatcher.mark()
        log.warning("sweep.broker_emptied", extra={"rings_again": lost})

    def _send(self, doorbells: Sequence[Dispatch]) -> int:
        if doorbells:
            reach(FaultPoint.SWEEP_MARKED)
            self.dispatcher.dispatch(doorbells)
        return len(doorbells)
