"""Telling: the outbox row of a task update, with how far the task is at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.context import Context
from orchestrator.store.engine import jsonb, text

# The shape is that of `orchestrator.domain.progress.Progress`. One statement, since each commit that moves a task
# makes it.
_TELL = text("""
    INSERT INTO outbox (kind, task_id, body)
    SELECT 'update', t.task_id, CAST(:body AS jsonb) || jsonb_build_object('progress', jsonb_build_object(
        'fields_known', CAST(:known AS int), 'fields_required', CAST(:required AS int),
        'delegations_settled', d.settled, 'delegations', d.present,
        'since', replace(to_jsonb(coalesce(t.ended_at, t.updated_at)) #>> '{}', '+00:00', 'Z'),
        'spent', jsonb_build_object(
            'steps', (SELECT count(*) FROM steps WHERE task_id = :task_id AND decision IS NOT NULL),
            'delegations', t.spent_delegations, 'tokens', t.spent_tokens, 'cost', t.spent_money)))
    FROM tasks t, (
        SELECT count(*) AS present, count(*) FILTER (WHERE state IN ('succeeded', 'failed', 'compensated')) AS settled
        FROM delegations WHERE task_id = :task_id AND step_number = :step
    ) d
    WHERE t.task_id = :task_id
""")


def tell(connection: Connection, body: Mapping[str, Any], context: Context) -> None:
    """Write a task update (see `orchestrator.store.published.update_body`) to the outbox, its progress added.

    To be called after the task's row is as the update has it.
    """
    required = len(context.required_fields)
    connection.execute(
        _TELL,
        {
            "task_id": body["task_id"],
            "step": body["step"],
            "body": jsonb(dict(body)),
            "required": required,
            "known": required - len(context.missing_fields),
        },
    )
