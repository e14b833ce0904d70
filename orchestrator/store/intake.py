"""Accepting records: a batch becomes inbox, tasks, contexts, outbox, dead letters and offsets in one transaction.

A constant number of statements a batch: each takes its rows as one JSON parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from orchestrator.domain.event_type import ANSWER, REPLY
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.message import EventMessage, Record, TaskMessage
from orchestrator.domain.task import TaskState
from orchestrator.domain.turns import TurnRules, Window, urgency_of
from orchestrator.domain.value import replace
from orchestrator.flow.ports import Intake, Invalid, Received, Taken
from orchestrator.store.engine import Transactions, jsonb_kept, text
from orchestrator.store.intake_answers import take_answer
from orchestrator.store.intake_batch import Item, bytes_of, task_id_of
from orchestrator.store.intake_forgotten import doubt_read_before, refuse_forgotten
from orchestrator.store.intake_replies import take_reply
from orchestrator.store.intake_tasks import take_tasks
from orchestrator.store.turns import WAKE, Admission

_INSERT_INBOX = text("""
    INSERT INTO inbox (topic, partition, record_offset, digest, message_id, kind, task_id, event_type, body,
                       timestamp_ms, key, value, headers, state)
    SELECT r.topic, r.partition, r.record_offset, r.digest, r.message_id, r.kind, r.task_id, r.event_type,
           coalesce(r.body, '{}'), r.timestamp_ms, decode(r.key, 'base64'), decode(r.value, 'base64'), r.headers,
           r.state
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        topic text, partition int, record_offset bigint, digest text, message_id text, kind text, task_id text,
        event_type text, body jsonb, timestamp_ms bigint, key text, value text, headers jsonb, state text)
    ON CONFLICT DO NOTHING
    RETURNING id, topic, partition, record_offset, digest
""")

_LOCK_TASKS = text("""
    SELECT task_id, state, next_step, waits_for, wait, priority, aged, tenant, paused
    FROM tasks WHERE task_id = ANY(:ids) ORDER BY task_id FOR UPDATE
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

# A bridge that was cut off and writes late does not set back what another has written since: what is there is then more
# than what was confirmed to it, if anything was.
_SET_OFFSETS = text("""
    UPDATE offsets SET updated_at = now(), by_hand = false,
        next_offset = CASE WHEN offsets.next_offset > coalesce(r.confirmed, -1)
            THEN greatest(offsets.next_offset, r.next_offset) ELSE r.next_offset END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, next_offset bigint, confirmed bigint)
    WHERE offsets.topic = r.topic AND offsets.partition = r.partition
""")

_UPSERT_OFFSETS = text("""
    INSERT INTO offsets (topic, partition, next_offset)
    SELECT r.topic, r.partition, r.next_offset
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, next_offset bigint)
    ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE SET updated_at = now(), by_hand = false,
        next_offset = greatest(offsets.next_offset, excluded.next_offset)
""")


class IntakePart(Transactions):
    """Implements `orchestrator.flow.ports.IntakeStore`."""

    turns: TurnRules

    def accept(
        self,
        batch: Sequence[Received],
        *,
        due_in: timedelta,
        window: Window | None = None,
        confirmed: Mapping[tuple[str, int], int] | None = None,
    ) -> Sequence[Taken]:
        """Take a batch in, in one transaction."""
        if not batch:
            return []

        def work(connection: Connection) -> list[Taken]:
            read_before = refuse_forgotten(connection, [received.record for received in batch], confirmed or {})
            admission = Admission(connection, self.turns, window.copy() if window else None, due_in)
            taken = _accept(connection, batch, admission, confirmed or {})
            doubt_read_before(connection, batch, taken, read_before)
            return taken

        try:
            return self.transact(work)
        except DataError:
            # One record among them cannot be stored (PostgreSQL's jsonb is stricter than JSON): find it, set it aside.
            if len(batch) > 1:
                return self._one_by_one(batch, due_in, window, dict(confirmed or {}))
            (received,) = batch
            if isinstance(received.message, Invalid):
                raise
            invalid = Invalid("not_storable", "PostgreSQL cannot store a value in it as JSON")
            return self.accept([replace(received, message=invalid)], due_in=due_in, window=window, confirmed=confirmed)

    def _one_by_one(
        self,
        batch: Sequence[Received],
        due_in: timedelta,
        window: Window | None,
        confirmed: dict[tuple[str, int], int],
    ) -> Sequence[Taken]:
        found: list[Taken] = []
        for received in batch:
            found += self.accept([received], due_in=due_in, window=window, confirmed=confirmed)
            confirmed[received.record.topic, received.record.partition] = received.record.offset + 1
        return found

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


def _accept(
    connection: Connection, batch: Sequence[Received], admission: Admission, confirmed: Mapping[tuple[str, int], int]
) -> list[Taken]:
    items = [Item(received, received.record.digest) for received in batch]
    _write_inbox(connection, items)
    fresh = [item for item in items if item.taken is None]
    tasks: list[tuple[Item, TaskMessage]] = []
    events: list[tuple[Item, EventMessage]] = []
    for item in fresh:
        match item.received.message:
            case TaskMessage() as message:
                tasks.append((item, message))
            case EventMessage() as message:
                events.append((item, message))
            case Invalid(reason):
                item.taken = Taken(Intake.INVALID, reason=reason)
    take_tasks(connection, tasks, admission)
    _take_events(connection, events, admission)
    _set_aside(connection, fresh)
    _mark(connection, fresh)
    _keep_offsets(connection, [item.record for item in items], confirmed)
    return [item.taken for item in items if item.taken is not None]


# -- inbox


def _write_inbox(connection: Connection, items: Sequence[Item]) -> None:
    """Insert what is new; whatever is not new is a duplicate: the same record, or the same message_id."""
    inserted = connection.execute(_INSERT_INBOX, {"rows": jsonb_kept([_inbox_row(item) for item in items])})
    ids = {tuple(place): number for number, *place in inserted}
    for item in items:
        record = item.record
        item.inbox_id = ids.pop((record.topic, record.partition, record.offset, item.digest), None)
        if item.inbox_id is None:
            item.taken = Taken(
                Intake.DUPLICATE, task_id_of(item.received), reason="this record or message_id was there"
            )


def _inbox_row(item: Item) -> dict[str, Any]:
    record, message = item.record, item.received.message
    row: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "record_offset": record.offset,
        "digest": item.digest,
        "timestamp_ms": record.timestamp_ms,
        "headers": [],
        "task_id": task_id_of(item.received),
    }
    match message:
        case TaskMessage():
            return row | {"kind": "task", "state": "accepted", "message_id": message.message_id}
        case EventMessage():
            # The original bytes stay with an event: it may yet become a dead letter for want of its task.
            return (
                row
                | bytes_of(record)
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


_INBOX_STATE = {
    Intake.DUPLICATE: "duplicate",
    Intake.CONFLICT: "conflict",
    Intake.EVENT_PENDING: "pending",
    Intake.EVENT_LATE: "late",
    Intake.ANSWERED: "merged",
    Intake.ANSWER_REFUSED: "invalid",
    Intake.REPLIED: "merged",
    Intake.REPLY_REFUSED: "invalid",
}


def _mark(connection: Connection, items: Iterable[Item]) -> None:
    rows = [
        {"id": item.inbox_id, "state": _INBOX_STATE[item.taken.outcome]}
        for item in items
        if item.taken is not None and item.taken.outcome in _INBOX_STATE
    ]
    if rows:
        connection.execute(_MARK_INBOX, {"rows": jsonb_kept(rows)})


# -- events


def _take_events(connection: Connection, events: Sequence[tuple[Item, EventMessage]], admission: Admission) -> None:
    """Sort events into pending, early and late.

    Locking the task's row orders an event against the commit that completes its task: either that commit sees the
    event, or the event sees the ended task.
    """
    if not events:
        return
    ids = sorted({message.task_id for _, message in events})
    tasks = {r.task_id: r for r in connection.execute(_LOCK_TASKS, {"ids": ids})}
    woken: dict[str, Item] = {}
    for item, message in events:
        task = tasks.get(message.task_id)
        if message.event_type == ANSWER:
            item.taken = take_answer(connection, message, task)
            if item.taken.outcome is Intake.ANSWERED and task is not None and not task.paused and _takes_answers(task):
                woken.setdefault(message.task_id, item)
        elif message.event_type == REPLY:
            item.taken = take_reply(connection, message, task)
            if item.taken.outcome is Intake.REPLIED and task is not None and not task.paused and _takes_replies(task):
                woken.setdefault(message.task_id, item)
        elif task is None:
            item.taken = Taken(Intake.EVENT_EARLY, message.task_id, reason="its task is not known yet")
        elif TaskState(task.state).is_terminal:
            item.taken = Taken(Intake.EVENT_LATE, message.task_id, reason=f"its task is {task.state}")
        else:
            item.taken = Taken(Intake.EVENT_PENDING, message.task_id)
            if message.task_id not in woken and not task.paused and _wakes(task):
                woken[message.task_id] = item
    if woken:
        _wake(connection, [(item, tasks[task_id]) for task_id, item in sorted(woken.items())], admission)


def _wake(connection: Connection, woken: Sequence[tuple[Item, Any]], admission: Admission) -> None:
    """Make these tasks due, and say which doorbells are to be rung."""
    urgencies = [urgency_of(task.priority, task.aged) for _, task in woken]
    starts = admission.starts(
        [(task.tenant, urgency) for (_, task), urgency in zip(woken, urgencies, strict=True)], new=False
    )
    rows = []
    for (item, task), urgency, start in zip(woken, urgencies, starts, strict=True):
        rows.append({"task_id": task.task_id, "urgency": urgency, **start.row()})
        if start.rung:
            dispatch = Dispatch(task.task_id, task.next_step, urgency, start.lane)
            outcome = Intake.EVENT_PENDING if item.taken is None else item.taken.outcome
            item.taken = Taken(outcome, task.task_id, dispatch)
    connection.execute(WAKE, {"rows": jsonb_kept(rows)})


def _wakes(task: Any) -> bool:
    """Whether an event wakes this task: it may bring what is missing, also where another type is waited for."""
    return task.state == "waiting" and task.waits_for in {"event", "person"}


def _takes_answers(task: Any) -> bool:
    """Whether a person's answer wakes this task; one that waits for a retry takes it up when that is due."""
    return task.state == "waiting" and task.waits_for in {"person", "agent"}


def _takes_replies(task: Any) -> bool:
    """Whether an agent's reply wakes this task, or its undo."""
    return task.state == "compensating" or (task.state == "waiting" and task.waits_for in {"agent", "retry", "person"})


# -- dead letters and offsets


def _set_aside(connection: Connection, items: Sequence[Item]) -> None:
    rows = []
    for item in items:
        message, record = item.received.message, item.record
        if isinstance(message, Invalid):
            reason, detail = message.reason, message.detail
        elif item.taken is not None and item.taken.outcome is Intake.CONFLICT:
            reason, detail = "task_conflict", item.taken.reason or ""
        elif item.taken is not None and item.taken.outcome is Intake.ANSWER_REFUSED:
            reason, detail = "answer_refused", item.taken.reason or ""
        elif item.taken is not None and item.taken.outcome is Intake.REPLY_REFUSED:
            reason, detail = "unknown_reply", item.taken.reason or ""
        else:
            continue
        rows.append(
            bytes_of(record)
            | {
                "reason": reason,
                "detail": detail,
                "task_id": task_id_of(item.received),
                "topic": record.topic,
                "partition": record.partition,
                "record_offset": record.offset,
                "timestamp_ms": record.timestamp_ms,
            }
        )
    if rows:
        connection.execute(_INSERT_DEAD_LETTERS, {"rows": jsonb_kept(rows)})


def _keep_offsets(connection: Connection, records: Sequence[Record], confirmed: Mapping[tuple[str, int], int]) -> None:
    following = {(record.topic, record.partition): record.offset + 1 for record in records}
    rows = [
        {"topic": place[0], "partition": place[1], "next_offset": offset, "confirmed": confirmed.get(place)}
        for place, offset in sorted(following.items())
    ]
    if connection.execute(_SET_OFFSETS, {"rows": jsonb_kept(rows)}).rowcount == len(rows):
        return
    connection.execute(_UPSERT_OFFSETS, {"rows": jsonb_kept(rows)})
