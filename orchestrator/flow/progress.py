"""What stops a task that goes on without getting anywhere, or has used up its time or its steps. Pure rules."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.domain.budget import Resource
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.journal import Fail, HistoryEntry
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.turn import Turn, now

NO_PROGRESS = "no_progress"


def used_up(turn: Turn) -> Fail | None:
    """The end of a task whose time is over, or that has no step left to decide in."""
    task, budget = turn.task, turn.budget
    if turn.ends_at is not None and now() >= turn.ends_at:
        in_time = budget.ends_at(task.created_at)
        if in_time is not None and in_time == turn.ends_at:
            return Fail(
                Resource.SECONDS.code,
                f"the {budget.seconds:f} seconds that the task may take are over. "
                "To go on: `orchestrator task retry ID --raise-budget seconds=N`.",
            )
        return Fail("deadline_passed", f"the task's deadline {turn.ends_at.isoformat()} has passed")
    undecided = turn.step is None or turn.step.decision is None
    if (
        budget.steps is not None
        and undecided
        and turn.lease.step - task.steps_before > budget.steps
        and not turn.context.is_complete
    ):
        return Fail(
            Resource.STEPS.code,
            f"all of the task's {budget.steps} steps are used and fields are still missing. "
            "To go on: `orchestrator task retry ID --raise-budget steps=N`.",
        )
    return None


def no_progress(idle_steps: int, limits: StepLimits) -> Fail | None:
    """The end of a task whose last steps brought no new field."""
    if not 0 < limits.idle_steps <= idle_steps:
        return None
    return Fail(
        NO_PROGRESS,
        f"the last {idle_steps} steps brought no new field (ORCHESTRATOR_IDLE_STEPS). Look at what they did; "
        "a retry gives it as many steps again, a rerun can correct a value.",
    )


def same_again(decision: Decision, history: Sequence[HistoryEntry], limits: StepLimits) -> Fail | None:
    """The end of a task whose planner decides the same once more, though nothing has changed since the last times."""
    if limits.repeats < 1 or decision.kind in {DecisionKind.WAIT_FOR_EVENT, DecisionKind.ASK_HUMAN}:
        return None  # waiting again is not running in circles
    times = 1
    for entry in reversed(history):
        step = entry.step
        if step.decision is None or not _same(step.decision, decision) or step.result_version != step.base_version:
            break
        times += 1
    if times < limits.repeats:
        return None
    what = ", ".join(call.agent for call in decision.calls) or decision.kind.value
    return Fail(
        NO_PROGRESS,
        f"the planner decided the same ({what}) {times} times in a row, with the same arguments, and nothing changed "
        "(ORCHESTRATOR_REPEATS); the last time it was not carried out.",
    )


def _same(one: Decision, other: Decision) -> bool:
    return (
        one.kind is other.kind
        and [(call.agent, dict(call.arguments)) for call in one.calls]
        == [(call.agent, dict(call.arguments)) for call in other.calls]
        and one.records == other.records
        and dict(one.details) == dict(other.details)
    )
