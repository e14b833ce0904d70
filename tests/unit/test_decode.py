"""Records become messages, or say why not."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator import schemas
from orchestrator.domain.event_type import EventType
from orchestrator.domain.message import EventMessage, Record, TaskMessage
from orchestrator.flow.ports import Invalid
from tests.support.kafka import decoder, record

ORIGINAL = """
{
    "task_id": "unique-task-id",
    "task_description": "Описание бизнес-задачи",
    "required_fields": ["field1", "field2"],
    "event_data": {
        "key": "value"
    }
}
"""
TASK: dict[str, Any] = {"task_id": "T-1", "task_description": "do it", "required_fields": ["a"]}


def task(item: Record) -> TaskMessage:
    message = decoder().decode(item)
    assert isinstance(message, TaskMessage), message
    return message


def refused(value: Any, *, topic: str = "tasks", max_bytes: int = 100_000, **more: Any) -> Invalid:
    answer = decoder(max_bytes=max_bytes).decode(record(value, topic=topic, **more))
    assert isinstance(answer, Invalid), answer
    return answer


def test_the_original_example_message_works_as_it_stands() -> None:
    assert task(record(ORIGINAL.encode())) == TaskMessage(
        task_id="unique-task-id",
        description="Описание бизнес-задачи",
        required_fields=("field1", "field2"),
        event_data={"key": "value"},
    )


def test_the_least_message_gets_a_uuid_and_the_defaults() -> None:
    message = task(record({"task_description": "do it"}))
    assert not message.task_id_given
    assert str(uuid.UUID(message.task_id)) == message.task_id
    assert message == TaskMessage(message.task_id, "do it", task_id_given=False)


def test_a_record_read_again_gets_the_same_uuid_and_another_record_another() -> None:
    once, again, other = (task(record({"task_description": "do it"}, offset=offset)).task_id for offset in (7, 7, 8))
    assert once == again != other


def test_every_field_of_a_task() -> None:
    given = {
        "schema_version": 1,
        "task_id": "T-1",
        "task_description": "do it",
        "required_fields": ["a", "b", "a"],
        "event_data": {"a": None},
        "message_id": "m-1",
        "priority": 9,
        "tenant": "acme",
        "deadline": "2031-01-31T18:00:00+01:00",
        "budget": {"steps": 3, "own": "kept"},
        "allowed_agents": ["crm"],
        "on_failure": "undo",
        "colour": {"unknown": ["to", "us"]},
    }
    assert task(record(given)) == TaskMessage(
        task_id="T-1",
        description="do it",
        required_fields=("a", "b"),
        event_data={"a": None},
        message_id="m-1",
        priority=9,
        tenant="acme",
        deadline=datetime(2031, 1, 31, 17, tzinfo=UTC),
        budget={"steps": 3, "own": "kept"},
        allowed_agents=("crm",),
        on_failure="undo",
        extra={"colour": {"unknown": ["to", "us"]}},
    )


def test_null_counts_as_absent() -> None:
    optional = schemas.known_fields("task") - {"task_description"}
    message = task(record({"task_description": "do it"} | dict.fromkeys(optional)))
    assert message == TaskMessage(message.task_id, "do it", task_id_given=False)


def test_no_agent_allowed_is_not_all_agents_allowed() -> None:
    assert task(record(TASK | {"allowed_agents": []})).allowed_agents == ()


def test_message_id_may_come_as_a_header_and_the_body_wins() -> None:
    headers = (("other", b"x"), ("message_id", "m-ü".encode()))
    assert task(record(TASK, headers=headers)).message_id == "m-ü"
    assert task(record(TASK | {"message_id": "body"}, headers=headers)).message_id == "body"


def test_a_byte_order_mark_is_passed_over() -> None:
    assert task(record(b"\xef\xbb\xbf" + json.dumps(TASK).encode())).task_id == "T-1"


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (None, "empty", "no value"),
        (b"", "empty", "empty value"),
        (b'{"a":"' + b"x" * 5_000_000 + b'"}', "too_large", "5,000,008"),
        (b'{"task_description": "\xff"}', "not_utf8", "byte 22"),
        ('{"task_description": "x"}'.encode("utf-16"), "not_utf8", "byte 0"),
        (b"hello", "not_json", "line 1, column 1"),
        (b"   ", "not_json", "line 1"),
        (b'{"task_description": "do it"', "not_json", "line 1"),
        (b'{"task_description": "do it"} {}', "not_json", "Extra data"),
        (b'{"task_description": NaN}', "not_json", "NaN"),
        (b'{"task_description": "x", "event_data": {"a": -Infinity}}', "not_json", "-Infinity"),
        (b'{"task_description": "raw \x00"}', "not_json", "control character"),
        (b'{"task_id": "1", "task_id": "2", "task_description": "x"}', "duplicate_keys", '"task_id"'),
        (b'{"task_description": "x", "event_data": {"a": {"b": 1, "b": 1}}}', "duplicate_keys", '"b"'),
        (b"[" * 99_000, "too_deep", "nested"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "too_deep", "deeper than 32"),
        (b'{"n": ' + b"9" * 90_000 + b"}", "number_out_of_range", "90,000 digits"),
        (b'{"n": ' + b"9" * 309 + b"}", "number_out_of_range", "1.8e308"),
        (b'{"n": -1e400}', "number_out_of_range", "-1e400"),
        (b'{"n": 1e-999}', "number_out_of_range", "too small"),
        (b'{"task_description": "x\\u0000"}', "bad_text", "NUL"),
        (b'{"task_description": "x", "event_data": {"k\\u0000": 1}}', "bad_text", "NUL"),
        (b'{"task_description": "x\\ud800"}', "bad_text", "surrogate"),
        (b'{"task_description": "x", "\\udc00": 1}', "bad_text", "surrogate"),
        (b"[1, 2]", "not_an_object", "no object"),
        (b'"text"', "not_an_object", "no object"),
        (b"null", "not_an_object", "no object"),
    ],
)
def test_what_is_no_json_object_that_we_can_keep(value: bytes | None, reason: str, detail: str) -> None:
    answer = refused(value)
    assert answer.reason == reason
    assert detail in answer.detail
    assert len(answer.detail) < 300


@pytest.mark.parametrize(
    ("change", "pointer", "expected"),
    [
        ({"task_description": ""}, "/task_description", "must not be blank"),
        ({"task_description": " \n"}, "/task_description", "must not be blank"),
        ({"task_description": 5}, "/task_description", "must be of type string, but is a number"),
        ({"task_description": None}, "/task_description", "must be of type string, but is null"),
        ({"task_id": 42}, "/task_id", "must be of type string or null, but is a number"),
        ({"required_fields": "a"}, "/required_fields", "must be of type array or object or null, but is a string"),
        ({"required_fields": ["a", 1]}, "/required_fields/1", "must be of type string"),
        ({"required_fields": [""]}, "/required_fields/0", "at least 1 characters"),
        ({"event_data": ["x" * 20_000]}, "/event_data", "must be of type object or null, but is an array"),
        ({"priority": 10}, "/priority", "must be at most 9, but is 10"),
        ({"priority": True}, "/priority", "but is a boolean"),
        ({"priority": 4.5}, "/priority", "must be of type integer or null"),
        ({"deadline": "tomorrow"}, "/deadline", "ISO 8601"),
        ({"not_before": "soon"}, "/not_before", "ISO 8601"),
        ({"not_before": "2031-01-31T18:00:00"}, "/not_before", "no zone"),
        ({"not_before": "2031-01-31T18:00:00Z", "deadline": "2031-01-31T18:00:00Z"}, "/not_before", "before /deadline"),
        ({"deadline": "2031-01-31T18:00:00"}, "/deadline", "no zone"),
        ({"deadline": "0001-01-01T00:00:00+14:00"}, "/deadline", "years"),
        ({"budget": {"steps": "many"}}, "/budget/steps", "must be of type integer"),
        ({"budget": {"steps": 0}}, "/budget/steps", "must be at least 1"),
        ({"on_failure": "panic"}, "/on_failure", 'must be one of ["stop", "undo", null], but is "panic"'),
        ({"schema_version": 2}, "/schema_version", "must be one of [1, null], but is 2"),
        ({"message_id": "m" * 201}, "/message_id", "at most 200 characters, but has 201"),
    ],
)
def test_the_wrong_shape_is_named_by_place_and_expectation(change: dict[str, Any], pointer: str, expected: str) -> None:
    answer = refused(TASK | change)
    assert answer.reason == "wrong_shape"
    assert answer.detail.startswith(pointer)
    assert expected in answer.detail


@pytest.mark.parametrize("task_id", ["", "x" * 201, "a\nb", "a\u0085b"])
@pytest.mark.parametrize("topic", ["tasks", "events"])
def test_a_bad_task_id_has_a_reason_of_its_own(task_id: str, topic: str) -> None:
    assert refused(TASK | {"task_id": task_id}, topic=topic).reason == "bad_task_id"


def test_key_and_headers_count_for_the_size() -> None:
    assert refused(TASK, max_bytes=1000, key=b"k" * 1000).reason == "too_large"
    assert refused(TASK, max_bytes=1000, headers=(("h", b"v" * 1000),)).reason == "too_large"


def test_a_header_that_cannot_be_a_message_id() -> None:
    assert "not UTF-8" in refused(TASK, headers=(("message_id", b"\xff"),)).detail
    assert "200" in refused(TASK, headers=(("message_id", b"x" * 201),)).detail


def test_an_event_in_the_topic_of_tasks_is_told_where_it_belongs() -> None:
    assert "produce it to events" in refused({"task_id": "T-1", "event_data": {"a": 1}}).detail


# -- events


def test_an_event_of_any_name_is_taken_as_it_is() -> None:
    given = {"task_id": "T-1", "event_type": "new", "event_data": {"a": 1}, "task_description": "kept", "x": 1}
    assert decoder().decode(record(given, topic="events")) == EventMessage(
        "T-1", {"a": 1}, "new", extra={"task_description": "kept", "x": 1}
    )


def test_an_event_needs_a_task_id_and_only_that() -> None:
    assert decoder().decode(record({"task_id": "T-1"}, topic="events")) == EventMessage("T-1")
    assert refused({"event_data": {}}, topic="events", key=b"T-1").detail == "the message must have the field task_id"


APPROVED = EventType(
    "approved", schema={"type": "object", "required": ["by"], "properties": {"by": {"type": "string"}}}
)


def test_a_listed_event_type_must_fit_its_schema() -> None:
    listed = decoder(APPROVED)
    fits = {"task_id": "T-1", "event_type": "approved", "event_data": {"by": "me"}}
    assert isinstance(listed.decode(record(fits, topic="events")), EventMessage)
    for wrong in ({}, {"by": 1}):
        answer = listed.decode(record(fits | {"event_data": wrong}, topic="events"))
        assert isinstance(answer, Invalid)
        assert answer.reason == "event_schema"
        assert "approved" in answer.detail


def test_a_schema_that_refers_to_itself_cannot_exhaust_the_stack() -> None:
    nested: Any = 1
    for _ in range(190):
        nested = {"n": nested}
    looped = EventType(
        "loop", schema={"$defs": {"d": {"properties": {"n": {"$ref": "#/$defs/d"}}}}, "$ref": "#/$defs/d"}
    )
    event = {"task_id": "T-1", "event_type": "loop", "event_data": nested}
    answer = decoder(looped, max_depth=200).decode(record(event, topic="events"))
    assert isinstance(answer, EventMessage | Invalid)


# -- the published schemas


@pytest.mark.parametrize("envelope", ["task", "event"])
def test_the_published_examples_are_messages(envelope: schemas.Envelope) -> None:
    for example in schemas.schema(envelope)["examples"]:
        assert not isinstance(decoder().decode(record(example, topic=f"{envelope}s")), Invalid)


@pytest.mark.parametrize("envelope", schemas.ENVELOPES)
def test_the_published_schemas_are_schemas_with_words(envelope: schemas.Envelope) -> None:
    from jsonschema import Draft202012Validator

    published = schemas.schema(envelope)
    Draft202012Validator.check_schema(dict(published))
    assert published["title"]
    assert published["description"]
    assert all(part.get("description") for part in published["properties"].values())
    for example in published["examples"]:
        assert schemas.problem(envelope, example) is None
    assert json.loads(schemas.schema_text(envelope)) == published
