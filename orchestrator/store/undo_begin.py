"""Where an undo begins: which delegations it is about, and whether a task that ends is to be undone first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.task import TaskState
from orchestrator.domain.undo import Undoing
from orchestrator.store.engine import text
from orchestrator.store.rows import compensation_of, delegation_of

# What acted or may have acted, in whatever step: a rerun supersedes steps, not what they did to the world.
_ACTED = """
    task_id = :task_id AND side_effects AND (state IN ('in_flight', 'unknown', 'compensated')
        OR (state = 'succeeded' AND (error_code IS DISTINCT FROM 'skipped' OR may_have_acted))
        OR (state IN ('pending', 'failed') AND (may_have_acted OR coalesce(error_code = 'reply_invalid', false))))
"""
_NEWEST_FIRST = "ORDER BY step_number DESC, index DESC"
_DELEGATIONS = text(f"SELECT * FROM delegations WHERE {_ACTED} {_NEWEST_FIRST}")  # noqa: S608 - constants of ours
_ANY = text(f"SELECT EXISTS (SELECT FROM delegations WHERE {_ACTED} AND state <> 'compensated')")  # noqa: S608 - ours
_CANCELING = text("SELECT delegation_key FROM cancellations WHERE task_id = :task_id AND finished_at IS NULL")
_COMPENSATIONS = text("SELECT * FROM compensations WHERE task_id = :task_id")


def load_items(connection: Connection, task_id: str) -> Sequence[Undoing]:
    """Every delegation of the task that acted or may have acted, newest first, with its compensation."""
    keys = {"task_id": task_id}
    found: dict[str, Delegation] = {
        row["delegation_key"]: compensation_of(row) for row in connection.execute(_COMPENSATIONS, keys).mappings()
    }
    rows = connection.execute(_DELEGATIONS, keys).mappings()
    canceling = {row.delegation_key for row in connection.execute(_CANCELING, keys)}
    return [
        Undoing(delegation_of(row), found.get(row["idempotency_key"]), row["idempotency_key"] in canceling)
        for row in rows
    ]


def anything_to_undo(connection: Connection, task_id: str) -> bool:
    """Whether any delegation acted or may have acted, and is not undone."""
    return bool(connection.execute(_ANY, {"task_id": task_id}).scalar_one())


def undo_of(
    asked: str, then: TaskState, reason_code: str | None, reason: str | None, *, who: str | None = None, why: str = ""
) -> dict[str, Any]:
    """The undo as it is kept in ``tasks.undo``.

    Args:
        asked: ``on_failure``, ``cancel`` or ``undo``.
        then: how the task ends when all is done: failed or canceled.
        reason_code: of that end.
        reason: of that end.
        who: who asked, where a person did.
        why: and why.
    """
    return {
        "asked": asked,
        "then": then.value,
        "reason_code": reason_code,
        "reason": reason,
        "who": who,
        "why": why or None,
    }


def undo_before(
    connection: Connection,
    task_id: str,
    task: Row[Any],
    end: tuple[TaskState, str | None, str | None],
) -> dict[str, Any] | None:
    """The undo that comes before a task's end, or None where it just ends.

    Args:
        connection: of the transaction that ends the task, its settlements written.
        task_id: the task's id.
        task: its row: ``undo`` is what a person asked for with a cancel, ``on_failure`` is ``stop`` or ``undo``.
        end: state, reason code and reason of the end.
    """
    state, reason_code, reason = end
    asked: Mapping[str, Any] | None = task.undo
    if not state.is_terminal or not (asked or (state is TaskState.FAILED and task.on_failure == "undo")):
        return None
    if not anything_to_undo(connection, task_id):
        return None
    if asked:
        said = asked.get("reason")
        return {**asked, "reason": f"{said} ({reason})" if state is TaskState.FAILED else said}
    return undo_of("on_failure", state, reason_code, reason)
