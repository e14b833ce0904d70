"""Pure rules of the domain: states, contexts and their history, pointers, ids, retry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.context import Change, Context, Origin, rebuild
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.event_type import EventType, changes_of_event
from orchestrator.domain.ids import header_safe, idempotency_key, task_id_problem, traceparent
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import TaskState, may_move, states_before

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ORIGIN = Origin("agent", "score", NOW, step=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.lists(
    st.builds(Change, st.sampled_from("abcde"), JSON, st.just(ORIGIN), st.booleans()), min_size=1, max_size=4
)


def test_an_ended_task_moves_again_only_by_retry_rerun_or_undo() -> None:
    for ended in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED):
        assert ended.is_terminal
        assert not may_move(ended, TaskState.WAITING)
        assert not may_move(ended, TaskState.RECEIVED)
        assert may_move(ended, TaskState.PROCESSING)


def test_nothing_goes_back_to_received_and_only_work_completes() -> None:
    assert states_before(TaskState.RECEIVED) == frozenset()
    assert states_before(TaskState.COMPLETED) == {TaskState.PROCESSING}


@pytest.mark.parametrize(("value", "missing"), [(None, True), ("", True), (0, False), (False, False), ([], False)])
def test_null_and_empty_text_fill_no_field(value: Any, missing: bool) -> None:
    context = Context(1, ("a",), {"a": value})
    assert (context.missing_fields == ("a",)) is missing
    assert context.is_complete is not missing


def test_a_task_that_requires_nothing_is_never_complete_by_itself() -> None:
    assert not Context(1, (), {"a": 1}).is_complete


@given(st.lists(CHANGES, max_size=6))
def test_any_version_rebuilt_equals_what_was_built_step_by_step(history: list[list[Change]]) -> None:
    context, snapshots = Context(0, ("a", "b")), []
    for changes in history:
        context = context.apply(changes)
        snapshots.append(context)
    for version, snapshot in enumerate(snapshots, start=1):
        assert rebuild(("a", "b"), history[:version]) == snapshot


@given(CHANGES, CHANGES)
def test_going_back_to_a_former_context_restores_exactly_its_data(first: list[Change], second: list[Change]) -> None:
    before = Context(0, ()).apply(first)
    after = before.apply(second)
    restored = after.apply(after.changes_to(before, Origin("person", "ann", NOW)))
    assert restored.collected_data == before.collected_data


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("", {"a": {"b/c": [1, {"d": 2}]}}), ("/a/b~1c/0", 1), ("/a/b~1c/1/d", 2), ("a", {"b/c": [1, {"d": 2}]})],
)
def test_pointers_find_their_value(pointer: str, value: Any) -> None:
    assert resolve({"a": {"b/c": [1, {"d": 2}]}}, pointer) == value


@pytest.mark.parametrize("pointer", ["/x", "/a/9", "/a/-1", "/a/01x", "/a/0/deep"])
def test_a_pointer_to_nothing_is_an_error(pointer: str) -> None:
    with pytest.raises(PointerError, match="nothing at"):
        resolve({"a": [1]}, pointer)


@pytest.mark.parametrize("task_id", ["", "x" * 201, "a\nb", "a\x00", "\ud800"])
def test_unusable_task_ids_are_named(task_id: str) -> None:
    assert task_id_problem(task_id)


@given(st.text(min_size=1, max_size=200))
def test_a_good_task_id_is_ascii_in_headers(task_id: str) -> None:
    if task_id_problem(task_id) is None:
        assert header_safe(task_id).isascii()


def test_a_key_depends_on_all_that_makes_a_delegation_and_on_nothing_else() -> None:
    key = idempotency_key("Ünïcode id", 3, 0, "pay", {"a": 1, "b": 2})
    assert key == idempotency_key("Ünïcode id", 3, 0, "pay", {"b": 2, "a": 1})
    others = {
        idempotency_key("other", 3, 0, "pay", {"a": 1, "b": 2}),
        idempotency_key("Ünïcode id", 4, 0, "pay", {"a": 1, "b": 2}),
        idempotency_key("Ünïcode id", 3, 1, "pay", {"a": 1, "b": 2}),
        idempotency_key("Ünïcode id", 3, 0, "bill", {"a": 1, "b": 2}),
        idempotency_key("Ünïcode id", 3, 0, "pay", {"a": 1, "b": 3}),
    }
    assert key not in others and len(others) == 5
    assert key.isascii()


def test_repeats_of_a_delegation_share_their_trace() -> None:
    assert traceparent("t", "k") == traceparent("t", "k")
    assert traceparent("t", "k")[:35] == traceparent("t", "k2")[:35] != traceparent("u", "k")[:35]


def test_records_with_other_bytes_have_other_digests() -> None:
    base = Record("tasks", 0, 1, 5, b"k", b"v")
    same = Record("tasks", 3, 9, 5, b"k", b"v", (("h", b"x"),))
    assert base.digest == same.digest
    others = [
        Record("tasks", 0, 1, 6, b"k", b"v"),
        Record("tasks", 0, 1, 5, None, b"kv"),
        Record("t", 0, 1, 5, b"kv", None),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_a_tasks_content_digest_ignores_its_envelope() -> None:
    task = TaskMessage("t", "Do it", ("a",), {"x": 1}, message_id="m1")
    assert task.content_digest == TaskMessage("t", "Do it", ("a",), {"x": 1}, message_id="m2").content_digest
    assert task.content_digest != TaskMessage("t", "Do it", ("a",), {"x": 2}).content_digest


@given(attempts=st.integers(1, 50), retry_after=st.none() | st.floats(0, 10_000), jitter=st.floats(0, 1))
def test_a_delay_is_bounded_and_honours_retry_after(attempts: int, retry_after: float | None, jitter: float) -> None:
    delay = RetryPolicy(5, 1.0, 60.0).delay(attempts, retry_after, jitter)
    assert 0.5 <= delay <= 86_400
    assert delay >= min(retry_after or 0, 86_400)
    assert delay <= max(60, retry_after or 0)


def test_a_listed_event_fills_what_its_pointers_find() -> None:
    event_type = EventType("approved", fills={"approver": "/by", "limit": "/terms/limit", "note": "/note"})
    changes = changes_of_event(event_type, "approved", {"by": "ann", "terms": {"limit": 5}, "else": 1}, NOW)
    assert {change.field: change.value for change in changes} == {"approver": "ann", "limit": 5}
    assert {change.origin.kind for change in changes} == {"event"}


def test_an_unlisted_event_merges_as_it_is() -> None:
    changes = changes_of_event(None, "other", {"a": 1, "b": None}, NOW)
    assert {change.field: change.value for change in changes} == {"a": 1, "b": None}


def test_a_decision_survives_its_journal_form() -> None:
    usage = Usage("m", 1, 2)
    decision = Decision(
        DecisionKind.CALL,
        "why",
        usage,
        calls=(AgentCall("a", {"x": [1]}, "do"),),
        records=(FieldRecord("f", "1.0", quote="q", value="v"),),
        details={"k": 1},
    )
    assert Decision.from_json(decision.to_json(), usage) == decision
