"""Telling of a task as its row is: an update of the same state, since something beside it has changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.task import WaitsFor
from orchestrator.domain.undo import undo_report
from orchestrator.store.published import update_body
from orchestrator.store.questions import questions_told
from orchestrator.store.read import load_context
from orchestrator.store.tell import tell
from orchestrator.store.undo_begin import load_items
from orchestrator.store.unwanted import cancellations_told


def tell_as_it_is(connection: Connection, task: Any, reason: str | None = None) -> None:
    """Write an update of a task whose state stays.

    Args:
        connection: of the transaction.
        task: its row as it now is, locked.
        reason: why there is an update; None: the reason of its state.
    """
    context = load_context(connection, task.task_id)
    body = update_body(
        task_id=task.task_id,
        state=task.state,
        step=task.next_step,
        context=context,
        waits_for=task.waits_for,
        reason_code=task.reason_code,
        reason=task.reason if reason is None else reason,
        source=task.source,
        paused=task.paused,
        undo=None if task.undo is None else undo_report(task.undo, load_items(connection, task.task_id)),
        cancellations=cancellations_told(connection, task.task_id),
    )
    if task.waits_for == WaitsFor.PERSON:
        body |= questions_told(connection, task.task_id)
    tell(connection, body, context)
