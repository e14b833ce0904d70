"""A task is found by its key also where statistics were made when nothing was going on, and much has come since."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.message import TaskMessage
from orchestrator.store import cancellations, delegations, questions, resolve, room, spending, steps, sweep, undo
from orchestrator.store.engine import text
from tests.support.store_world import StoreWorld

READ = """
    SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables WHERE relname = 'tasks'
"""


@pytest.fixture
def burst(store_world: StoreWorld) -> StoreWorld:
    """An idle system, analyzed, to which tasks then come in numbers."""
    store_world.accept(*(TaskMessage(f"old-{number}", "Do it", ("a",)) for number in range(50)))
    store_world.sql("UPDATE tasks SET state = 'completed', due_at = NULL, ended_at = now()")
    store_world.sql("ANALYZE")
    store_world.accept(*(TaskMessage(f"new-{number}", "Do it", ("a",)) for number in range(300)))
    store_world.store.engine.dispose()  # plans are made with these statistics
    return store_world


def test_a_claim_reads_its_own_task_only(burst: StoreWorld) -> None:
    with burst.store.engine.begin() as connection:
        claimed = connection.exec_driver_sql(
            "SELECT refused FROM claim_step_1('new-7', 1, 'w', '30 s', 60)"
        ).scalar_one()
        read = connection.exec_driver_sql(READ).scalar_one()
    assert claimed is None
    assert 1 <= read <= 3


# Statements that find tasks or questions by their key, and ask for a state beside it.
BY_KEY = {
    "a reservation": spending._RESERVE,
    "a step woken": steps._WAKE_STEP,
    "a step woken by a delegation": delegations._WAKE_STEP,
    "an undo woken by a delegation": delegations._WAKE_UNDO,
    "an undo woken by a cancellation": cancellations._WAKE_UNDO,
    "an undo woken": undo._WAKE,
    "the fence of an undo": undo._FENCE,
    "a task woken by an answer": questions._WAKE,
    "a task woken by a person": resolve._WAKE,
    "tasks woken by early events": sweep._WAKE_JOINED,
    "tasks woken by room": room._WAITING,
    "delegations woken by room": room._WAKE_DELEGATIONS,
    "an answer": questions._STORE_ANSWER,
    "open questions": questions._OPEN_OF_TASK,
    "questions withdrawn": questions._WITHDRAW,
}
VALUES: dict[str, Any] = {
    "task_id": "new-7",
    "ids": ["new-7", "new-8"],
    "epoch": 1,
    "owner": "w",
    "step": 1,
    "stall": timedelta(seconds=10),
    "due_in": timedelta(seconds=10),
    "rows": '[{"task_id": "new-7", "step": 1, "index": 0}]',
    "ref": "q",
    "who": "somebody",
    "why": "because",
    "answer": "{}",
    **dict.fromkeys(("tokens", "money", "reserved_tokens", "reserved_money"), 0),
}


@pytest.mark.parametrize("name", BY_KEY)
def test_what_is_found_by_its_key_is_not_looked_for_by_its_state(burst: StoreWorld, name: str) -> None:
    statement = BY_KEY[name]
    values = {parameter: VALUES[parameter] for parameter in statement._bindparams}
    with burst.store.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # tables are small here
        plan = "\n".join(connection.execute(text(f"EXPLAIN {statement.text}"), values).scalars())
    assert "_pkey" in plan
    assert not re.search(r"tasks_(due|turn|in_flight|by_state)|delegations_due|questions_open", plan), plan
