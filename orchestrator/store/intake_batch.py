"""A batch of records on its way into the tables: what the parts of the intake share."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.message import Record
from orchestrator.flow.ports import Invalid, Received, Taken
from orchestrator.store.published import headers_to_json


@dataclass(slots=True)
class Item:
    """One record of the batch on its way through; ``taken`` is None until its fate is known."""

    received: Received
    digest: str
    """The record's."""
    inbox_id: int | None = None
    taken: Taken | None = None

    @property
    def record(self) -> Record:
        """The raw record."""
        return self.received.record


def bytes_of(record: Record) -> dict[str, Any]:
    """The record's key, value and headers, as JSON columns that ``decode(…, 'base64')`` reads."""
    return {
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "value": None if record.value is None else base64.b64encode(record.value).decode(),
        "headers": headers_to_json(record.headers),
    }


def task_id_of(received: Received) -> str | None:
    """The task that a message is about; None for a record that is no message."""
    return None if isinstance(received.message, Invalid) else received.message.task_id
