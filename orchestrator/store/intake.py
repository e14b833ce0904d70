"""Accepting records: a batch becomes inbox, tasks, contexts, outbox, dead letters and offsets in one transaction.

A constant number of statements a batch: each takes its rows as one JSON parameter.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from orchestrator import __version__
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.message import EventMessage, Record, TaskMessage
from orchestrator.domain.task import TaskState
from orchestrator.flow.ports import Intake, Invalid, Received, Taken
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.published import headers_to_json, update_body
from orchestrator.store.rows import changes_to_json, origin_to_json

_INSERT_INBOX = text("""
    INSERT INTO inbox (topic, partition, record_offset, digest, message_id, kind, task_id, event_type, body,
                       timestamp_ms, key, value, headers, state)
    SELECT r.topic, r.partition, r.record_offset, r.digest, r.message_id, r.kind, r.task_id, r.event_type,
           coalesce(r.body, '{}'), r.timestamp_ms, decode(r.key, 'base64'), decode(r.value, 'base64'), r.headers, r.state
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        topic text, partition int, record_offset bigint, digest text, message_id text, kind text, task_id text,
        event_type text, body jsonb, timestamp_ms bigint, key text, value text, headers jsonb, state text)
    ON CONFLICT DO NOTHING
    RETURNING id, topic, partition, record_offset, digest
""")

_INSERT_TASKS = text("""
    INSERT INTO tasks (task_id, description, required_fields, state, priority, tenant, allowed_agents, on_failure,
                       deadline, budget, extra, content_digest, source, versions, due_at)
    SELECT r.task_id, r.description, r.required_fields, 'received', r.priority, r.tenant,
           nullif(r.allowed_agents, 'null'), r.on_failure, r.deadline, r.budget, r.extra, r.content_digest,
           nullif(r.source, 'null'), r.versions, now() + CAST(:due_in AS interval)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        task_id text, description text, required_fields jsonb, priority int, tenant text, allowed_agents jsonb,
        on_failure text, deadline timestamptz, budget jsonb, extra jsonb, content_digest text, source jsonb,
        versions jsonb)
    ON CONFLICT DO NOTHING
    RETURNING task_id
""")

_INSERT_CONTEXTS = text("""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(task_id text, context jsonb, origins jsonb, changes jsonb, update_body jsonb)
    ), versions AS (
        INSERT INTO context_versions (task_id, version, changes) SELECT task_id, 1, changes FROM r
    ), updates AS (
        INSERT INTO outbox (kind, task_id, body) SELECT 'update', task_id, update_body FROM r
    )
    INSERT INTO task_contexts (task_id, context, version, origins) SELECT task_id, context, 1, origins FROM r
""")

_LOCK_TASKS = text("""
    SELECT task_id, state, next_step, waits_for, wait, priority, paused
    FROM tasks WHERE task_id = ANY(:ids) ORDER BY task_id FOR UPDATE
""")

_WAKE = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:due_in AS interval) WHERE task_id = ANY(:ids)
""")

_MARK_INBOX = text("""
    UPDATE inbox SET state = r.state
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, state text)
    WHERE inbox.id = r.id
""")

_INSERT_DEAD_LETTERS = text("""
    WITH letters AS (
        INSERT INTO dead_letters (reason, detail, task_id, topic, partition, record_offset, timestamp_ms, key, value,
                                  headers)
        SELECT r.reason, r.detail, r.task_id, r.topic, r.partition, r.record_offset, r.timestamp_ms,
               decode(r.key, 'base64'), decode(r.value, 'base64'), r.headers
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            reason text, detail text, task_id text, topic text, partition int, record_offset bigint,
            timestamp_ms bigint, key text, value text, headers jsonb)
        RETURNING id, task_id
    )
    INSERT INTO outbox (kind, task_id, dead_letter_id) SELECT 'dead_letter', task_id, id FROM letters
""")

_UPSERT_OFFSETS = text("""
    INSERT INTO offsets (topic, partition, next_offset)
    SELECT r.topic, r.partition, r.next_offset
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, next_offset bigint)
    ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset, updated_at = now()
""")


@dataclass(slots=True)
class _Item:
    """One record of the batch on its way through."""

    received: Received
    inbox_id: int | None = None
    taken: Taken | None = None

    @property
    def record(self) -> Record:
        return self.received.record


class IntakePart(Transactions):
    """Implements `orchestrator.flow.ports.IntakeStore`."""

    def accept(self, batch: Sequence[Received], *, due_in: timedelta) -> Sequence[Taken]:
        """Take a batch in, in one transaction."""
        if not batch:
            return []
        try:
            return self.transact(lambda connection: _accept(connection, batch, due_in))
        except DataError:
            # One record among them cannot be stored (PostgreSQL's jsonb is stricter than JSON): find it, set it aside.
            if len(batch) > 1:
                return [taken for received in batch for taken in self.accept([received], due_in=due_in)]
            (received,) = batch
            if isinstance(received.message, Invalid):
                raise
            invalid = Invalid("not_storable", "PostgreSQL cannot store a value in it as JSON")
            return self.accept([replace(received, message=invalid)], due_in=due_in)

    def next_offsets(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """The next offset to read of each (topic, partition) that was ever accepted from."""
        wanted = set(partitions)

        def work(connection: Connection) -> dict[tuple[str, int], int]:
            rows = connection.execute(
                text("SELECT topic, partition, next_offset FROM offsets WHERE topic = ANY(:topics)"),
                {"topics": sorted({topic for topic, _ in wanted})},
            )
            return {(r.topic, r.partition): r.next_offset for r in rows if (r.topic, r.partition) in wanted}

        return self.transact(work)


def _accept(connection: Connection, batch: Sequence[Received], due_in: timedelta) -> list[Taken]:
    items = [_Item(received) for received in batch]
    _write_inbox(connection, items)
    fresh = [item for item in items if item.taken is None]
    _take_tasks(connection, [item for item in fresh if isinstance(item.received.message, TaskMessage)], due_in)
    _take_events(connection, [item for item in fresh if isinstance(item.received.message, EventMessage)], due_in)
    for item in fresh:
        if isinstance(item.received.message, Invalid):
            item.taken = Taken(Intake.INVALID, reason=item.received.message.reason)
    _set_aside(connection, fresh)
    _mark(connection, fresh)
    _keep_offsets(connection, [item.record for item in items])
    return [item.taken for item in items if item.taken is not None]


# -- inbox


def _write_inbox(connection: Connection, items: Sequence[_Item]) -> None:
    """Insert what is new; whatever is not new is a duplicate: the same record, or the same message_id."""
    inserted = connection.execute(_INSERT_INBOX, {"rows": jsonb([_inbox_row(item.received) for item in items])})
    ids = {(r.topic, r.partition, r.record_offset, r.digest): r.id for r in inserted}
    for item in items:
        record = item.record
        item.inbox_id = ids.pop((record.topic, record.partition, record.offset, record.digest), None)
        if item.inbox_id is None:
            item.taken = Taken(Intake.DUPLICATE, _task_id(item.received), reason="this record or message_id was there")


def _inbox_row(received: Received) -> dict[str, Any]:
    record, message = received.record, received.message
    row: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "record_offset": record.offset,
        "digest": record.digest,
        "timestamp_ms": record.timestamp_ms,
        "headers": [],
        "task_id": _task_id(received),
    }
    match message:
        case TaskMessage():
            return row | {"kind": "task", "state": "accepted", "message_id": message.message_id}
        case EventMessage():
            # The original bytes stay with an event: it may yet become a dead letter for want of its task.
            return (
                row
                | _bytes_of(record)
                | {
                    "kind": "event",
                    "state": "early",
                    "message_id": message.message_id,
                    "event_type": message.event_type,
                    "body": dict(message.event_data),
                }
            )
        case Invalid():
            return row | {"kind": "invalid", "state": "invalid"}


def _bytes_of(record: Record) -> dict[str, Any]:
    return {
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "value": None if record.value is None else base64.b64encode(record.value).decode(),
        "headers": headers_to_json(record.headers),
    }


def _task_id(received: Received) -> str | None:
    return None if isinstance(received.message, Invalid) else received.message.task_id


_INBOX_STATE = {
    Intake.DUPLICATE: "duplicate",
    Intake.CONFLICT: "conflict",
    Intake.EVENT_PENDING: "pending",
    Intake.EVENT_LATE: "late",
}


def _mark(connection: Connection, items: Iterable[_Item]) -> None:
    rows = [
        {"id": item.inbox_id, "state": _INBOX_STATE[item.taken.outcome]}
        for item in items
        if item.taken is not None and item.taken.outcome in _INBOX_STATE
    ]
    if rows:
        connection.execute(_MARK_INBOX, {"rows": jsonb(rows)})


# -- tasks


def _take_tasks(connection: Connection, items: Sequence[_Item], due_in: timedelta) -> None:
    if not items:
        return
    # Sorted, so that two batches take their locks in the same order; stable, so that the first of one id wins.
    messages = sorted((_task_message(item) for item in items), key=lambda pair: pair[1].task_id)
    rows = jsonb([_task_row(item.record, message) for item, message in messages])
    inserted = {r.task_id for r in connection.execute(_INSERT_TASKS, {"rows": rows, "due_in": due_in})}
    made: list[tuple[_Item, TaskMessage]] = []
    repeated: list[tuple[_Item, TaskMessage]] = []
    for item, message in messages:
        if message.task_id in inserted:
            inserted.remove(message.task_id)
            made.append((item, message))
            item.taken = Taken(Intake.ACCEPTED, message.task_id, Dispatch(message.task_id, 1, message.priority))
        else:
            repeated.append((item, message))
    if made:
        connection.execute(
            _INSERT_CONTEXTS, {"rows": jsonb([_context_row(item.record, message) for item, message in made])}
        )
    _compare(connection, repeated)


def _task_message(item: _Item) -> tuple[_Item, TaskMessage]:
    assert isinstance(item.received.message, TaskMessage)
    return item, item.received.message


def _compare(connection: Connection, repeated: Sequence[tuple[_Item, TaskMessage]]) -> None:
    """Tell a repeated task from one that contradicts the task of the same id."""
    if not repeated:
        return
    known = connection.execute(
        text("SELECT task_id, content_digest FROM tasks WHERE task_id = ANY(:ids)"),
        {"ids": [message.task_id for _, message in repeated]},
    )
    digests = {r.task_id: r.content_digest for r in known}
    for item, message in repeated:
        if digests.get(message.task_id) == message.content_digest:
            item.taken = Taken(Intake.DUPLICATE, message.task_id, reason="the task is known with the same content")
        else:
            reason = f"a task {message.task_id!r} is known with other content; nothing was changed"
            item.taken = Taken(Intake.CONFLICT, message.task_id, reason=reason)


def _source(record: Record, message: TaskMessage) -> dict[str, Any] | None:
    """What the producer of a task without an id knows its record by."""
    if message.task_id_given:
        return None
    return {
        "key": None if record.key is None else _printable(record.key),
        "headers": {name: _printable(value or b"") for name, value in record.headers},
        "message_id": message.message_id,
    }


def _printable(value: bytes) -> str:
    return value.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _task_row(record: Record, message: TaskMessage) -> dict[str, Any]:
    return {
        "task_id": message.task_id,
        "description": message.description,
        "required_fields": list(message.required_fields),
        "priority": message.priority,
        "tenant": message.tenant,
        "allowed_agents": None if message.allowed_agents is None else list(message.allowed_agents),
        "on_failure": message.on_failure,
        "deadline": None if message.deadline is None else message.deadline.isoformat(),
        "budget": dict(message.budget),
        "extra": dict(message.extra),
        "content_digest": message.content_digest,
        "source": _source(record, message),
        "versions": {"orchestrator": __version__},
    }


def _context_row(record: Record, message: TaskMessage) -> dict[str, Any]:
    at = datetime.now(UTC)
    changes = [
        Change(name, value, Origin("message", "event_data", at, pointer=f"/{name}"))
        for name, value in message.event_data.items()
    ]
    context = Context(1, message.required_fields, dict(message.event_data))
    return {
        "task_id": message.task_id,
        "context": {
            "required_fields": list(message.required_fields),
            "current_state": TaskState.RECEIVED.value,
            "collected_data": dict(message.event_data),
        },
        "origins": {change.field: origin_to_json(change.origin) for change in changes},
        "changes": changes_to_json(changes),
        "update_body": update_body(
            task_id=message.task_id,
            state=TaskState.RECEIVED.value,
            step=1,
            context=context,
            waits_for=None,
            reason_code=None,
            reason=None,
            source=_source(record, message),
        ),
    }


# -- events


def _take_events(connection: Connection, items: Sequence[_Item], due_in: timedelta) -> None:
    """Sort events into pending, early and late.

    Locking the task's row orders an event against the commit that completes its task: either that commit sees the
    event, or the event sees the ended task.
    """
    if not items:
        return
    ids = sorted({str(_task_id(item.received)) for item in items})
    tasks = {r.task_id: r for r in connection.execute(_LOCK_TASKS, {"ids": ids})}
    woken: set[str] = set()
    for item in items:
        message = item.received.message
        assert isinstance(message, EventMessage)
        task = tasks.get(message.task_id)
        if task is None:
            item.taken = Taken(Intake.EVENT_EARLY, message.task_id, reason="its task is not known yet")
        elif TaskState(task.state).is_terminal:
            item.taken = Taken(Intake.EVENT_LATE, message.task_id, reason=f"its task is {task.state}")
        else:
            dispatch = None
            if message.task_id not in woken and not task.paused and _wakes(task, message):
                woken.add(message.task_id)
                dispatch = Dispatch(message.task_id, task.next_step, task.priority)
            item.taken = Taken(Intake.EVENT_PENDING, message.task_id, dispatch)
    if woken:
        connection.execute(_WAKE, {"ids": sorted(woken), "due_in": due_in})


def _wakes(task: Any, message: EventMessage) -> bool:
    if task.state != "waiting":
        return False
    if task.waits_for == "person":
        return True
    wanted = task.wait.get("event_type")
    return task.waits_for == "event" and wanted in (None, message.event_type)


# -- dead letters and offsets


def _set_aside(connection: Connection, items: Sequence[_Item]) -> None:
    rows = []
    for item in items:
        message, record = item.received.message, item.record
        if isinstance(message, Invalid):
            reason, detail = message.reason, message.detail
        elif item.taken is not None and item.taken.outcome is Intake.CONFLICT:
            reason, detail = "task_conflict", item.taken.reason or ""
        else:
            continue
        rows.append(
            _bytes_of(record)
            | {
                "reason": reason,
                "detail": detail,
                "task_id": _task_id(item.received),
                "topic": record.topic,
                "partition": record.partition,
                "record_offset": record.offset,
                "timestamp_ms": record.timestamp_ms,
            }
        )
    if rows:
        connection.execute(_INSERT_DEAD_LETTERS, {"rows": jsonb(rows)})


def _keep_offsets(connection: Connection, records: Sequence[Record]) -> None:
    following = {(record.topic, record.partition): record.offset + 1 for record in records}
    rows = [{"topic": t, "partition": p, "next_offset": offset} for (t, p), offset in following.items()]
    connection.execute(_UPSERT_OFFSETS, {"rows": jsonb(rows)})
