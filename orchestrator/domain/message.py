"""Validated messages: what a producer may ask (a task) or tell (an event), and where each came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from orchestrator.domain.ids import digest
from orchestrator.domain.task import PartialFailure
from orchestrator.domain.value import Value, field

DEFAULT_PRIORITY = 4
"""0 to 9, 9 most urgent."""


class Record(Value, frozen=True):
    """The raw Kafka item, exactly as it came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over key, value and timestamp.

        Part of a record's identity, because offsets start again when a broker or a topic is made anew.
        """
        hasher = hashlib.sha256()
        for part in (self.key, self.value, str(self.timestamp_ms).encode()):
            hasher.update(b"-" if part is None else b"+%d:" % len(part) + part)
        return hasher.hexdigest()


class TaskMessage(Value, frozen=True):
    """A business task asked for."""

    task_id: str
    description: str
    required_fields: tuple[str, ...] = ()
    event_data: Mapping[str, Any] = field(default_factory=dict)
    task_id_given: bool = True
    """False where we made the id; its updates then echo key, headers and message_id."""
    message_id: str | None = None
    priority: int = DEFAULT_PRIORITY
    tenant: str | None = None
    deadline: datetime | None = None
    not_before: datetime | None = None
    """Its first step waits for this moment."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    allowed_agents: tuple[str, ...] | None = None
    on_failure: Literal["stop", "undo"] = "stop"
    partial_failure: PartialFailure | None = None
    """What failed delegations mean for their step; None: as the settings have it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields unknown to us: kept, not refused."""
    field_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON Schemas that the values of required fields must fit, by field."""

    @property
    def content_digest(self) -> str:
        """Tells a repeated task (same content, a duplicate) from a conflicting one.

        ``message_id`` is the envelope's, not the content's, and so left out; ids of ours too.
        """
        # A field that came later stands here only where it is given: tasks known before keep their digest.
        later = {"partial_failure": self.partial_failure.value} if self.partial_failure else {}
        if self.not_before is not None:
            later["not_before"] = self.not_before.isoformat()
        if self.field_schemas:
            later["field_schemas"] = digest({name: dict(schema) for name, schema in self.field_schemas.items()})
        return digest(
            {
                **later,
                "task_description": self.description,
                "required_fields": list(self.required_fields),
                "event_data": dict(self.event_data),
                "priority": self.priority,
                "tenant": self.tenant,
                "deadline": self.deadline.isoformat() if self.deadline else None,
                "budget": dict(self.budget),
                "allowed_agents": None if self.allowed_agents is None else list(self.allowed_agents),
                "on_failure": self.on_failure,
                "extra": dict(self.extra),
            }
        )


class EventMessage(Value, frozen=True):
    """Something that happened, told to a task."""

    task_id: str
    event_data: Mapping[str, Any] = field(default_factory=dict)
    event_type: str | None = None
    message_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Message = TaskMessage | EventMessage
