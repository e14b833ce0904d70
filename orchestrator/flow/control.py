"""A person's hand: retry, rerun, cancel, undo, restart, pause, resume.

The store writes and audits; the doorbell is rung after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import Task, TaskState
from orchestrator.errors import DispatchFailed
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import ControlStore, Dispatcher

log = logging.getLogger(__name__)


class Control:
    """What people do to tasks. Every method raises `TaskNotFound`, and `NotAllowed` where the state does not fit."""

    def __init__(self, store: ControlStore, dispatcher: Dispatcher) -> None:
        self.store = store
        self.dispatcher = dispatcher

    def retry(
        self, task_id: str, *, who: str, why: str, raise_budget: Mapping[str, int | Decimal] | None = None
    ) -> Dispatch:
        """Do the failed step again, sending only what did not succeed; returns the step that now runs.

        ``raise_budget`` adds to the task's bounds first: resource → amount.
        """
        return self._ring(self.store.retry(task_id, who=who, why=why, raise_budget=raise_budget))

    def rerun(self, task_id: str, step: int, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Go on from the context before ``step`` with ``edits`` on top, under a new step number."""
        return self._ring(self.store.rerun(task_id, step, edits, who=who, why=why))

    def cancel(self, task_id: str, *, who: str, why: str, undo: bool = False) -> Task:
        """End the task, at once or at its next boundary; ``undo``: after what it did is undone."""
        task = self.store.cancel(task_id, who=who, why=why, undo=undo)
        if task.state is TaskState.COMPENSATING:
            self._ring(Dispatch(task_id, task.next_step, task.priority))
        self._ring_unwanted(task_id)
        return task

    def undo(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Undo what an ended task did."""
        doorbell = self._ring(self.store.undo(task_id, who=who, why=why))
        self._ring_unwanted(task_id)
        return doorbell

    def undone_by_hand(self, task_id: str, ref: str | None, *, who: str, why: str) -> Delegation:
        """Note that a person undid a call that an undo left for them; ``ref`` (``3.0``) None: the only one."""
        return self.store.undone_by_hand(task_id, ref, who=who, why=why)

    def restart(self, task_id: str, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Begin anew from the task's first context with ``edits`` on top, under new step numbers."""
        return self._ring(self.store.restart(task_id, edits, who=who, why=why))

    def pause(self, task_id: str, *, who: str, why: str) -> Task:
        """Let nothing new begin; what runs goes on to its end."""
        return self.store.pause(task_id, who=who, why=why)

    def resume(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Let a paused task go on, with what came meanwhile."""
        return self._ring(self.store.resume(task_id, who=who, why=why))

    def _ring(self, doorbell: Dispatch) -> Dispatch:
        ring(self.dispatcher, doorbell)
        return doorbell

    def _ring_unwanted(self, task_id: str) -> None:
        """Ring for the calls whose agents are to be told that they are not wanted any more."""
        if bells := self.store.unwanted_calls(task_id):
            ring(self.dispatcher, *bells)


def ring(dispatcher: Dispatcher, *doorbells: Dispatch) -> None:
    """Ring after the commit of what a person did to a task. Raises nothing."""
    task_id = doorbells[0].task_id
    reach(FaultPoint.CONTROL_WRITTEN, task_id)
    try:
        dispatcher.dispatch(doorbells)
    except DispatchFailed as error:
        # All of it is due in rows: the sweep rings as soon as the broker is back.
        log.warning("control.broker_away", extra={"task_id": task_id, "why": str(error)})
