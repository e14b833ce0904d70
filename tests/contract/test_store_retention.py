"""Removing what is old and done: what goes, what stays, and that claim and sweep never meet it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from orchestrator.domain.journal import Complete, Fail, StepCommit
from orchestrator.flow.ports import Invalid
from orchestrator.flow.retention import Kept, Retention
from tests.support.store_world import LEASE, STALL, StoreWorld

DAY = timedelta(days=1)
EVERYTHING = dict.fromkeys(Kept, DAY)
TABLES = (
    "tasks",
    "task_contexts",
    "context_versions",
    "steps",
    "delegations",
    "inbox",
    "outbox",
    "dead_letters",
    "audit",
)


KEPT_FOR_GOOD = {"alembic_version", "offers", "offsets", "publisher", "read_before", "restores", "server_state"}
"""One row for each partition, registry content, restore or database: they do not grow with the traffic."""

REMOVED = {"tasks", "inbox", "outbox", "dead_letters", "audit"}
GO_WITH_THEM = """
    WITH RECURSIVE gone AS (
        SELECT 'tasks'::regclass::oid AS id
        UNION
        SELECT c.conrelid FROM pg_constraint c JOIN gone ON c.confrelid = gone.id
        WHERE c.contype = 'f' AND c.confdeltype = 'c'
    )
    SELECT id::regclass::text FROM gone
"""


def age(world: StoreWorld) -> None:
    """Let two days pass for all that there is."""
    for table, column in (
        ("tasks", "ended_at"),
        ("inbox", "received_at"),
        ("outbox", "published_at"),
        ("dead_letters", "created_at"),
        ("audit", "at"),
    ):
        world.sql(f"UPDATE {table} SET {column} = {column} - interval '2 days'")


def publish(world: StoreWorld) -> None:
    world.sql("UPDATE outbox SET published_at = now()")


def rows(world: StoreWorld, *tables: str) -> dict[str, int]:
    return {table: world.sql(f"SELECT count(*) FROM {table}")[0][0] for table in tables or TABLES}


def ended_task(world: StoreWorld, task_id: str = "t-1") -> None:
    world.task(task_id)
    claim = world.claim(task_id=task_id)
    world.decide(claim, key=f"key-{task_id}")
    world.end(claim, Complete("done"), a=1)


def test_an_ended_task_goes_with_all_its_rows(store_world: StoreWorld) -> None:
    ended_task(store_world)
    store_world.accept(Invalid("not_json", "rubbish"))
    store_world.task("failed-1")
    store_world.store.commit(store_world.claim(task_id="failed-1").lease, StepCommit(Fail("x", "y")))
    store_world.store.retry("failed-1", who="ann", why="")
    store_world.store.cancel("failed-1", who="ann", why="")
    publish(store_world)
    age(store_world)
    removed = Retention(store_world.store, EVERYTHING).run()
    assert rows(store_world) == dict.fromkeys(TABLES, 0)
    assert removed[Kept.TASKS] == 2
    assert min(removed.values()) > 0


def test_every_table_is_removed_from_goes_with_a_task_or_does_not_grow(store_world: StoreWorld) -> None:
    tables = {row[0] for row in store_world.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    with_tasks = {row[0] for row in store_world.sql(GO_WITH_THEM)}
    assert {"compensations", "questions"} < with_tasks
    assert tables == with_tasks | REMOVED | KEPT_FOR_GOOD


def test_what_is_young_alive_or_not_published_stays(store_world: StoreWorld) -> None:
    store_world.task("alive")
    store_world.event("early-event", x=1)
    store_world.event("alive", x=1)
    store_world.accept(Invalid("not_json", "rubbish"))
    age(store_world)
    ended_task(store_world, "young")
    before = rows(store_world)
    removed = Retention(store_world.store, EVERYTHING).run()
    after = rows(store_world)
    assert {name: removed[name] for name in (Kept.TASKS, Kept.UPDATES, Kept.DEAD_LETTERS)} == {
        Kept.TASKS: 0,
        Kept.UPDATES: 0,
        Kept.DEAD_LETTERS: 0,
    }
    # Of the old records only those go that nothing waits for: the task's own and the bad one.
    assert before["inbox"] - after["inbox"] == 2
    assert {**before, "inbox": 0} == {**after, "inbox": 0}
    assert [one.event_data for one in store_world.claim(task_id="alive").events] == [{"x": 1}]


def test_what_is_not_named_is_kept_for_ever(store_world: StoreWorld) -> None:
    ended_task(store_world)
    age(store_world)
    assert Retention(store_world.store, {}).run() == {}
    assert rows(store_world, "tasks") == {"tasks": 1}


def test_many_are_removed_in_batches(store_world: StoreWorld) -> None:
    store_world.sql(ENDED_TASKS, count=1_200)
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(store_world.store.engine, "before_cursor_execute", note)
    assert Retention(store_world.store, {Kept.TASKS: DAY}).run() == {Kept.TASKS: 1_200}
    assert sum("DELETE FROM tasks" in one for one in statements) == 3
    assert Retention(store_world.store, {Kept.TASKS: DAY}).run(seconds=0.0) == {Kept.TASKS: 0}


def test_only_one_removes_at_a_time_and_rows_in_hand_are_passed_over(store_world: StoreWorld) -> None:
    ended_task(store_world, "in-hand")
    ended_task(store_world, "free")
    age(store_world)
    with store_world.store.engine.begin() as hand:
        hand.execute(text("SELECT 1 FROM tasks WHERE task_id = 'in-hand' FOR UPDATE"))
        assert store_world.store.remove_old(Kept.TASKS, DAY, 10) == 1
    assert store_world.store.task("in-hand").task_id == "in-hand"
    with store_world.store.engine.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": 0x52_45_54_41_49_4E})
        assert store_world.store.remove_old(Kept.TASKS, DAY, 10) is None
    assert store_world.store.remove_old(Kept.TASKS, DAY, 10) == 1


# -- a year of traffic

ENDED_TASKS = """
    INSERT INTO tasks (task_id, description, required_fields, state, next_step, content_digest, created_at, ended_at)
    SELECT 'ended-' || n, 'd', '["a"]', 'completed', 3, 'x', now() - interval '1 year', now() - interval '300 days'
    FROM generate_series(1, :count) n
"""


@contextmanager
def plans_of(world: StoreWorld) -> Iterator[list[str]]:
    """Collect the plans of the statements on ``tasks`` that the store executes meanwhile, as they were executed."""
    plans: list[str] = []

    def explain(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "tasks" in statement and statement.lstrip().startswith(("WITH", "UPDATE", "DELETE", "SELECT")):
            with world.store.engine.connect() as beside:
                found = beside.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]  # as given
                plans.append("\n".join(row[0] for row in found))

    event.listen(world.store.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(world.store.engine, "before_cursor_execute", explain)


@pytest.fixture
def old_world(store_world: StoreWorld) -> StoreWorld:
    """Fifty thousand ended tasks, and one that is due."""
    store_world.sql(ENDED_TASKS, count=50_000)
    store_world.task(due_in=timedelta(seconds=-1))
    with store_world.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE tasks"))
    return store_world


def test_claim_and_sweep_look_at_no_ended_task(old_world: StoreWorld) -> None:
    with plans_of(old_world) as plans:
        assert [bell.task_id for bell in old_world.store.ring_due(100, STALL)] == ["t-1"]
        old_world.store.claim("t-1", 1, "w", LEASE)
        old_world.store.undispatched()
        old_world.store.remove_old(Kept.TASKS, DAY, 10)
    assert len(plans) >= 3
    for plan in plans:
        assert "Seq Scan on tasks" not in plan, plan
    assert any("tasks_ended" in plan for plan in plans)
    assert any("tasks_pkey" in plan for plan in plans)
