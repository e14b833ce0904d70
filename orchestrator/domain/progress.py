"""How far a task is: fields it has and lacks, what its step does or waits for and since when, what it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.context import Context
from orchestrator.domain.decision import DecisionKind
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.domain.value import Value

TENTHS = 10
"""Updates that a step with many delegations publishes at most while they settle."""


class Cost(Value, frozen=True):
    """What a task has used so far, steps before a rerun included."""

    steps: int
    """Decisions made."""
    delegations: int
    """Calls of agents decided on; one that is sent several times counts once."""
    tokens: int
    """In and out, answers in vain included."""
    cost: float
    """US dollars, as far as prices are known."""


class Progress(Value, frozen=True):
    """How far a task is at one moment."""

    fields_known: int
    fields_required: int
    delegations_settled: int
    delegations: int
    """Of the present step."""
    since: datetime
    """When it began what it does or waits for now; of an ended task, when it ended."""
    spent: Cost

    def to_json(self) -> dict[str, Any]:
        """The shape of ``progress`` in a task update and in ``--json`` output."""
        return {
            "fields_known": self.fields_known,
            "fields_required": self.fields_required,
            "delegations_settled": self.delegations_settled,
            "delegations": self.delegations,
            "since": self.since,
            "spent": {
                "steps": self.spent.steps,
                "delegations": self.spent.delegations,
                "tokens": self.spent.tokens,
                "cost": self.spent.cost,
            },
        }


def progress_of(task: Task, context: Context, history: Sequence[HistoryEntry]) -> Progress:
    """How far a task is, by its rows."""
    present = _present(task, history)
    return Progress(
        fields_known=len(context.required_fields) - len(context.missing_fields),
        fields_required=len(context.required_fields),
        delegations_settled=sum(one.state.is_settled for one in present.delegations) if present else 0,
        delegations=len(present.delegations) if present else 0,
        since=task.ended_at or task.updated_at,
        spent=spent_of(task, history),
    )


def spent_of(task: Task, history: Sequence[HistoryEntry]) -> Cost:
    """What a task has used."""
    return Cost(
        steps=sum(entry.step.decision is not None for entry in history),
        delegations=task.spent.delegations,
        tokens=task.spent.tokens,
        cost=float(task.spent.money),
    )


def doing(task: Task, history: Sequence[HistoryEntry]) -> str | None:
    """What a task does or waits for now, in words; None of an ended one."""
    if task.state.is_terminal:
        return None
    step, present = f"step {task.next_step}", _present(task, history)
    decision = present.step.decision if present else None
    if task.state is TaskState.WAITING:
        if present is not None and task.waits_for is WaitsFor.AGENT and len(present.delegations) > 1:
            open_ones = [one for one in present.delegations if not one.is_closed]
            return f"{step}: waits for {len(open_ones)} of {len(present.delegations)} delegations"
        return f"{step}: waits for {_ARTICLE.get(str(task.waits_for), str(task.waits_for))}"
    if decision is not None and decision.kind is DecisionKind.CALL:
        return f"{step}: calls {', '.join(dict.fromkeys(call.agent for call in decision.calls))}"
    if task.state is TaskState.PROCESSING:
        return f"{step}: is decided"
    return f"{step}: {task.state.value}"


def is_worth_telling(settled: int, count: int) -> bool:
    """Whether the ``settled``-th of ``count`` delegations to settle fills a further tenth of them."""
    return settled * TENTHS // count > (settled - 1) * TENTHS // count


_ARTICLE = {"event": "an event", "person": "a person", "agent": "an agent", "retry": "a retry"}


def _present(task: Task, history: Sequence[HistoryEntry]) -> HistoryEntry | None:
    return next((e for e in history if e.step.number == task.next_step and not e.step.superseded), None)
