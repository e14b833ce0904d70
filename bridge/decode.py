"""Record to message, or why it is none. Pure: the same record always gives the same answer, and nothing is raised.

The reasons are stable names, listed with examples in docs/messages.md; the details are written for people. Checks go
from cheap and raw to meaning: size, text, JSON, shape, then what only we know (task_id, deadline, event type).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from bridge import strict_json
from bridge.strict_json import Unkeepable
from orchestrator import schemas
from orchestrator.domain.event_type import ANSWER, REPLY
from orchestrator.domain.field_schema import schema_flaw
from orchestrator.domain.ids import task_id_problem
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.json_text import json_text
from orchestrator.domain.message import DEFAULT_PRIORITY, EventMessage, Message, Record, TaskMessage
from orchestrator.domain.task import PartialFailure
from orchestrator.flow.ports import EventTypes, Invalid
from orchestrator.settings import Settings

MESSAGE_ID_HEADER = "message_id"

_OWN: Mapping[str, schemas.Envelope] = {ANSWER: "task-answer", REPLY: "agent-reply"}
"""Event types that speak to the engine → their schema."""

_IDS = uuid.UUID("5d2f3c0e-8f0b-4a53-9f3c-0c6a4f1f6b5e")
"""Namespace of the task ids that we give."""


_SHORT_SCHEMA = 2_000
"""Bytes of a field's schema up to which its flaw is remembered."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes records of the two topics we read."""

    tasks_topic: str
    events_topic: str
    event_types: EventTypes
    max_bytes: int
    max_depth: int

    @classmethod
    def of(cls, settings: Settings, event_types: EventTypes) -> Decoder:
        """A decoder with the settings' topics and bounds."""
        return cls(
            settings.topic("tasks"),
            settings.topic("events"),
            event_types,
            settings.max_message_bytes,
            settings.max_message_depth,
        )

    def decode(self, record: Record) -> Message | Invalid:
        """The record's message, or why it is none."""
        try:
            body = self._body(record)
            if record.topic == self.events_topic:
                return self._event(record, body)
            return self._task(record, body)
        except Unkeepable as error:
            return Invalid(error.reason, error.detail)
        except RecursionError:
            # An event type's schema may refer to itself, and then takes many calls a level.
            return Invalid("too_deep", "event_data is nested deeper than its event type's schema can be followed")

    def _body(self, record: Record) -> dict[str, Any]:
        if not record.value:
            what = "no value" if record.value is None else "an empty value"
            raise Unkeepable("empty", f"the record has {what}")
        size = _size(record)
        if size > self.max_bytes:
            raise Unkeepable(
                "too_large",
                f"key, value and headers have {size:,} bytes; {self.max_bytes:,} are allowed "
                "(ORCHESTRATOR_MAX_MESSAGE_BYTES)",
            )
        body = strict_json.loads(record.value, self.max_depth)
        if not isinstance(body, dict):
            raise Unkeepable("not_an_object", "the value is JSON, but no object")
        return body

    def _task(self, record: Record, body: dict[str, Any]) -> TaskMessage:
        if "task_description" not in body and {"event_type", "event_data", "task_id"} & body.keys():
            raise Unkeepable(
                "wrong_shape",
                f"the message must have the field task_description; if it is an event, produce it to "
                f"{self.events_topic}",
            )
        given = _checked("task", body)
        required = _required_fields(given.get("required_fields", ()))
        return TaskMessage(
            task_id=given.get("task_id") or _own_task_id(record),
            description=given["task_description"],
            required_fields=tuple(required),
            field_schemas={name: schema for name, schema in required.items() if schema},
            event_data=given.get("event_data", {}),
            task_id_given="task_id" in given,
            message_id=_message_id(record, given),
            priority=int(given.get("priority", DEFAULT_PRIORITY)),
            tenant=given.get("tenant"),
            deadline=_moment("deadline", given),
            not_before=_not_before(given),
            budget=given.get("budget", {}),
            allowed_agents=tuple(given["allowed_agents"]) if "allowed_agents" in given else None,
            on_failure=given.get("on_failure", "stop"),
            partial_failure=PartialFailure(given["partial_failure"]) if "partial_failure" in given else None,
            extra=_unknown("task", body),
        )

    def _event(self, record: Record, body: dict[str, Any]) -> EventMessage:
        given = _checked("event", body)
        event_type, event_data = given.get("event_type"), given.get("event_data", {})
        if event_type is not None and event_type in _OWN and (wrong := schemas.problem(_OWN[event_type], body)):
            raise Unkeepable("wrong_shape", wrong)
        listed = self.event_types.get(event_type)
        if listed is not None and (problem := schema_problem(listed.schema, event_data)):
            raise Unkeepable("event_schema", f"event_data is not what {event_type} holds: {problem}")
        return EventMessage(
            task_id=given["task_id"],
            event_data=event_data,
            event_type=event_type,
            message_id=_message_id(record, given),
            extra=_unknown("event", body),
        )


def _required_fields(given: Any) -> dict[str, dict[str, Any]]:
    """Name → schema (empty: any value), from a list of names and objects, or an object of schemas."""
    listed = (
        [{"name": name, "schema": schema} for name, schema in given.items()] if isinstance(given, Mapping) else given
    )
    found: dict[str, dict[str, Any]] = {}
    for item in listed:
        name, schema = (item, None) if isinstance(item, str) else (item["name"], item.get("schema"))
        if schema is not None and (flaw := _flaw_of(schema)):
            raise Unkeepable("wrong_shape", f"/required_fields: {name[:80]}: {flaw}")
        if found.get(name) and schema and found[name] != schema:
            raise Unkeepable("wrong_shape", f"/required_fields: {name[:80]} stands twice, with different schemas")
        found[name] = schema or found.get(name) or {}
    return found


def _flaw_of(schema: Any) -> str | None:
    """The flaw of a schema; of a short one it is remembered: many tasks come with the same."""
    text = json_text(schema)
    return _flaw_of_short(text) if len(text) <= _SHORT_SCHEMA else schema_flaw(schema)


@lru_cache(maxsize=1_000)
def _flaw_of_short(text: bytes) -> str | None:
    return schema_flaw(json.loads(text))


def _size(record: Record) -> int:
    return (
        len(record.value or b"")
        + len(record.key or b"")
        + sum(len(name.encode("utf-8", "surrogatepass")) + len(value) for name, value in record.headers)
    )


def _checked(envelope: Literal["task", "event"], body: Mapping[str, Any]) -> dict[str, Any]:
    """The listed fields that are there; null counts as absent."""
    task_id = body.get("task_id")
    if isinstance(task_id, str) and (wrong := task_id_problem(task_id)):
        raise Unkeepable("bad_task_id", wrong)
    if wrong := schemas.problem(envelope, body):
        raise Unkeepable("wrong_shape", wrong)
    return {name: body[name] for name in schemas.known_fields(envelope) if body.get(name) is not None}


def _unknown(envelope: Literal["task", "event"], body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in schemas.known_fields(envelope)}


def _own_task_id(record: Record) -> str:
    """The UUID of a task whose message brought no id: the same again where the record is read again."""
    return str(uuid.uuid5(_IDS, f"{record.topic}/{record.partition}/{record.offset}/{record.digest}"))


def _message_id(record: Record, given: Mapping[str, Any]) -> str | None:
    """From the body, else from the record's header."""
    if "message_id" in given:
        return str(given["message_id"])
    for name, value in record.headers:
        if name != MESSAGE_ID_HEADER or not value:
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise Unkeepable("wrong_shape", f"the header {MESSAGE_ID_HEADER} is not UTF-8") from None
        if len(text) > 200 or "\0" in text:
            raise Unkeepable(
                "wrong_shape", f"the header {MESSAGE_ID_HEADER} must have at most 200 characters, none of them NUL"
            )
        return text
    return None


def _moment(name: str, given: Mapping[str, Any]) -> datetime | None:
    text = given.get(name)
    if text is None:
        return None
    wanted = "an ISO 8601 time with a zone, such as 2031-01-31T18:00:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Unkeepable("wrong_shape", f"/{name} must be {wanted}") from None
    if moment.tzinfo is None:
        raise Unkeepable("wrong_shape", f"/{name} has no zone; it must be {wanted}")
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError):
        raise Unkeepable("wrong_shape", f"/{name} is outside the years 1 to 9999") from None


def _not_before(given: Mapping[str, Any]) -> datetime | None:
    moment, deadline = _moment("not_before", given), _moment("deadline", given)
    if moment is not None and deadline is not None and moment >= deadline:
        raise Unkeepable("wrong_shape", "/not_before must be before /deadline")
    return moment
