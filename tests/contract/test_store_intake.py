"""Accepting records into PostgreSQL: once each, in one commit, whatever comes twice, early, late or crooked."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.journal import Complete, NotClaimed
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.domain.task import TaskState
from orchestrator.flow.ports import Intake, Invalid, Received
from tests.support.store_world import AT_ONCE, STALL, StoreWorld


def test_a_new_task_is_a_row_a_context_an_update_and_a_doorbell(store_world: StoreWorld) -> None:
    taken = store_world.task("t-1", "a", x=1)
    assert taken.outcome is Intake.ACCEPTED
    assert taken.dispatch is not None
    assert (taken.dispatch.task_id, taken.dispatch.step, taken.dispatch.priority) == ("t-1", 1, 4)
    row = store_world.store.context_row("t-1")
    assert set(row) == {"id", "task_id", "context", "created_at", "updated_at"}
    assert row["context"] == {"required_fields": ["a"], "current_state": "received", "collected_data": {"x": 1}}
    (update,) = store_world.store.updates("t-1")
    assert (update.body["state"], update.body["missing_fields"]) == ("received", ["a"])
    assert store_world.store.next_offsets([("tasks", 0), ("tasks", 1)]) == {("tasks", 0): 2}


def test_the_same_record_is_taken_once_and_a_new_one_at_its_offset_too(store_world: StoreWorld) -> None:
    received = Received(store_world.record(), TaskMessage("t-1", "Do it"))
    assert store_world.store.accept([received], due_in=STALL)[0].outcome is Intake.ACCEPTED
    assert store_world.store.accept([received], due_in=STALL)[0].outcome is Intake.DUPLICATE
    # The topic was made anew: the same offset holds another record.
    store_world.offset = 0
    anew = Received(store_world.record(b"other"), TaskMessage("t-2", "Do it"))
    assert store_world.store.accept([anew], due_in=STALL)[0].outcome is Intake.ACCEPTED


def test_a_known_message_id_is_a_duplicate(store_world: StoreWorld) -> None:
    first, second = store_world.accept(
        TaskMessage("t-1", "Do it", message_id="m-1"), TaskMessage("t-2", "Do it", message_id="m-1")
    )
    assert (first.outcome, second.outcome) == (Intake.ACCEPTED, Intake.DUPLICATE)
    assert [task.task_id for task in store_world.store.tasks()] == ["t-1"]


def test_a_repeated_task_is_a_duplicate_and_a_contradicting_one_a_dead_letter(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", x=1)
    same, other = store_world.accept(
        TaskMessage("t-1", "Do it", ("a",), {"x": 1}), TaskMessage("t-1", "Do it", ("a",), {"x": 2})
    )
    assert (same.outcome, other.outcome) == (Intake.DUPLICATE, Intake.CONFLICT)
    (letter,) = store_world.store.dead_letters()
    assert (letter.reason, letter.task_id) == ("task_conflict", "t-1")
    assert letter.record is not None
    assert letter.record.value == b"{}"
    assert store_world.store.context("t-1").collected_data == {"x": 1}


def test_two_tasks_of_one_id_in_one_batch(store_world: StoreWorld) -> None:
    outcomes = [
        taken.outcome
        for taken in store_world.accept(
            TaskMessage("t-1", "first"),
            TaskMessage("t-2", "x"),
            TaskMessage("t-1", "second"),
            TaskMessage("t-1", "first"),
        )
    ]
    assert outcomes == [Intake.ACCEPTED, Intake.ACCEPTED, Intake.CONFLICT, Intake.DUPLICATE]
    assert store_world.store.task("t-1").description == "first"


def test_batches_accepted_at_the_same_time_accept_each_task_once(store_world: StoreWorld) -> None:
    """Two bridges read the same tasks (one was thought dead), in opposite orders."""
    tasks = [TaskMessage(f"t-{number}", "Do it") for number in range(100)]
    batches = [[Received(store_world.record(), task) for task in order] for order in (tasks, tasks[::-1])] * 2
    outcomes: list[Intake] = []

    def bridge(batch: list[Received]) -> None:
        outcomes.extend(taken.outcome for taken in store_world.store.accept(batch, due_in=STALL))

    threads = [threading.Thread(target=bridge, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Intake.ACCEPTED) == 100
    assert outcomes.count(Intake.DUPLICATE) == 300


def test_an_event_finds_its_task_running_ended_or_not_there_yet(store_world: StoreWorld) -> None:
    assert store_world.event("t-2", b=1).outcome is Intake.EVENT_EARLY
    store_world.task("t-1")
    assert store_world.event("t-1", b=1).outcome is Intake.EVENT_PENDING
    claim = store_world.claim()
    store_world.end(claim, Complete("done"), a=1)
    late = store_world.event("t-1", c=1)
    assert (late.outcome, late.reason) == (Intake.EVENT_LATE, "its task is completed")
    assert "c" not in store_world.store.context("t-1").collected_data


def test_an_early_event_is_there_when_its_task_begins(store_world: StoreWorld) -> None:
    store_world.event("t-1", "approved", b=1)
    store_world.task("t-1", "b")
    (event,) = store_world.claim().events
    assert (event.event_type, event.event_data) == ("approved", {"b": 1})


def test_an_event_and_its_task_in_one_batch(store_world: StoreWorld) -> None:
    store_world.accept(EventMessage("t-1", {"b": 1}), TaskMessage("t-1", "Do it", ("b",)))
    assert len(store_world.claim().events) == 1


def test_an_early_event_whose_task_does_not_come_becomes_a_dead_letter(store_world: StoreWorld) -> None:
    store_world.event("t-1", b=1)
    assert store_world.store.expire_events(10, timedelta(hours=1)) == 0
    store_world.sql("UPDATE inbox SET received_at = now() - interval '2 hours'")
    assert store_world.store.expire_events(10, timedelta(hours=1)) == 1
    assert store_world.store.expire_events(10, timedelta(hours=1)) == 0
    (letter,) = store_world.store.dead_letters()
    assert letter.reason == "unknown_task"
    assert letter.record is not None
    assert letter.record.key == b"key"


def test_what_is_no_message_is_set_aside_with_its_bytes(store_world: StoreWorld) -> None:
    good, bad = store_world.accept(TaskMessage("t-1", "Do it"), Invalid("not_json", "Expecting value"))
    assert (good.outcome, bad.outcome) == (Intake.ACCEPTED, Intake.INVALID)
    (letter,) = store_world.store.dead_letters()
    assert (letter.reason, letter.detail) == ("not_json", "Expecting value")
    assert store_world.store.dead_letter(letter.id) == letter
    published = [row for row in store_world.store.unpublished(10) if row.kind == "dead_letter"]
    assert published[0].body["record"]["value_base64"] == "e30="


def test_one_value_that_postgresql_refuses_does_not_take_its_batch_with_it(store_world: StoreWorld) -> None:
    """The decoder keeps such values out; should one come through, it alone is set aside."""
    nul: dict[str, Any] = {"x": "a\x00b"}
    outcomes = [
        taken.outcome
        for taken in store_world.accept(
            TaskMessage("t-1", "Do it"), TaskMessage("t-2", "Do it", (), nul), TaskMessage("t-3", "Do it")
        )
    ]
    assert outcomes == [Intake.ACCEPTED, Intake.INVALID, Intake.ACCEPTED]
    assert [letter.reason for letter in store_world.store.dead_letters()] == ["not_storable"]


def test_a_task_without_an_id_echoes_what_its_producer_knows(store_world: StoreWorld) -> None:
    store_world.accept(TaskMessage("made-up", "Do it", task_id_given=False, message_id="m-9"))
    assert store_world.store.updates("made-up")[0].body["source"] == {"key": "key", "headers": {}, "message_id": "m-9"}


def test_a_task_that_nobody_rang_is_due_at_once(store_world: StoreWorld) -> None:
    store_world.task("t-2")
    store_world.task("t-1", due_in=AT_ONCE)
    assert store_world.store.undispatched() == 1
    assert [bell.task_id for bell in store_world.store.ring_due(10, STALL)] == ["t-1"]
    assert store_world.store.task("t-2").state is TaskState.RECEIVED


def test_urgent_tasks_are_rung_first(store_world: StoreWorld) -> None:
    store_world.accept(
        *(TaskMessage(f"p-{priority}", "Do it", priority=priority) for priority in (1, 9, 4)), due_in=AT_ONCE
    )
    assert [bell.task_id for bell in store_world.store.ring_due(10, STALL)] == ["p-9", "p-4", "p-1"]


def test_a_task_that_begins_later_is_taken_in_at_once_and_rung_then(store_world: StoreWorld) -> None:
    soon = datetime.now(UTC) + timedelta(hours=3)
    (taken,) = store_world.accept(TaskMessage("t-1", "Do it", ("a",), not_before=soon))
    assert (taken.outcome, taken.dispatch) == (Intake.ACCEPTED, None)
    assert store_world.store.task("t-1").not_before == soon
    assert store_world.refused() is NotClaimed.NOT_DUE, "whoever rings too early"
    assert [row.due_at for row in store_world.sql("SELECT due_at FROM tasks")] == [soon]
    assert store_world.store.undispatched() == 0
    store_world.event("t-1", "told", b=1)
    assert store_world.refused() is NotClaimed.NOT_DUE, "an event does not begin it"
    store_world.sql("UPDATE tasks SET due_at = now(), not_before = now()")
    assert store_world.claim().events[0].event_data == {"b": 1}


def test_a_task_whose_time_to_begin_is_past_begins_at_once(store_world: StoreWorld) -> None:
    past = datetime.now(UTC) - timedelta(hours=3)
    (taken,) = store_world.accept(TaskMessage("t-1", "Do it", ("a",), not_before=past))
    assert taken.dispatch is not None
    store_world.claim()


def test_a_repeated_task_with_another_time_to_begin_is_a_conflict(store_world: StoreWorld) -> None:
    when = datetime.now(UTC) + timedelta(hours=3)
    first, same, other = store_world.accept(
        TaskMessage("t-1", "Do it", ("a",), not_before=when),
        TaskMessage("t-1", "Do it", ("a",), not_before=when),
        TaskMessage("t-1", "Do it", ("a",)),
    )
    assert [one.outcome for one in (first, same, other)] == [Intake.ACCEPTED, Intake.DUPLICATE, Intake.CONFLICT]
