"""Where a commit takes its task: what each `Then` means for the rows of task and step. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.domain.budget import Resource
from orchestrator.domain.delegation import AGENT_CANCELED
from orchestrator.domain.journal import Cancel, Complete, Fail, GoOn, Join, NextStep, Then, Wait
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import Value

_TIME_IS_OVER = frozenset({"deadline_passed", Resource.SECONDS.code})
"""A task that fails for another reason may be retried, and then goes on with its calls."""


class Move(Value, frozen=True):
    """Where a commit takes the task."""

    state: TaskState
    step_state: str
    next_step: int
    waits_for: WaitsFor | None = None
    wait: dict[str, Any] | None = None
    due_at: datetime | None = None
    at_once: bool = False
    """Its next doorbell is rung right after the commit; the sweep rings after the stall time."""
    woken: bool = False
    rings: int = 0
    """1: doorbells are on their way, if not the step's own; the task counts as in flight."""
    reason_code: str | None = None
    reason: str | None = None
    undo: dict[str, Any] | None = None
    """The undo that comes first."""

    @property
    def leaves_calls(self) -> str | None:
        """Why nobody waits any more for the calls that are under way, where that is so."""
        if self.undo is not None:
            return "undo"
        given_up = self.state is TaskState.CANCELED or self.reason_code in _TIME_IS_OVER
        return self.reason_code if given_up and self.state.is_terminal else None


def move_of(then: Then, step: int, *, cancel_requested: bool, events: bool, joined: bool = False) -> Move:
    """Where ``then``, written by step ``step``, takes the task.

    Args:
        then: what the step asks for.
        step: its number.
        cancel_requested: somebody asked to cancel: the task does not go on.
        events: events are there that the step has not merged.
        joined: of a `Join`: none of its delegations is under way any more.
    """
    if cancel_requested and (
        isinstance(then, NextStep | Wait | Join)
        # Its agent was told, and ended the call as we wished.
        or (isinstance(then, Fail) and then.code == AGENT_CANCELED)
    ):
        then = Cancel("canceled by request")
    match then:
        case NextStep():
            return Move(TaskState.PROCESSING, "finished", step + 1, at_once=True)
        case Wait():
            # What came while the planner decided to wait for it ends the wait at once.
            woken = events and (
                then.waits_for is WaitsFor.EVENT or (then.waits_for is WaitsFor.PERSON and not then.same_step)
            )
            return Move(
                TaskState.WAITING,
                "open" if then.same_step else "finished",
                step if then.same_step else step + 1,
                waits_for=then.waits_for,
                wait=dict(then.details),
                due_at=then.due_at,
                woken=woken,
                reason_code=then.reason_code,
                reason=then.reason,
            )
        case Join():
            return Move(
                TaskState.WAITING,
                "open",
                step,
                waits_for=WaitsFor.AGENT,
                wait={"join": step},
                due_at=then.due_at,
                woken=joined,
                rings=1,
                reason=then.reason,
            )
        case Complete(reason):
            return Move(TaskState.COMPLETED, "finished", step, reason=reason)
        case Fail(code, reason):
            return Move(TaskState.FAILED, "failed", step, reason_code=code, reason=reason)
        case Cancel(reason):
            return Move(TaskState.CANCELED, "open", step, reason_code="canceled", reason=reason)
        case GoOn():
            raise AssertionError("GoOn moves nothing")
