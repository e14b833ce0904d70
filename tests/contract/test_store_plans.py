"""A task is found by its key also where statistics were made when nothing was going on, and much has come since."""

from __future__ import annotations

import pytest

from orchestrator.domain.message import TaskMessage
from tests.support.processes import wait_for
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
    assert read <= 3


def test_steps_read_their_own_tasks_only(burst: StoreWorld) -> None:
    """Claims, decisions and what tells of them."""

    def reads() -> int:
        return int(
            burst.sql("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'tasks'")[0][0]
        )

    before = reads()
    for number in range(20):
        claim = burst.claim(task_id=f"new-{number}")
        burst.decide(claim, key=f"key-{number}")
    burst.store.engine.dispose()  # the connection tells the server what it has read
    wait_for(lambda: reads() >= before + 20 * 2)
    assert reads() - before <= 20 * 10
