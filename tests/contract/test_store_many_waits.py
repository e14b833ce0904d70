"""What a step, the sweep and the command line read while very many tasks wait: by an index, never all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from orchestrator.domain.journal import NextStep, StepCommit, Wait
from orchestrator.domain.task import WaitsFor
from tests.support.store_world import LEASE, STALL, StoreWorld

MANY = 20_000


@pytest.fixture
def crowded(store_world: StoreWorld) -> StoreWorld:
    """As many tasks that wait for events (half of them with a time-out), people, and each with a context and inbox."""
    store_world.sql(
        """
        INSERT INTO tasks (task_id, description, required_fields, state, waits_for, wait, next_step, due_at,
                           content_digest)
        SELECT 'w-' || n, 'Wait', '["a"]', 'waiting', CASE WHEN n % 4 = 0 THEN 'person' ELSE 'event' END, '{}', 2,
               CASE WHEN n % 2 = 0 THEN now() + interval '1 day' END, 'x'
        FROM generate_series(1, :many) n
        """,
        many=MANY,
    )
    store_world.sql(
        """
        INSERT INTO task_contexts (task_id, context, version)
        SELECT task_id, '{"required_fields": ["a"], "current_state": "waiting", "collected_data": {}}', 1 FROM tasks
        """
    )
    store_world.sql(
        """
        INSERT INTO inbox (topic, partition, record_offset, digest, kind, task_id, event_type, timestamp_ms, state)
        SELECT 'events', 0, n, 'x', 'event', 'w-' || n, 'paid', 1, 'merged' FROM generate_series(1, :many) n
        """,
        many=MANY,
    )
    store_world.sql(
        """
        INSERT INTO questions (task_id, ref, kind, step_number, question, state)
        SELECT 'w-' || n, '1', 'question', 1, 'Which?', CASE WHEN n % 400 = 0 THEN 'open' ELSE 'settled' END
        FROM generate_series(4, :many, 4) n
        """,
        many=MANY,
    )
    store_world.sql("ANALYZE")
    return store_world


class Explained:
    """Every statement that goes to the server while it listens, with the tables that its plan reads from end to end."""

    def __init__(self, world: StoreWorld) -> None:
        self.world = world
        self.read_whole: dict[str, list[str]] = {}

    def __enter__(self) -> Explained:
        event.listen(self.world.store.engine, "before_cursor_execute", self._explain)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self.world.store.engine, "before_cursor_execute", self._explain)

    def _explain(self, _connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "WITH", "INSERT")):
            return
        cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
        (row,) = cursor.fetchall()
        found = [
            str(node["Relation Name"])
            for node in _nodes(row[0][0]["Plan"])
            if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in {"tasks", "inbox", "questions"}
        ]
        if found:
            self.read_whole[statement] = found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def test_a_step_and_the_sweep_read_what_is_due_by_an_index(crowded: StoreWorld) -> None:
    store = crowded.store
    crowded.task("t-1", "a")
    crowded.event("t-1", "paid", order="O-1")
    with Explained(crowded) as seen:
        crowded.end(crowded.claim(), NextStep())
        claim = crowded.claim(2)
        store.unused_events("t-1")
        store.history("t-1")
        store.commit(claim.lease, StepCommit(Wait(WaitsFor.EVENT, None, {"waits_since_step": 2}, same_step=False)))
        store.ring_due(100, STALL)
        store.ring_due_delegations(100, STALL)
        store.expire_events(100, LEASE)
        store.undispatched()
        store.questions(limit=20)
        store.questions(task_id="w-400")
    assert seen.read_whole == {}


def test_nothing_is_rung_for_tasks_that_wait(crowded: StoreWorld) -> None:
    assert crowded.store.ring_due(100, STALL) == []
    crowded.sql("UPDATE tasks SET due_at = now() WHERE task_id = 'w-7'")
    assert [bell.task_id for bell in crowded.store.ring_due(100, STALL)] == ["w-7"]


def test_explaining_would_see_a_table_that_is_read_whole(crowded: StoreWorld) -> None:
    with Explained(crowded) as seen, crowded.store.engine.connect() as connection:
        connection.execute(text("SELECT count(*) FROM tasks WHERE description = 'Wait'"))
    assert list(seen.read_whole.values()) == [["tasks"]]
