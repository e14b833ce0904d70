"""Accepting: a batch of records is taken in with one commit, then the doorbells of what may move are rung.

Between the two steps the caller tells its source that the batch is safe. Ringing may fail or be skipped without loss:
each task is a row with a due time, and the sweep rings what is overdue.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from orchestrator.domain.turns import Window
from orchestrator.errors import DispatchFailed
from orchestrator.flow.ports import Dispatcher, IntakeStore, Received, Taken

log = logging.getLogger(__name__)

AT_ONCE = timedelta(0)
"""Due at once: nobody rings, so the sweep does as soon as the broker has room."""


class Accept:
    """Takes batches in, feeding Celery within a bounded window.

    Args:
        window: step messages that may wait in the broker before and beside one as urgent (`Window`); beyond it tasks
            stay in PostgreSQL, which loses none, until the sweep finds room.
        stall: how long a doorbell may take before the sweep rings again.
    """

    def __init__(self, store: IntakeStore, dispatcher: Dispatcher, *, window: int, stall: timedelta) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.window = window
        self.stall = stall

    def take_in(self, batch: Sequence[Received], confirmed: Mapping[tuple[str, int], int] | None = None) -> Accepted:
        """Commit the batch. What it returns is to be rung once the source knows that the batch is safe.

        Args:
            batch: its records, decoded.
            confirmed: the next offset of each (topic, partition) as PostgreSQL has confirmed it before.

        Raises:
            StoreUnavailable: nothing of the batch was written.
            OffsetsForgotten: PostgreSQL knows less than it has confirmed; nothing of the batch was written.
        """
        window = self._room()
        due_in = AT_ONCE if window is None else self.stall
        taken = self.store.accept(batch, due_in=due_in, window=window, confirmed=confirmed)
        return Accepted(taken, None if window is None else self.dispatcher)

    def _room(self) -> Window | None:
        try:
            return Window(self.window, self.dispatcher.waiting())
        except DispatchFailed as error:
            log.warning("accept.broker_away", extra={"why": str(error), "then": "the sweep rings"})
            return None


class Accepted:
    """A batch that is safe, and its doorbells."""

    def __init__(self, taken: Sequence[Taken], dispatcher: Dispatcher | None) -> None:
        self.taken = taken
        self._dispatcher = dispatcher

    def ring(self) -> None:
        """Ring the doorbells, where the broker had room when the batch came. Raises nothing."""
        doorbells = [item.dispatch for item in self.taken if item.dispatch is not None]
        if self._dispatcher is None or not doorbells:
            return
        try:
            self._dispatcher.dispatch(doorbells)
        except DispatchFailed as error:
            log.warning(
                "accept.not_rung", extra={"why": str(error), "doorbells": len(doorbells), "then": "the sweep rings"}
            )
