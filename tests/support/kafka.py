"""Records and a decoder for tests of the bridge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.decode import Decoder
from orchestrator.domain.event_type import EventType
from orchestrator.domain.message import Record


class FixedEventTypes:
    """Event types that a test writes down itself."""

    def __init__(self, *entries: EventType) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def get(self, name: str | None) -> EventType | None:
        return None if name is None else self._entries.get(name)

    def all(self) -> Sequence[EventType]:
        return tuple(self._entries.values())


def decoder(*entries: EventType, max_bytes: int = 100_000, max_depth: int = 32) -> Decoder:
    """A decoder of the topics ``tasks`` and ``events``."""
    return Decoder("tasks", "events", FixedEventTypes(*entries), max_bytes, max_depth)


def record(
    value: bytes | Mapping[str, Any] | None,
    *,
    topic: str = "tasks",
    partition: int = 0,
    offset: int = 0,
    key: bytes | None = None,
    headers: tuple[tuple[str, bytes], ...] = (),
) -> Record:
    """A record; a mapping becomes JSON."""
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record(topic, partition, offset, 1_700_000_000_000, key, raw, headers)
