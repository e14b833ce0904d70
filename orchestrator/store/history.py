"""Reading a task's journal: its steps with their delegations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import HistoryEntry
from orchestrator.store.engine import text
from orchestrator.store.questions import ending_events, questions_by_step
from orchestrator.store.rows import delegation_of, step_of

_STEPS = text("SELECT * FROM steps WHERE task_id = :task_id ORDER BY step_number")
_DELEGATIONS = text("SELECT * FROM delegations WHERE task_id = :task_id ORDER BY step_number, index")


def load_history(connection: Connection, task_id: str) -> Sequence[HistoryEntry]:
    """All steps, oldest first."""
    by_step: dict[int, list[Delegation]] = defaultdict(list)
    for row in connection.execute(_DELEGATIONS, {"task_id": task_id}).mappings():
        delegation = delegation_of(row)
        by_step[delegation.step].append(delegation)
    steps = [step_of(row) for row in connection.execute(_STEPS, {"task_id": task_id}).mappings()]
    asked, ended = questions_by_step(connection, task_id), ending_events(connection, task_id)
    return [
        HistoryEntry(step, tuple(by_step[step.number]), asked.get(step.number, ()), ended.get(step.number))
        for step in steps
    ]
