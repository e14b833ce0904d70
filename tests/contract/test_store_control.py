"""A person's hand, versions of contexts, and the outbox, in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Complete, Fail, NextStep, Settlement, StepCommit, StepState, Wait
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import DeadLetterNotFound, NotAllowed, TaskNotFound
from orchestrator.flow.ports import Invalid
from tests.support.store_world import StoreWorld, change

WHO: dict[str, Any] = {"who": "ann", "why": "because"}


def failed_task(world: StoreWorld) -> None:
    world.task("t-1", "a", "b")
    world.end(world.claim(), NextStep(), a=1)
    claim = world.claim(2)
    world.decide(claim)
    failed = Settlement(0, DelegationState.FAILED, error_code="agent_down", error="refused")
    world.store.commit(claim.lease, StepCommit(Fail("agent_down", "score is away"), settlements=(failed,)))


def audited(world: StoreWorld) -> list[tuple[str, str, str]]:
    return [(row.who, row.what, row.why) for row in world.sql("SELECT who, what, why FROM audit ORDER BY id")]


def test_a_retry_keeps_number_decision_and_key(store_world: StoreWorld) -> None:
    failed_task(store_world)
    doorbell = store_world.store.retry("t-1", **WHO)
    assert doorbell.step == 2
    claim = store_world.claim(2)
    assert claim.step is not None
    assert claim.step.decision is not None
    (delegation,) = claim.delegations
    assert (delegation.state, delegation.key) == (DelegationState.PENDING, "key-1")
    assert audited(store_world) == [("ann", "retry", "because")]


def test_a_rerun_opens_a_new_number_from_the_earlier_context(store_world: StoreWorld) -> None:
    failed_task(store_world)
    doorbell = store_world.store.rerun("t-1", 1, {"x": 9}, **WHO)
    assert doorbell.step == 3
    context = store_world.store.context("t-1")
    assert context.collected_data == {"x": 9}
    assert context.origins["x"].kind == "person"
    assert [entry.step.superseded for entry in store_world.store.history("t-1")] == [True, True]
    assert store_world.claim(3).step is None


def test_a_retry_of_an_agent_that_answered_rubbish_is_no_licence_to_call_it_again(store_world: StoreWorld) -> None:
    """It answered, so it may have acted: the flow sends again only to agents that say that this is safe."""
    store_world.task()
    claim = store_world.claim()
    store_world.decide(claim)
    failed = Settlement(0, DelegationState.FAILED, error_code="reply_invalid", error="not JSON")
    store_world.store.commit(claim.lease, StepCommit(Fail("reply_invalid", "not JSON"), settlements=(failed,)))
    store_world.store.retry("t-1", **WHO)
    assert store_world.claim().delegations[0].state is DelegationState.UNKNOWN


def test_a_rerun_keeps_what_events_told(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b")
    store_world.event("t-1", approved=True)
    store_world.decide(first := store_world.claim())
    changes = (change("a", 1, 1), Change("approved", True, Origin("event", "note", datetime.now(UTC))))
    store_world.store.commit(
        first.lease,
        StepCommit(
            NextStep(),
            context=first.context.apply(changes),
            changes=changes,
            merged_events=tuple(event.inbox_id for event in first.events),
        ),
    )
    store_world.store.rerun("t-1", 1, {}, **WHO)
    assert store_world.store.context("t-1").collected_data == {"approved": True}


def test_what_does_not_fit_the_state_is_refused(store_world: StoreWorld) -> None:
    store_world.task()
    with pytest.raises(NotAllowed, match="only a failed task"):
        store_world.store.retry("t-1", **WHO)
    claim = store_world.claim()
    with pytest.raises(NotAllowed, match="a worker is at step 1"):
        store_world.store.rerun("t-1", 1, {}, **WHO)
    store_world.end(claim, Complete("done"), a=1)
    with pytest.raises(NotAllowed, match="already ended"):
        store_world.store.cancel("t-1", **WHO)
    with pytest.raises(NotAllowed, match="has no step 7"):
        store_world.store.rerun("t-1", 7, {}, **WHO)
    for act in (store_world.store.retry, store_world.store.cancel):
        with pytest.raises(TaskNotFound):
            act("nobody", **WHO)


def test_a_waiting_task_is_canceled_at_once_and_a_running_one_at_its_boundary(store_world: StoreWorld) -> None:
    store_world.task("t-1")
    assert store_world.store.cancel("t-1", **WHO).state is TaskState.CANCELED
    store_world.task("t-2")
    claim = store_world.claim(task_id="t-2")
    assert store_world.store.cancel("t-2", **WHO).state is TaskState.PROCESSING
    assert store_world.end(claim, NextStep(), a=1).state is TaskState.CANCELED


def test_a_retry_makes_a_task_that_waits_for_one_due(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.end(store_world.claim(), Wait(WaitsFor.RETRY, None))
    assert store_world.store.retry("t-1", **WHO).step == 1
    assert store_world.claim().task.state is TaskState.PROCESSING


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "größe/~"]),
            st.none() | st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
            max_size=3,
        ),
        max_size=6,
    )
)
def test_every_former_version_can_be_shown(store_world: StoreWorld, turns: list[dict[str, Any]]) -> None:
    task_id = f"t-{store_world.offset}"
    store_world.task(task_id, "never")
    expected: list[Context] = [store_world.store.context(task_id)]
    for number, values in enumerate(turns, start=1):
        claim = store_world.claim(number, task_id)
        after = claim.context.apply([change(name, value, number) for name, value in values.items()])
        store_world.end(claim, NextStep(), **values)
        if after.version != expected[-1].version:
            expected.append(after)
    for version, context in enumerate(expected, start=1):
        assert store_world.store.context(task_id, version).collected_data == context.collected_data
    assert [number for number, _, _ in store_world.store.versions(task_id)] == list(range(1, len(expected) + 1))
    with pytest.raises(NotAllowed):
        store_world.store.context(task_id, len(expected) + 1)


def test_updates_are_published_in_order_by_one(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b")
    store_world.end(store_world.claim(), NextStep(), a=1)
    store_world.end(store_world.claim(2), Complete("done"), b=2)
    with store_world.store.as_publisher() as elected:
        assert elected
        rows = store_world.store.unpublished(10)
        assert [row.body["state"] for row in rows] == ["received", "processing", "completed"]
        assert len({row.body["update_id"] for row in rows}) == 3
        store_world.store.mark_published([rows[0].id])
        assert [row.id for row in store_world.store.unpublished(10)] == [row.id for row in rows[1:]]
    assert [row.body["state"] for row in store_world.store.updates("t-1", rows[0].id)] == ["processing", "completed"]


def test_an_update_of_a_restored_database_is_not_taken_for_one_that_readers_have_seen(store_world: StoreWorld) -> None:
    store_world.task("t-1")
    (seen,) = store_world.store.unpublished(10)
    (again,) = store_world.store.unpublished(10)
    # Set back to before, the table numbers its rows again.
    store_world.sql("DELETE FROM outbox")
    store_world.sql("INSERT INTO outbox (id, kind, task_id, body) VALUES (:id, 'update', 't-2', '{}')", id=seen.id)
    (other,) = store_world.store.unpublished(10)
    assert again.body["update_id"] == seen.body["update_id"] != other.body["update_id"]


def test_a_second_publisher_is_not_elected(store_world: StoreWorld) -> None:
    from orchestrator.store import PostgresStore

    other = PostgresStore(store_world.store.engine)
    with store_world.store.as_publisher() as first, other.as_publisher() as second:
        assert (first, second) == (True, False)
    with other.as_publisher() as third:
        assert third


def test_dead_letters_are_replayed_and_discarded_on_record(store_world: StoreWorld) -> None:
    store_world.accept(Invalid("not_json", "x"), Invalid("empty", "y"))
    newest, oldest = store_world.store.dead_letters()
    assert (newest.reason, oldest.reason) == ("empty", "not_json")
    store_world.store.mark_replayed(oldest.id, **WHO)
    assert store_world.store.dead_letter(oldest.id).replayed_at is not None
    store_world.store.discard(newest.id, **WHO)
    with pytest.raises(DeadLetterNotFound):
        store_world.store.dead_letter(newest.id)
    assert [letter.id for letter in store_world.store.dead_letters(reason="not_json")] == [oldest.id]
    assert [what for _, what, _ in audited(store_world)] == ["dead-letter replay", "dead-letter discard"]


def test_a_failed_step_says_why(store_world: StoreWorld) -> None:
    failed_task(store_world)
    _, failed = store_world.store.history("t-1")
    assert (failed.step.state, failed.step.error_code) == (StepState.FAILED, "agent_down")
    assert failed.delegations[0].error == "refused"
    assert store_world.store.tasks(state="failed")[0].reason == "score is away"
