"""An older state of PostgreSQL as the store notices and marks it: once, whoever comes first, and never for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import psycopg2
import pytest
from sqlalchemy import event

from orchestrator.domain.by_hand import TaskFilter
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Complete, Settlement, StepCommit
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.domain.server import Seen
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost, NotAllowed, OffsetsForgotten
from orchestrator.flow.ports import Received
from orchestrator.store import PostgresStore, make_engine
from tests.support.stack import SharedStack
from tests.support.store_world import STALL, StoreWorld

FAR = 2**40
"""Bytes of log that no server of a test has."""


def seen(world: StoreWorld) -> Seen:
    found = world.store.seen
    assert found is not None
    return found


def restores(world: StoreWorld) -> list[str]:
    return [row.why for row in world.sql("SELECT why FROM restores ORDER BY id")]


def another(world: StoreWorld, *, replicas_complete: bool = False) -> PostgresStore:
    """The store of another process."""
    url = world.store.engine.url.render_as_string(hide_password=False)
    return PostgresStore(make_engine(url), replicas_complete=replicas_complete)


# -- noticing


CHANGES: dict[str, str] = {
    "another server": "UPDATE server_state SET system_identifier = '1'",
    "another database": "UPDATE server_state SET database_oid = 1",
    "tables made anew": "UPDATE server_state SET table_oid = 1",
    "an earlier timeline": "UPDATE server_state SET timeline = '000000FF'",
    "a later timeline": "UPDATE server_state SET timeline = '00000000'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_new_connection_notices_another_server_before_it_is_used(store_world: StoreWorld, change: str) -> None:
    store_world.task("t-1")
    store_world.sql(CHANGES[change])
    store_world.store.engine.dispose()
    assert store_world.store.task("t-1").doubted_at is not None
    assert len(restores(store_world)) == 1
    store_world.store.engine.dispose()
    store_world.task("t-2")
    assert store_world.store.task("t-2").doubted_at is None, "it is noticed once"
    assert len(restores(store_world)) == 1


def test_replicas_that_have_everything_may_take_over(store_world: StoreWorld) -> None:
    store_world.task("t-1")
    store_world.sql(CHANGES["a later timeline"])
    with closing(another(store_world, replicas_complete=True)) as other:
        assert other.task("t-1").doubted_at is None
        store_world.store.engine.dispose()
        assert store_world.store.task("t-1").doubted_at is None, "it is kept that this is the timeline now"
        store_world.sql(CHANGES["an earlier timeline"])
        other.engine.dispose()
        assert other.task("t-1").doubted_at is not None


def test_a_log_that_ends_before_what_another_process_saw_is_older(store_world: StoreWorld) -> None:
    store_world.task("t-1")
    now = seen(store_world)
    store_world.store.compare(now)
    store_world.store.compare(replace(now, position=now.position + FAR, timeline="0000000F"))
    assert restores(store_world) == []
    store_world.store.compare(replace(now, position=now.position + FAR))
    assert len(restores(store_world)) == 1
    assert store_world.store.task("t-1").doubted_at is not None
    # Others who have seen as much learn that it is noted.
    store_world.store.compare(replace(now, position=now.position + FAR))
    store_world.store.compare(replace(now, position=now.position + 2 * FAR))
    assert len(restores(store_world)) == 1
    store_world.store.compare(Seen("ffffffff", now.timeline, 1))
    assert len(restores(store_world)) == 2, "what was noted is forgotten"


def test_of_many_who_notice_at_once_one_marks(store_world: StoreWorld) -> None:
    for number in range(50):
        store_world.task(f"t-{number}")
    now = seen(store_world)
    told = replace(now, position=now.position + FAR)
    others = [another(store_world) for _ in range(6)]
    barrier = threading.Barrier(len(others))
    failures: list[BaseException] = []

    def notice(store: PostgresStore) -> None:
        try:
            store.doubts()
            barrier.wait(10)
            store.compare(told)
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=notice, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in others:
        one.close()
    assert failures == []
    (row,) = store_world.sql("SELECT tasks, who FROM restores")
    assert row.tasks == 50


def test_an_empty_database_and_a_first_look_raise_no_alarm(store_world: StoreWorld) -> None:
    found = store_world.store.doubts()
    assert (found.last, found.doubted, found.waiting) == (None, 0, 0)
    assert (found.tells_identity, found.tells_position) == (True, True), "to a role that is no superuser"


def test_what_a_role_may_not_ask_is_done_without(store_world: StoreWorld, stack: SharedStack) -> None:
    store_world.task("t-1")
    name = str(store_world.store.engine.url.database)
    with closing(psycopg2.connect(stack.admin_url(name))) as admin, admin, admin.cursor() as cursor:
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn() FROM PUBLIC")
    with closing(another(store_world)) as other:
        found = other.doubts()
        assert (found.tells_identity, found.tells_position) == (False, False)
        assert found.last is None
        other.compare(replace(seen(store_world), position=FAR))
        assert restores(store_world) == []
        store_world.sql(CHANGES["tables made anew"])
        other.engine.dispose()
        assert other.task("t-1").doubted_at is not None


# -- what it does to tasks and leases


def test_a_worker_at_work_is_cut_off_and_its_late_reply_is_kept(store_world: StoreWorld) -> None:
    store_world.task("t-1")
    store_world.task("ended")
    store_world.end(store_world.claim(task_id="ended"), Complete("done"), a=1)
    claim = store_world.claim()
    store_world.decide(claim)
    assert store_world.store.restored_by_hand(who="ann", why="a snapshot") == 1
    reply = Settlement(0, DelegationState.SUCCEEDED, reply={"a": 1})
    with pytest.raises(LeaseLost):
        store_world.store.commit(claim.lease, StepCommit(Complete("done"), settlements=(reply,)))
    assert store_world.store.settle_late("key-1", 1, reply)
    again = store_world.claim()
    assert again.task.doubted_at is not None
    assert again.task.lost_leases == 0
    assert again.delegations[0].reply == {"a": 1}
    assert store_world.store.task("ended").doubted_at is None


def test_what_had_ended_is_doubted_when_a_person_opens_it_again(store_world: StoreWorld) -> None:
    for task_id in ("before", "after"):
        store_world.task(task_id)
    store_world.store.cancel("before", who="ann", why="")
    store_world.store.restored_by_hand(who="ann", why="a snapshot")
    store_world.store.trust("after", who="ann", why="nothing was lost")
    store_world.store.cancel("after", who="ann", why="")
    for task_id in ("before", "after"):
        store_world.store.restart(task_id, {}, who="ann", why="")
    assert store_world.store.task("before").doubted_at is not None
    assert store_world.store.task("after").doubted_at is None
    store_world.store.trust("before", who="ann", why="nothing was lost")
    store_world.store.cancel("before", who="ann", why="")
    store_world.store.restart("before", {}, who="ann", why="")
    assert store_world.store.task("before").doubted_at is None


def test_trust_is_audited_found_by_filter_and_refused_where_nothing_is_doubted(store_world: StoreWorld) -> None:
    for task_id in ("t-1", "t-2"):
        store_world.task(task_id)
    with pytest.raises(NotAllowed):
        store_world.store.trust("t-1", who="ann", why="")
    store_world.store.restored_by_hand(who="ann", why="a snapshot")
    assert store_world.store.trust("t-1", who="bob", why="asked the bank") is None
    assert [one.task_id for one in store_world.store.find_tasks(TaskFilter(doubted=True), 10)] == ["t-2"]
    (entry,) = store_world.store.audit_of("t-1")
    assert (entry.who, entry.what, entry.why) == ("bob", "trust", "asked the bank")
    restore = store_world.store.restore_of("t-2")
    assert restore is not None
    assert (restore.why, restore.who, restore.tasks) == ("a snapshot", "ann", 2)
    assert store_world.store.restore_of("t-1") is None
    assert store_world.store.doubts().doubted == 1


# -- records


def received(offset: int, task_id: str) -> Received:
    record = Record("tasks", 0, offset, 1_700_000_000_000 + offset, b"key", task_id.encode())
    return Received(record, TaskMessage(task_id, "Do it", ("a",)))


def accept(world: StoreWorld, offset: int, confirmed: int | None) -> None:
    known = None if confirmed is None else {("tasks", 0): confirmed}
    world.store.accept([received(offset, f"t-{offset}")], due_in=STALL, confirmed=known)


def next_offset(world: StoreWorld) -> int | None:
    return world.store.next_offsets([("tasks", 0)]).get(("tasks", 0))


@pytest.mark.parametrize(
    "forget",
    ["UPDATE offsets SET next_offset = 3", "DELETE FROM offsets"],
)
def test_records_behind_a_forgotten_offset_are_not_taken_in(store_world: StoreWorld, forget: str) -> None:
    accept(store_world, 4, None)
    accept(store_world, 5, 5)
    store_world.sql(forget)
    with pytest.raises(OffsetsForgotten) as caught:
        accept(store_world, 6, 6)
    assert caught.value.places == {("tasks", 0)}
    assert store_world.sql("SELECT count(*) FROM tasks")[0].count == 2


def test_a_bridge_that_was_cut_off_before_its_first_record_sets_nothing_back(store_world: StoreWorld) -> None:
    """Frozen after it read them, it takes its records in when another has gone on; it would look like a restore."""
    accept(store_world, 40, None)
    accept(store_world, 4, None)
    assert next_offset(store_world) == 41
    # Together with records of a partition of which nothing is stored yet.
    record = Record("tasks", 1, 7, 1_700_000_000_007, b"key", b"other")
    other = Received(record, TaskMessage("other", "Do it", ("a",)))
    store_world.store.accept([received(5, "t-5"), other], due_in=STALL, confirmed={})
    assert next_offset(store_world) == 41
    assert store_world.store.next_offsets([("tasks", 1)]) == {("tasks", 1): 8}


def test_tasks_of_records_that_were_taken_in_before_are_doubted(store_world: StoreWorld) -> None:
    store_world.task("old")
    before = seen(store_world)
    place = ("tasks", 0)
    assert store_world.store.records_forgotten({place: 12}, [before], who="bridge")
    assert store_world.store.task("old").doubted_at is not None
    # Another bridge, or the same again: noted already since then.
    assert store_world.store.records_forgotten({place: 12}, [before], who="bridge")
    assert len(restores(store_world)) == 1
    for offset in (11, 12):
        accept(store_world, offset, None)
    assert store_world.store.task("t-11").doubted_at == store_world.store.task("old").doubted_at
    assert store_world.store.task("t-12").doubted_at is None
    # All of it is read by now.
    assert not store_world.store.records_forgotten({place: 12}, [seen(store_world)], who="bridge")
    # Read in the present incarnation, and forgotten once more.
    store_world.sql("UPDATE offsets SET next_offset = 2")
    assert store_world.store.records_forgotten({place: 13}, [seen(store_world)], who="bridge")
    assert len(restores(store_world)) == 2
    store_world.store.topics_made_anew(["tasks"])
    accept(store_world, 5, 2)
    assert store_world.store.task("t-5").doubted_at is None


def test_without_a_mark_in_kafka_a_restore_that_is_noted_is_not_noted_twice(store_world: StoreWorld) -> None:
    accept(store_world, 9, None)
    store_world.store.restored_by_hand(who="ann", why="a snapshot")
    assert store_world.store.records_forgotten({("tasks", 0): 20, ("tasks", 1): 5}, [None], who="bridge")
    assert len(restores(store_world)) == 1
    accept(store_world, 10, 10)
    assert store_world.store.task("t-10").doubted_at is not None
    assert store_world.store.records_forgotten({("tasks", 0): 20}, [None], who="bridge")
    assert len(restores(store_world)) == 2, "it was well since, and is behind again"


def read_before(world: StoreWorld) -> list[int]:
    return [row.below for row in world.sql("SELECT below FROM read_before WHERE topic = 'tasks' ORDER BY partition")]


def test_what_is_read_again_wholly_is_forgotten_so_that_a_topic_made_anew_is_not_doubted(
    store_world: StoreWorld,
) -> None:
    store_world.store.records_forgotten({("tasks", 0): 12, ("tasks", 1): 5}, [None], who="bridge")
    assert read_before(store_world) == [12, 5]
    accept(store_world, 10, 0)
    assert read_before(store_world) == [12, 5]
    accept(store_world, 11, 11)
    assert read_before(store_world) == [5], "of the other partition nothing has been read"
    assert store_world.store.task("t-11").doubted_at is not None
    # The topic begins at 0 again, and the broker tells no ids.
    accept(store_world, 3, 12)
    assert store_world.store.task("t-3").doubted_at is None


def test_a_batch_costs_no_more_statements_unless_something_is_read_again(store_world: StoreWorld) -> None:
    statements: list[str] = []
    store_world.task("first")
    event.listen(store_world.store.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    accept(store_world, 50, None)
    assert statements
    assert not any("DELETE FROM read_before" in one for one in statements)


def test_a_partition_forgotten_wholly_is_begun_at_its_beginning(store_world: StoreWorld) -> None:
    assert store_world.store.records_forgotten({("tasks", 0): 20}, [None], who="bridge")
    assert next_offset(store_world) == 0
    # The next bridge finds it behind the group still, since the first died before it could tell it.
    assert store_world.store.records_forgotten({("tasks", 0): 20}, [None], who="bridge")
    assert len(restores(store_world)) == 1


def test_offsets_set_back_by_a_person_are_no_sign_of_an_older_state(store_world: StoreWorld) -> None:
    accept(store_world, 9, None)
    store_world.store.set_offsets([("tasks", 0, 3)], who="ann", why="again")
    with pytest.raises(OffsetsForgotten):  # a bridge that runs on asks where to begin
        accept(store_world, 10, 10)
    assert not store_world.store.records_forgotten({("tasks", 0): 10}, [seen(store_world)], who="bridge")
    assert restores(store_world) == []
    accept(store_world, 3, 3)
    assert store_world.store.task("t-3").doubted_at is None
    assert store_world.store.records_forgotten({("tasks", 0): 10}, [seen(store_world)], who="bridge")


def test_a_bridge_that_was_cut_off_does_not_set_back_what_another_has_read(store_world: StoreWorld) -> None:
    accept(store_world, 9, None)
    accept(store_world, 10, 10)
    accept(store_world, 20, 11)
    accept(store_world, 11, 11)  # late: it knows of nothing after 11
    assert next_offset(store_world) == 21
    accept(store_world, 0, 21)  # the topic was made anew, and its reader knows it
    assert next_offset(store_world) == 1


def test_a_look_is_made_now_and_then_and_not_with_every_transaction(
    store_world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    look: Callable[..., None] = store_world.store.server_watch.look

    def counted(*arguments: object) -> None:
        looks.append(arguments)
        look(*arguments)

    store_world.store.doubts()
    monkeypatch.setattr(store_world.store.server_watch, "look", counted)
    for every, expected in ((3600.0, 0), (0.0, 10)):
        looks.clear()
        monkeypatch.setattr("orchestrator.store.server_watch.LOOK_EVERY", every)
        for _ in range(5):
            store_world.store.doubts()
            store_world.store.claim("none", 1, "w", timedelta(seconds=1))
        assert len(looks) == expected


def test_which_offers_are_kept_is_forgotten_where_an_older_state_is_noticed_on_the_same_connection(
    store_world: StoreWorld,
) -> None:
    """As behind a pooler, or where another process finds it by its offsets."""
    store_world.store.doubts()
    store_world.store.kept_offers.add("an offer")
    store_world.store.compare(None)
    assert store_world.store.kept_offers == {"an offer"}
    with closing(another(store_world)) as other:
        other.restored_by_hand(who="ann", why="a snapshot")
    store_world.store.compare(None)
    assert store_world.store.kept_offers == set()
