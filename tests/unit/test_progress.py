"""How far a task is: numbers and words from its rows, and which settled delegation is worth an update."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.domain.budget import Spent
from orchestrator.domain.context import Context
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.progress import doing, is_worth_telling, progress_of
from orchestrator.domain.task import Task, TaskState, WaitsFor

NOW = datetime(2031, 1, 31, 18, tzinfo=UTC)
SUCCEEDED, FLYING, PENDING = DelegationState.SUCCEEDED, DelegationState.IN_FLIGHT, DelegationState.PENDING


def task(state: TaskState = TaskState.PROCESSING, step: int = 2, **parts: Any) -> Task:
    return Task("t-1", "Do it", ("a", "b"), state, step, NOW - timedelta(hours=1), NOW, **parts)


def entry(number: int, *states: DelegationState, **parts: Any) -> HistoryEntry:
    calls = tuple(AgentCall(f"agent_{index}", {}) for index in range(len(states)))
    decision = Decision(DecisionKind.CALL, "because", Usage("m"), calls=calls)
    delegations = tuple(
        Delegation("t-1", number, index, f"agent_{index}", {}, "do", f"k{number}.{index}", state, int(state != PENDING))
        for index, state in enumerate(states)
    )
    return HistoryEntry(Step("t-1", number, StepState.OPEN, decision, 1, 1, **parts), delegations)


def test_the_numbers_are_those_of_the_rows() -> None:
    history = [entry(1, SUCCEEDED), entry(2, SUCCEEDED, FLYING, PENDING)]
    spent = Spent(delegations=4, tokens=240, money=Decimal("0.25"))
    found = progress_of(task(spent=spent), Context(1, ("a", "b"), {"a": 1}), history)
    assert (found.fields_known, found.fields_required) == (1, 2)
    assert (found.delegations_settled, found.delegations) == (1, 3)
    assert (found.spent.steps, found.spent.delegations, found.spent.tokens, found.spent.cost) == (2, 4, 240, 0.25)
    assert found.since == NOW


def test_of_an_ended_task_since_is_its_end() -> None:
    ended = task(TaskState.COMPLETED, ended_at=NOW - timedelta(minutes=1))
    assert progress_of(ended, Context(1, (), {}), []).since == NOW - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("of", "history", "words"),
    [
        (task(TaskState.RECEIVED, 1), [], "step 1: received"),
        (task(), [], "step 2: is decided"),
        (task(), [entry(2, FLYING)], "step 2: calls agent_0"),
        (task(TaskState.WAITING, waits_for=WaitsFor.AGENT), [entry(2, FLYING)], "step 2: waits for an agent"),
        (
            task(TaskState.WAITING, waits_for=WaitsFor.AGENT),
            [entry(2, SUCCEEDED, FLYING, PENDING)],
            "step 2: waits for 2 of 3 delegations",
        ),
        (task(TaskState.WAITING, waits_for=WaitsFor.EVENT), [], "step 2: waits for an event"),
        (task(TaskState.PROCESSING), [entry(2, FLYING, superseded=True)], "step 2: is decided"),
        (task(TaskState.FAILED), [entry(2, FLYING)], None),
    ],
)
def test_what_it_does_in_words(of: Task, history: list[HistoryEntry], words: str | None) -> None:
    assert doing(of, history) == words


@pytest.mark.parametrize(("count", "told"), [(2, 2), (10, 10), (11, 10), (100, 10), (1000, 10)])
def test_a_step_tells_of_at_most_ten_however_many_it_has(count: int, told: int) -> None:
    assert sum(is_worth_telling(settled, count) for settled in range(1, count + 1)) == told
