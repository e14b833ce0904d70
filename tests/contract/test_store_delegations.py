"""Delegations of a parallel step in PostgreSQL: leases of their own, room for the next, and joining exactly once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator import schemas
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import (
    Committed,
    DelegationClaim,
    Dispatch,
    FanOut,
    Join,
    NewDelegation,
    NotClaimed,
    Settled,
    Settlement,
    Start,
    StepCommit,
)
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.progress import progress_of
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.errors import NotAllowed
from tests.support.store_world import AT_ONCE, LEASE, STALL, StoreWorld

ALL_MUST = FanOut(at_once=3, stop_on_failure=True)
PAST = timedelta(seconds=-1)


def fan_out(world: StoreWorld, count: int, how: FanOut = ALL_MUST) -> Committed:
    """Step 1 of t-1 decides on so many calls."""
    world.task()
    calls = tuple(AgentCall("score", {"n": n}) for n in range(count))
    return world.store.commit(
        world.claim().lease,
        StepCommit(
            Join(how, datetime.now(UTC) + timedelta(minutes=5), "waits"),
            decision=Decision(DecisionKind.CALL, "because", Usage("m"), calls=calls),
            delegations=tuple(NewDelegation(n, "score", {"n": n}, "do", f"key-{n}", True) for n in range(count)),
        ),
    )


def send(_task: Task, delegation: Delegation) -> Start:
    return Start(delegation.index, datetime.now(UTC) + LEASE)


def only_look(_task: Task, _delegation: Delegation) -> None:
    return None


def claim(world: StoreWorld, index: int, lease: timedelta = LEASE) -> DelegationClaim:
    found = world.store.claim_delegation(lease, Dispatch("t-1", 1, index=index), f"w{uuid.uuid4()}", send)
    assert isinstance(found, DelegationClaim), found
    return found


def refused(world: StoreWorld, index: int, step: int = 1, task_id: str = "t-1") -> NotClaimed:
    found = world.store.claim_delegation(LEASE, Dispatch(task_id, step, index=index), "w", send)
    assert isinstance(found, NotClaimed), found
    return found


def settle(
    world: StoreWorld,
    taken: DelegationClaim,
    state: DelegationState = DelegationState.SUCCEEDED,
    due_at: datetime | None = None,
    how: FanOut = ALL_MUST,
    parked: bool = False,
) -> Settled:
    index = taken.delegation.index
    settlement = Settlement(index, state, reply={"n": index}, parked=parked)
    return world.store.settle_delegation(taken.lease, taken.delegation.attempts, settlement, due_at, how)


def indexes(doorbells: Sequence[Dispatch]) -> list[int | None]:
    return [doorbell.index for doorbell in doorbells]


def delegation(world: StoreWorld, index: int) -> Delegation:
    return world.store.history("t-1")[0].delegations[index]


def test_leases_of_the_dead_end_and_no_others(store_world: StoreWorld) -> None:
    fan_out(store_world, 3)
    place = "here:"
    for index, owner in enumerate(("here:1:dead", "here:2:alive", "there:1:dead")):
        store_world.store.claim_delegation(LEASE, Dispatch("t-1", 1, index=index), owner, send)
    for task_id, owner in (("t-2", "here:1:dead"), ("t-3", "here:2:alive"), ("t-4", "there:1:dead")):
        store_world.task(task_id)
        store_world.claim(task_id=task_id, owner=owner)
    assert store_world.store.end_leases(place, lambda owner: "dead" in owner, LEASE) == 2
    assert store_world.store.end_leases(place, lambda owner: "dead" in owner, LEASE) == 0
    assert store_world.claim(task_id="t-2").task.lost_leases == 1
    assert [store_world.refused(task_id=task_id) for task_id in ("t-3", "t-4")] == [NotClaimed.HELD] * 2
    assert claim(store_world, 0).delegation.lost_leases == 1
    assert [refused(store_world, index) for index in (1, 2)] == [NotClaimed.HELD] * 2


def test_a_step_with_several_calls_frees_its_worker_and_as_many_as_may_are_due(store_world: StoreWorld) -> None:
    committed = fan_out(store_world, 5)
    assert indexes(committed.doorbells) == [0, 1, 2]
    task = store_world.store.task("t-1")
    assert (task.state, task.waits_for, task.next_step) == (TaskState.WAITING, WaitsFor.AGENT, 1)
    assert store_world.refused() is NotClaimed.NOT_DUE
    assert refused(store_world, 4) is NotClaimed.NOT_DUE
    assert refused(store_world, 9) is NotClaimed.NOT_NEXT
    assert refused(store_world, 0, task_id="nobody") is NotClaimed.NO_TASK


def test_a_claim_marks_it_in_flight_and_counts_the_attempt(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    taken = claim(store_world, 1)
    assert taken.started
    assert (taken.delegation.state, taken.delegation.attempts) == (DelegationState.IN_FLIGHT, 1)
    assert delegation(store_world, 1).state is DelegationState.IN_FLIGHT
    assert refused(store_world, 1) is NotClaimed.HELD
    assert delegation(store_world, 0).state is DelegationState.PENDING


def test_each_that_settles_makes_room_and_the_last_wakes_the_step(store_world: StoreWorld) -> None:
    fan_out(store_world, 5)
    rung = [indexes(settle(store_world, claim(store_world, index)).doorbells) for index in range(5)]
    assert rung == [[3], [4], [], [], [None]]
    assert refused(store_world, 0) is NotClaimed.ENDED
    claimed = store_world.claim()
    assert [one.reply for one in claimed.delegations] == [{"n": n} for n in range(5)]
    assert claimed.step is not None
    assert claimed.step.decision is not None


def test_of_many_that_settle_at_once_exactly_one_wakes_the_step(store_world: StoreWorld) -> None:
    how = FanOut(at_once=16, stop_on_failure=True)
    fan_out(store_world, 16, how)
    taken = [claim(store_world, index) for index in range(16)]
    start, rung = threading.Barrier(16), list[Dispatch]()

    def work(one: DelegationClaim) -> None:
        start.wait(20)
        rung.extend(settle(store_world, one, how=how).doorbells)

    threads = [threading.Thread(target=work, args=(one,)) for one in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rung == [Dispatch("t-1", 1)]


def test_a_failure_lets_what_was_begun_end_and_begins_nothing_more_where_all_must_succeed(
    store_world: StoreWorld,
) -> None:
    fan_out(store_world, 5)
    first, second, third = (claim(store_world, index) for index in range(3))
    assert settle(store_world, first, DelegationState.FAILED).doorbells == ()
    # A retry of one that was begun before goes on.
    settle(store_world, second, DelegationState.PENDING, due_at=datetime.now(UTC) + PAST)
    assert settle(store_world, third).doorbells == ()
    assert indexes(settle(store_world, claim(store_world, 1)).doorbells) == [None]
    states = [one.state.value for one in store_world.store.history("t-1")[0].delegations]
    assert states == ["failed", "succeeded", "succeeded", "pending", "pending"]


def test_where_a_failure_does_not_decide_the_others_are_begun(store_world: StoreWorld) -> None:
    how = FanOut(at_once=1, stop_on_failure=False)
    fan_out(store_world, 2, how)
    assert indexes(settle(store_world, claim(store_world, 0), DelegationState.FAILED, how=how).doorbells) == [1]


def test_one_that_waits_for_a_person_does_not_hold_the_join_up(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    settle(store_world, claim(store_world, 0), DelegationState.UNKNOWN, parked=True)
    assert refused(store_world, 0) is NotClaimed.ENDED
    assert indexes(settle(store_world, claim(store_world, 1)).doorbells) == [None]


def test_a_retry_by_hand_looks_at_a_parked_one_again(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    settle(store_world, claim(store_world, 0), DelegationState.UNKNOWN, parked=True)
    settle(store_world, claim(store_world, 1), DelegationState.PENDING, due_at=datetime.now(UTC) + LEASE)
    assert refused(store_world, 1) is NotClaimed.NOT_DUE
    store_world.store.retry("t-1", who="ann", why="now")
    assert not delegation(store_world, 0).parked
    assert indexes(store_world.store.ring_due_delegations(10, STALL)) == [1]


def test_a_claim_whose_answer_was_lost_is_given_again_and_counted_once(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    place = Dispatch("t-1", 1, index=0)
    first = store_world.store.claim_delegation(LEASE, place, "w:1", send)
    again = store_world.store.claim_delegation(LEASE, place, "w:1", send)
    assert isinstance(first, DelegationClaim)
    assert isinstance(again, DelegationClaim)
    assert (again.lease, again.delegation) == (first.lease, first.delegation)
    assert again.delegation.attempts == 1
    assert store_world.store.claim_delegation(LEASE, place, "w:2", send) is NotClaimed.HELD


def test_a_lease_that_ran_out_is_taken_over_and_what_its_holder_knows_late_counts(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    first = claim(store_world, 0, lease=PAST)
    second = store_world.store.claim_delegation(LEASE, Dispatch("t-1", 1, index=0), "w2", only_look)
    assert isinstance(second, DelegationClaim)
    assert not second.started
    assert (second.lease.epoch, second.delegation.lost_leases) == (first.lease.epoch + 1, 1)
    # Anything less than an outcome comes from the holder only.
    assert not settle(store_world, first, DelegationState.UNKNOWN, parked=True).stored
    assert settle(store_world, first).stored
    assert not settle(store_world, second, DelegationState.UNKNOWN).stored
    assert delegation(store_world, 0).reply == {"n": 0}


def test_a_late_word_of_an_earlier_attempt_is_not_taken_for_the_present_one(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    first = claim(store_world, 0, lease=PAST)
    second = claim(store_world, 0)
    assert second.delegation.attempts == 2
    assert not settle(store_world, first, DelegationState.FAILED).stored
    assert settle(store_world, second).stored


def test_leases_of_delegations_are_renewed_with_those_of_tasks(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    store_world.task("t-2")
    of_task = store_world.claim(task_id="t-2").lease
    kept, lost = claim(store_world, 0), claim(store_world, 1)
    settle(store_world, lost)
    assert store_world.store.renew([of_task, lost.lease, kept.lease], LEASE) == [lost.lease]


def test_the_sweep_rings_for_delegations_that_are_due_and_no_others(store_world: StoreWorld) -> None:
    fan_out(store_world, 5)
    assert store_world.store.ring_due_delegations(10, STALL) == []
    claim(store_world, 0, lease=PAST)
    claim(store_world, 1)
    settle(store_world, claim(store_world, 2), DelegationState.PENDING, due_at=datetime.now(UTC) + PAST)
    assert sorted(indexes(store_world.store.ring_due_delegations(10, STALL)), key=str) == [0, 2]
    assert store_world.store.ring_due_delegations(10, STALL) == []
    assert claim(store_world, 2).delegation.attempts == 2


def test_while_many_messages_wait_a_rung_delegation_is_late_rather_than_lost(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    store_world.sql("UPDATE delegations SET due_at = now() - interval '1 second' WHERE index = 0")
    assert store_world.store.ring_due_delegations(10, STALL, busy=True) == []
    assert indexes(store_world.store.ring_due_delegations(10, STALL)) == [0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("paused = true", NotClaimed.PAUSED),
        ("cancel_requested = true", NotClaimed.PAUSED),
        ("deadline = now() - interval '1 minute'", NotClaimed.LATE),
        ("state = 'canceled'", NotClaimed.ENDED),
        ("next_step = 2", NotClaimed.NOT_NEXT),
    ],
)
def test_nothing_is_begun_for_a_task_that_must_not_go_on(store_world: StoreWorld, change: str, why: NotClaimed) -> None:
    fan_out(store_world, 2)
    store_world.sql(f"UPDATE tasks SET {change}")
    assert refused(store_world, 0) is why


def test_a_reply_after_a_cancel_is_kept_and_moves_nothing(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    taken = claim(store_world, 0)
    store_world.store.cancel("t-1", who="ann", why="enough")
    assert settle(store_world, taken).doorbells == ()
    assert delegation(store_world, 0).state is DelegationState.SUCCEEDED
    assert store_world.store.task("t-1").state is TaskState.CANCELED


def test_a_call_whose_task_ended_and_whose_worker_is_gone_is_unknown(store_world: StoreWorld) -> None:
    fan_out(store_world, 3)
    claim(store_world, 0, lease=PAST)
    claim(store_world, 1)
    store_world.store.cancel("t-1", who="ann", why="enough")
    assert store_world.store.ring_due_delegations(10, STALL) == []
    found = [one.state.value for one in store_world.store.history("t-1")[0].delegations]
    assert found == ["unknown", "in_flight", "pending"]


def test_a_step_that_looks_for_itself_misses_nothing(store_world: StoreWorld) -> None:
    """The last delegation settles while the step is at work: the step's own commit sees it."""
    fan_out(store_world, 2)
    settle(store_world, claim(store_world, 0))
    last = claim(store_world, 1)
    store_world.expire()
    looking = store_world.claim()
    assert settle(store_world, last).doorbells == ()
    join = Join(ALL_MUST, datetime.now(UTC) + timedelta(minutes=5), "waits")
    assert store_world.store.commit(looking.lease, StepCommit(join)).state is TaskState.WAITING
    assert [(bell.task_id, bell.step) for bell in store_world.store.ring_due(10, STALL)] == [("t-1", 1)]


def test_what_two_versions_leave_to_one_another_is_taken_up(store_world: StoreWorld) -> None:
    """A worker before parallel steps had one of several calls in flight when it went: no due time, no lease."""
    store_world.accept(TaskMessage("t-1", "Do it", ("a",)), due_in=AT_ONCE)
    store_world.decide(store_world.claim())
    store_world.sql(
        "INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects, "
        "state) VALUES ('t-1', 1, 1, 'score', '{}', 'do', 'key-2', true, 'pending')"
    )
    store_world.expire()
    join = Join(ALL_MUST, datetime.now(UTC) + timedelta(minutes=5), "waits")
    assert indexes(store_world.store.commit(store_world.claim().lease, StepCommit(join)).doorbells) == [0, 1]


def test_a_worker_that_stops_hands_its_delegations_back_with_their_doorbells(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    held, settled = claim(store_world, 0), claim(store_world, 1)
    settle(store_world, settled)
    doorbells = store_world.store.release([held.lease, settled.lease], datetime.now(UTC))
    assert indexes(doorbells) == [0]
    again = claim(store_world, 0)
    assert (again.delegation.attempts, again.delegation.lost_leases) == (2, 0)


def test_an_update_tells_how_far_the_task_is_as_its_rows_have_it(store_world: StoreWorld) -> None:
    how = FanOut(at_once=4, stop_on_failure=True)
    fan_out(store_world, 4, how)
    for index in range(3):
        settle(store_world, claim(store_world, index), how=how)
    bodies = [row.body for row in store_world.store.updates("t-1")]
    assert [body["progress"]["delegations_settled"] for body in bodies] == [0, 0, 1, 2, 3]
    assert {body["reason"] for body in bodies[1:]} == {"waits"}
    task, history = store_world.store.task("t-1"), store_world.store.history("t-1")
    expected = progress_of(task, store_world.store.context("t-1"), history).to_json()
    told = dict(bodies[-1]["progress"])
    assert datetime.fromisoformat(told.pop("since")) == expected.pop("since")
    assert told == expected
    assert all(schemas.problem("task-update", body) is None for body in bodies)


def test_a_hundred_that_settle_make_ten_updates(store_world: StoreWorld) -> None:
    how = FanOut(at_once=100, stop_on_failure=True)
    fan_out(store_world, 100, how)
    for index in range(99):
        settle(store_world, claim(store_world, index), how=how)
    told = [row.body["progress"]["delegations_settled"] for row in store_world.store.updates("t-1")]
    assert told == [0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_no_rerun_while_calls_are_in_flight(store_world: StoreWorld) -> None:
    """What they do would come on top of what the new course does."""
    fan_out(store_world, 2)
    taken = claim(store_world, 0)
    with pytest.raises(NotAllowed, match="1 calls of task 't-1' are in flight"):
        store_world.store.rerun("t-1", 1, {}, who="ann", why="typo")
    settle(store_world, taken)
    assert store_world.store.rerun("t-1", 1, {}, who="ann", why="typo").step == 2
    assert refused(store_world, 1) is NotClaimed.NOT_NEXT


def test_a_reply_that_comes_while_the_task_is_being_undone_is_kept_and_wakes_the_undo(store_world: StoreWorld) -> None:
    fan_out(store_world, 2)
    taken = claim(store_world, 0)
    store_world.sql("UPDATE tasks SET state = 'compensating', waits_for = NULL, due_at = now() + interval '1 day'")
    assert settle(store_world, taken).doorbells == (Dispatch("t-1", 1),)
    assert delegation(store_world, 0).state is DelegationState.SUCCEEDED
    assert store_world.sql("SELECT woken, due_at <= now() FROM tasks") == [(True, True)]
    assert refused(store_world, 1) is NotClaimed.NOT_NEXT
