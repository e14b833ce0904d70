"""Event types: what an event may hold and which context fields it fills."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from orchestrator.domain.context import Change, Origin
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.value import Value, field

ANSWER = "task.answer"
"""A person's answer to a question of the task."""
REPLY = "agent.reply"
"""The reply of an agent that answers later."""
RESERVED = frozenset({ANSWER, REPLY})
"""Types whose events are not merged: they speak to the engine. Nothing else may have these names."""


class EventType(Value, frozen=True):
    """One entry of events.yaml."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON Schema of ``event_data``."""
    fills: Mapping[str, str] | None = None
    """Context field → JSON pointer into ``event_data``; None: every key of ``event_data`` under its own name."""
    match: Mapping[str, str] = field(default_factory=dict)
    """JSON pointer into ``event_data`` → context field: the event waited for says the same as the field there."""
    timeout_seconds: float | None = None
    """How long a wait for this type lasts where the planner does not say."""
    on_timeout: str | None = None
    timeout_code: str | None = None


def fields_of(event_type: EventType) -> tuple[str, ...]:
    """The context fields that an event of this type can fill, as far as its entry says."""
    if event_type.fills is not None:
        return tuple(event_type.fills)
    properties = event_type.schema.get("properties")
    return tuple(properties) if isinstance(properties, Mapping) else ()


def changes_of_event(
    event_type: EventType | None, name: str | None, event_data: Mapping[str, Any], at: datetime
) -> tuple[Change, ...]:
    """What an event changes in a context.

    Args:
        event_type: the entry it is listed under; None merges ``event_data`` as it is.
        name: the type the event named; None where it named none.
        at: when it was received.

    A pointer to nothing changes nothing: the schema says which parts are optional.
    """
    label = name or "event"
    if event_type is None or event_type.fills is None:
        return tuple(
            Change(key, value, Origin("event", label, at, pointer=f"/{key}")) for key, value in event_data.items()
        )
    changes = []
    for context_field, pointer in event_type.fills.items():
        try:
            value = resolve(event_data, pointer)
        except PointerError:
            continue
        changes.append(Change(context_field, value, Origin("event", label, at, pointer=pointer)))
    return tuple(changes)
