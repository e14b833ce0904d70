"""Writing a new context version outside a step: what people and undo change."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from orchestrator.domain.context import Change, Context
from orchestrator.store.engine import jsonb, text
from orchestrator.store.rows import changes_to_json, origin_to_json

_CONTEXT = text("""
    UPDATE task_contexts SET version = :version, origins = CAST(:origins AS jsonb), updated_at = now(),
        context = jsonb_set(context, '{collected_data}', CAST(:data AS jsonb))
    WHERE task_id = :task_id
""")
_VERSION = text("""
    INSERT INTO context_versions (task_id, version, step, changes)
    VALUES (:task_id, :version, :step, CAST(:changes AS jsonb))
""")


def write_changes(
    connection: Connection, task_id: str, current: Context, changes: Sequence[Change], step: int | None
) -> Context:
    """Write these changes on top of the current context as its next version; none: nothing is written.

    The task's row must be locked.
    """
    context = current.apply(changes)
    if context is current:
        return current
    connection.execute(
        _CONTEXT,
        {
            "task_id": task_id,
            "version": context.version,
            "data": jsonb(dict(context.collected_data)),
            "origins": jsonb({name: origin_to_json(o) for name, o in context.origins.items()}),
        },
    )
    parameters = {"task_id": task_id, "version": context.version, "step": step}
    connection.execute(_VERSION, parameters | {"changes": jsonb(changes_to_json(changes))})
    return context
