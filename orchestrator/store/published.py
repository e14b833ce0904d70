"""The JSON shapes that leave through the outbox: task updates and dead letters (see `orchestrator.schemas`)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.context import Context
from orchestrator.domain.json_text import json_text

SCHEMA_VERSION = 1

MAX_DATA_BYTES = 600_000
"""Collected data or a dead letter's value above this is left out of the published record, which says so; brokers refuse
records above one megabyte by default. The tables have it whole."""


def update_body(
    *,
    task_id: str,
    state: str,
    step: int,
    context: Context,
    waits_for: str | None,
    reason_code: str | None,
    reason: str | None,
    source: Mapping[str, Any] | None,
    low: Sequence[Mapping[str, Any]] = (),
    undo: Mapping[str, Any] | None = None,
    cancellations: Sequence[Mapping[str, Any]] = (),
    paused: bool = False,
) -> dict[str, Any]:
    """A task update, without ``update_id`` and ``occurred_at``, which are the outbox row's own."""
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "task_id": task_id,
        "state": state,
        "waits_for": waits_for,
        "step": step,
        "collected_data": dict(context.collected_data),
        "missing_fields": list(context.missing_fields),
        "reason_code": reason_code,
        "reason": reason,
    }
    if problems := context.field_problems:
        body["field_problems"] = dict(problems)
    if low:
        body["budget_warnings"] = [dict(one) for one in low]
    data = body["collected_data"]
    if data and len(json_text(data)) > MAX_DATA_BYTES:
        body |= {"collected_data": None, "truncated": True}
    if source is not None:
        body["source"] = dict(source)
    if paused:
        body["paused"] = True
    if undo is not None:
        body["undo"] = dict(undo)
    if cancellations:
        body["cancellations"] = [dict(one) for one in cancellations]
    return body


def dead_letter_body(row: Mapping[str, Any], occurred_at: datetime) -> dict[str, Any]:
    """A dead letter as it is published; ``row`` is a row of ``dead_letters``."""
    value, headers = row["value"], row["headers"]
    size = len(value or b"") + sum(len(str(part)) for header in headers for part in header)
    truncated = size > MAX_DATA_BYTES
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dead_letter_id": row["id"],
        "reason": row["reason"],
        "detail": row["detail"],
        "task_id": row["task_id"],
        "record": {
            "topic": row["topic"],
            "partition": row["partition"],
            "offset": row["record_offset"],
            "timestamp_ms": row["timestamp_ms"],
            "key_base64": _base64(row["key"]),
            "value_base64": None if truncated else _base64(value),
            "headers": [] if truncated else headers,
        },
        "occurred_at": iso(occurred_at),
    }
    return body | {"truncated": True} if truncated else body


def iso(at: datetime) -> str:
    """ISO 8601 in UTC with a Z."""
    return at.isoformat().replace("+00:00", "Z")


def headers_to_json(headers: Sequence[tuple[str, bytes]]) -> list[list[str]]:
    """Record headers as pairs of name and base64."""
    return [[name, base64.b64encode(value or b"").decode()] for name, value in headers]


def headers_of(data: Sequence[Sequence[str]]) -> tuple[tuple[str, bytes], ...]:
    """The inverse of `headers_to_json`."""
    return tuple((name, base64.b64decode(value)) for name, value in data)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(bytes(value)).decode()
