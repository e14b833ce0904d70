"""Advancing a task in PostgreSQL: leases, fences, the journal, events against completion, the sweep."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import (
    Cancel,
    Claim,
    Complete,
    Dispatch,
    Fail,
    GoOn,
    NextStep,
    NotClaimed,
    Settlement,
    StepCommit,
    StepState,
    Wait,
)
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost, NewerJournal, SchemaOutOfDate, StoreUnavailable
from orchestrator.store import PostgresStore, make_engine
from tests.support.store_world import AT_ONCE, LEASE, STALL, StoreWorld


def test_a_claim_gives_all_that_a_step_needs(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b", x=1)
    claim = store_world.claim()
    assert claim.task.state is TaskState.PROCESSING
    assert claim.context.collected_data == {"x": 1}
    assert claim.context.missing_fields == ("a", "b")
    assert (claim.step, claim.delegations, claim.events) == (None, (), ())
    assert store_world.store.context_row("t-1")["context"]["current_state"] == "processing"


def test_only_one_holds_a_task(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.claim()
    assert store_world.refused() is NotClaimed.HELD
    assert store_world.refused(step=2) is NotClaimed.NOT_NEXT
    assert store_world.refused(task_id="nobody") is NotClaimed.NO_TASK


def test_of_many_who_claim_at_once_one_gets_it(store_world: StoreWorld) -> None:
    store_world.task()
    results: list[Claim | NotClaimed] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(store_world.store.claim("t-1", 1, f"w{n}", LEASE)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([result for result in results if isinstance(result, Claim)]) == 1


def test_an_overtaken_worker_writes_nothing(store_world: StoreWorld) -> None:
    store_world.task()
    first = store_world.claim()
    store_world.decide(first)
    store_world.expire()
    second = store_world.claim(owner="w2")
    assert second.lease.epoch == first.lease.epoch + 1
    assert second.step is not None
    assert second.step.decision is not None
    assert second.delegations[0].state is DelegationState.IN_FLIGHT
    with pytest.raises(LeaseLost):
        store_world.end(first, Complete("mine"), a=1)
    with pytest.raises(LeaseLost):
        store_world.store.commit(first.lease, StepCommit(GoOn()))
    assert store_world.store.context("t-1").collected_data == {}
    assert store_world.store.renew([first.lease, second.lease], LEASE) == [first.lease]
    assert store_world.end(second, Complete("done"), a=2).state is TaskState.COMPLETED


def test_leases_lost_without_a_commit_are_counted_and_a_commit_forgets_them(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.claim()
    for lost in (1, 2):
        store_world.expire()
        assert store_world.claim().task.lost_leases == lost
    store_world.expire()
    claim = store_world.claim()
    store_world.decide(claim)
    store_world.expire()
    assert store_world.claim().task.lost_leases == 1


def test_what_a_newer_version_wrote_is_left_to_it_and_counts_as_no_lost_lease(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.decide(store_world.claim())
    store_world.sql("""UPDATE steps SET decision = jsonb_set(decision, '{kind}', '"teleport"')""")
    for _ in range(3):
        store_world.expire()
        with pytest.raises(NewerJournal):
            store_world.store.claim("t-1", 1, "w2", LEASE)
    store_world.sql("""UPDATE steps SET decision = jsonb_set(decision, '{kind}', '"call"')""")
    store_world.expire()
    assert store_world.claim().task.lost_leases == 1, "that of the first worker"


def test_what_cannot_be_read_at_all_counts_as_no_lost_lease_either(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.sql("""UPDATE task_contexts SET origins = '{"a": {"at": "2030-01-01", "of_tomorrow": 1}}'""")
    for _ in range(2):
        with pytest.raises(TypeError):
            store_world.store.claim("t-1", 1, "w2", LEASE)
    store_world.sql("UPDATE task_contexts SET origins = '{}'")
    assert store_world.claim().task.lost_leases == 0


def test_a_decision_is_recorded_once(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    store_world.decide(claim)
    with pytest.raises(AssertionError, match="already has a decision"):
        store_world.decide(claim, agent="another", key="key-2")


def test_a_commit_whose_answer_was_lost_may_be_repeated(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    first = store_world.decide(claim)
    again = store_world.decide(claim)
    assert [replace(one, sent_at=None) for one in again.delegations or ()] == [
        replace(one, sent_at=None) for one in first.delegations or ()
    ]
    assert [one.attempts for one in again.delegations or ()] == [1]
    store_world.end(claim, NextStep(), b=1)
    with pytest.raises(LeaseLost):
        store_world.end(claim, NextStep(), b=1)
    assert store_world.store.context("t-1").version == 2


def test_an_epoch_that_postgresql_forgot_and_gave_again_is_fenced(store_world: StoreWorld) -> None:
    """A claim need not wait for the disk: a crash of PostgreSQL may take it back, and the next has its epoch."""
    store_world.task()
    forgotten = store_world.claim()
    store_world.sql("UPDATE tasks SET epoch = 0, lease_owner = NULL, lease_until = NULL, state = 'received'")
    second = store_world.claim()
    assert second.lease.epoch == forgotten.lease.epoch
    with pytest.raises(LeaseLost):
        store_world.decide(forgotten)
    assert store_world.store.renew([forgotten.lease, second.lease], LEASE) == [forgotten.lease]
    store_world.decide(second)


def test_a_finished_step_is_journaled_with_its_reply(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b")
    claim = store_world.claim()
    store_world.decide(claim)
    settled = StepCommit(NextStep(), settlements=(Settlement(0, DelegationState.SUCCEEDED, {"a": 5}),))
    committed = store_world.store.commit(claim.lease, settled)
    assert (committed.state, committed.next_step) == (TaskState.PROCESSING, 2)
    (entry,) = store_world.store.history("t-1")
    assert entry.step.state is StepState.FINISHED
    assert entry.delegations[0].reply == {"a": 5}
    assert entry.delegations[0].attempts == 1
    assert store_world.refused() is NotClaimed.NOT_NEXT


def test_a_late_reply_settles_its_own_attempt_and_no_other(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    store_world.decide(claim)
    reply = Settlement(0, DelegationState.SUCCEEDED, {"a": 5})
    assert not store_world.store.settle_late("key-1", 2, reply)
    assert store_world.store.settle_late("key-1", 1, reply)
    assert not store_world.store.settle_late("key-1", 1, reply)
    store_world.expire()
    assert store_world.claim().delegations[0].reply == {"a": 5}


def test_completing_is_refused_while_an_event_is_unmerged(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    store_world.event(note="late")
    refused = store_world.end(claim, Complete("done"), a=1)
    assert refused.refused_for_events
    assert store_world.store.task("t-1").state is TaskState.PROCESSING
    assert store_world.store.context("t-1").collected_data == {}
    merged = tuple(event.inbox_id for event in refused.late_events)
    done = store_world.store.commit(claim.lease, StepCommit(Complete("done"), merged_events=merged))
    assert done.state is TaskState.COMPLETED


def test_a_wait_frees_the_task_until_it_is_due(store_world: StoreWorld) -> None:
    store_world.task()
    due_at = datetime.now(UTC) + timedelta(hours=1)
    store_world.end(store_world.claim(), Wait(WaitsFor.RETRY, due_at, reason_code="agent_down", reason="away"))
    task = store_world.store.task("t-1")
    assert (task.state, task.waits_for, task.reason_code) == (TaskState.WAITING, WaitsFor.RETRY, "agent_down")
    assert store_world.refused() is NotClaimed.NOT_DUE
    assert store_world.store.ring_due(10, STALL) == []
    store_world.expire()
    assert [bell.task_id for bell in store_world.store.ring_due(10, STALL)] == ["t-1"]
    assert store_world.claim().task.state is TaskState.PROCESSING


def test_an_event_that_came_while_the_wait_was_decided_ends_it_at_once(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    store_world.event(event_type="approved", b=1)
    store_world.end(claim, Wait(WaitsFor.EVENT, None, {"event_type": "approved"}, same_step=False))
    assert [bell.step for bell in store_world.store.ring_due(10, STALL)] == [2]
    assert [event.event_type for event in store_world.claim(2).events] == ["approved"]


def test_an_event_wakes_a_waiting_task(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.end(store_world.claim(), Wait(WaitsFor.EVENT, None, same_step=False))
    taken = store_world.event(b=1)
    assert taken.dispatch is not None
    assert taken.dispatch.step == 2
    assert store_world.claim(2).events[0].event_data == {"b": 1}


@pytest.mark.parametrize(
    ("then", "state", "code"),
    [
        (Complete("all there"), TaskState.COMPLETED, None),
        (Fail("agent_down", "score is away"), TaskState.FAILED, "agent_down"),
        (Cancel("not wanted"), TaskState.CANCELED, "canceled"),
    ],
)
def test_an_ended_task_moves_no_more(
    store_world: StoreWorld, then: Complete | Fail | Cancel, state: TaskState, code: str | None
) -> None:
    store_world.task()
    store_world.end(store_world.claim(), then)
    task = store_world.store.task("t-1")
    assert (task.state, task.reason_code) == (state, code)
    assert task.ended_at is not None
    assert store_world.refused() is NotClaimed.ENDED
    store_world.expire()
    assert store_world.store.ring_due(10, STALL) == []
    assert store_world.store.updates("t-1")[-1].body["state"] == state.value


def test_a_step_handed_back_is_due_again(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    assert store_world.store.release([claim.lease], datetime.now(UTC)) == [Dispatch("t-1", 1)]
    assert [bell.task_id for bell in store_world.store.ring_due(10, STALL)] == ["t-1"]
    assert store_world.claim().task.lost_leases == 0


def test_two_sweeps_at_once_ring_each_task_once(store_world: StoreWorld) -> None:
    for number in range(200):
        store_world.task(f"t-{number}", due_in=AT_ONCE)
    rung: list[str] = []

    def sweep() -> None:
        while bells := store_world.store.ring_due(7, STALL):
            rung.extend(bell.task_id for bell in bells)

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rung) == sorted(f"t-{number}" for number in range(200))


def test_while_messages_wait_a_rung_task_is_left_in_peace_and_an_orphan_is_not(store_world: StoreWorld) -> None:
    store_world.task("t-fresh", due_in=AT_ONCE)
    store_world.task("t-rung")
    store_world.end(store_world.claim(task_id="t-rung"), NextStep())
    store_world.task("t-orphan")
    store_world.claim(task_id="t-orphan")
    for task_id in ("t-rung", "t-orphan"):
        store_world.expire(task_id)
    assert {bell.task_id for bell in store_world.store.ring_due(10, STALL, busy=True)} == {"t-fresh", "t-orphan"}
    assert {bell.task_id for bell in store_world.store.ring_due(10, STALL)} == {"t-rung"}


def test_while_nothing_waits_a_lost_doorbell_is_rung_again_after_each_stall_time(store_world: StoreWorld) -> None:
    """A doorbell that several troubles lost one after another is no reason to wait for minutes after the last."""
    store_world.task(due_in=AT_ONCE)

    def seconds_until_due(busy: bool) -> float:
        assert store_world.store.ring_due(10, STALL, busy=busy)
        ((seconds,),) = store_world.sql("SELECT extract(epoch FROM due_at - now()) FROM tasks")
        store_world.sql("UPDATE tasks SET due_at = now() - interval '1 hour'")
        return float(seconds)

    assert [round(seconds_until_due(busy=False)) for _ in range(4)] == [10, 10, 10, 10]
    assert round(seconds_until_due(busy=True)) > 100


def test_a_broker_that_lost_everything_has_what_was_rung_rung_again_and_nothing_else(store_world: StoreWorld) -> None:
    for task_id in ("t-rung", "t-held", "t-waits", "t-ended", "t-woken"):
        store_world.task(task_id)
    held = store_world.claim(task_id="t-held")
    later = datetime.now(UTC) + timedelta(minutes=5)
    store_world.end(store_world.claim(task_id="t-waits"), Wait(WaitsFor.RETRY, later, reason_code="agent_down"))
    store_world.end(store_world.claim(task_id="t-ended"), Complete("done"), a=1)
    store_world.end(store_world.claim(task_id="t-woken"), Wait(WaitsFor.EVENT, None, same_step=False))
    store_world.event("t-woken", b=1)
    assert store_world.store.ring_due(10, STALL) == []
    assert store_world.store.ring_again(STALL) == 2
    # Also where the broker has filled up again meanwhile.
    rung = {bell.task_id for bell in store_world.store.ring_due(10, STALL, busy=True)}
    assert rung == {"t-rung", "t-woken"}
    assert store_world.end(held, Complete("done"), a=1).state is TaskState.COMPLETED


def test_a_database_that_is_away_is_told() -> None:
    away = PostgresStore(make_engine("postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(StoreUnavailable):
        away.claim("t-1", 1, "w", LEASE)
    away.close()


def test_a_database_without_tables_is_told(empty_database_url: str) -> None:
    empty = PostgresStore(make_engine(empty_database_url))
    with pytest.raises(SchemaOutOfDate, match="does not exist") as caught:
        empty.claim("t-1", 1, "w", LEASE)
    assert "orchestrator db upgrade" in (caught.value.hint or "")
    empty.close()
