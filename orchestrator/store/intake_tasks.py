"""Task messages of a batch: tasks, contexts and first updates, with one statement each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from orchestrator import __version__
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.domain.progress import Cost, Progress
from orchestrator.domain.task import TaskState
from orchestrator.flow.ports import Intake, Taken
from orchestrator.store.engine import jsonb_kept, text
from orchestrator.store.intake_batch import Item
from orchestrator.store.published import iso, update_body
from orchestrator.store.rows import changes_to_json, origin_to_json
from orchestrator.store.turns import LATER, Admission

_INSERT_TASKS = text("""
    INSERT INTO tasks (task_id, description, required_fields, state, priority, tenant, allowed_agents, on_failure,
                       partial_failure, deadline, budget, extra, content_digest, source, versions, not_before,
                       due_at, rings, rung_as, lane)
    SELECT r.task_id, r.description, r.required_fields, 'received', r.priority, r.tenant,
           nullif(r.allowed_agents, 'null'), r.on_failure, r.partial_failure, r.deadline, r.budget, r.extra,
           r.content_digest, nullif(r.source, 'null'), r.versions, r.not_before,
           greatest(now() + make_interval(secs => r.due_in), r.not_before), r.rings, r.priority, r.lane
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        task_id text, description text, required_fields jsonb, priority int, tenant text, allowed_agents jsonb,
        on_failure text, partial_failure text, deadline timestamptz, budget jsonb, extra jsonb, content_digest text,
        source jsonb, versions jsonb, not_before timestamptz, due_in float, rings int, lane int)
    ON CONFLICT DO NOTHING
    RETURNING task_id
""")

_INSERT_CONTEXTS = text("""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(task_id text, context jsonb, origins jsonb, changes jsonb, update_body jsonb, field_schemas jsonb)
    ), versions AS (
        INSERT INTO context_versions (task_id, version, changes) SELECT task_id, 1, changes FROM r
    ), updates AS (
        INSERT INTO outbox (kind, task_id, body) SELECT 'update', task_id, update_body FROM r
    )
    INSERT INTO task_contexts (task_id, context, version, origins, field_schemas)
    SELECT task_id, context, 1, origins, field_schemas FROM r
""")


def take_tasks(connection: Connection, tasks: Sequence[tuple[Item, TaskMessage]], admission: Admission) -> None:
    """Write new tasks with their first context and update; tell repeated ones from conflicts."""
    if not tasks:
        return
    # Sorted, so that two batches take their locks in the same order; stable, so that the first of one id wins.
    messages = sorted(tasks, key=lambda pair: pair[1].task_id)
    at = datetime.now(UTC)
    now_ones = [message for _, message in messages if not _waits(message, at)]
    starts = iter(admission.starts([(message.tenant, message.priority) for message in now_ones], new=True))
    begun = [(pair, LATER if _waits(pair[1], at) else next(starts)) for pair in messages]
    rows = jsonb_kept([_task_row(item.record, message) | start.row() for (item, message), start in begun])
    inserted = {task_id for (task_id,) in connection.execute(_INSERT_TASKS, {"rows": rows})}
    made: list[tuple[Item, TaskMessage]] = []
    repeated: list[tuple[Item, TaskMessage]] = []
    for (item, message), start in begun:
        if message.task_id in inserted:
            inserted.remove(message.task_id)
            made.append((item, message))
            dispatch = Dispatch(message.task_id, 1, message.priority, start.lane) if start.rung else None
            item.taken = Taken(Intake.ACCEPTED, message.task_id, dispatch)
        else:
            repeated.append((item, message))
    if made:
        connection.execute(
            _INSERT_CONTEXTS, {"rows": jsonb_kept([_context_row(item.record, message, at) for item, message in made])}
        )
    _compare(connection, repeated)


def _waits(message: TaskMessage, at: datetime) -> bool:
    return message.not_before is not None and message.not_before > at


def _compare(connection: Connection, repeated: Sequence[tuple[Item, TaskMessage]]) -> None:
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
        "partial_failure": message.partial_failure.value if message.partial_failure else None,
        "deadline": None if message.deadline is None else message.deadline.isoformat(),
        "not_before": None if message.not_before is None else message.not_before.isoformat(),
        "budget": dict(message.budget),
        "extra": dict(message.extra),
        "content_digest": message.content_digest,
        "source": _source(record, message),
        "versions": {"orchestrator": __version__},
    }


def _context_row(record: Record, message: TaskMessage, at: datetime) -> dict[str, Any]:
    changes = [
        Change(name, value, Origin("message", "event_data", at, pointer=f"/{name}"))
        for name, value in message.event_data.items()
    ]
    schemas = dict(message.field_schemas)
    context = Context(1, message.required_fields, dict(message.event_data), field_schemas=schemas)
    update = update_body(
        task_id=message.task_id,
        state=TaskState.RECEIVED.value,
        step=1,
        context=context,
        waits_for=None,
        reason_code=None,
        reason=None,
        source=_source(record, message),
    )
    required = len(message.required_fields)
    known = required - len(update["missing_fields"])
    update["progress"] = Progress(known, required, 0, 0, at, Cost(0, 0, 0, 0.0)).to_json() | {"since": iso(at)}
    return {
        "task_id": message.task_id,
        "context": {
            "required_fields": list(message.required_fields),
            "current_state": TaskState.RECEIVED.value,
            "collected_data": dict(message.event_data),
        },
        "field_schemas": schemas,
        "origins": {change.field: origin_to_json(change.origin) for change in changes},
        "changes": changes_to_json(changes),
        "update_body": update,
    }
