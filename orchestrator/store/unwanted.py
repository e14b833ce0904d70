"""Where a call under way is noted as not wanted any more: in the commit that ends its task, or begins its undo.

The intent is a row before the agent hears of it; `orchestrator.store.cancellations` works through the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.cancellation import Cancellation, CancelState, cancellations_report
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import urgency_of
from orchestrator.store.engine import text
from orchestrator.store.rows import Row

# Whatever may still be worked on: also a call of unknown outcome, and one that waits to be sent again.
_NOTE = text("""
    INSERT INTO cancellations (delegation_key, task_id, step_number, index, agent, reason, state, due_at)
    SELECT idempotency_key, task_id, step_number, index, agent, :reason, 'telling', now() + CAST(:stall AS interval)
    FROM delegations
    WHERE task_id = :task_id AND (state IN ('in_flight', 'unknown') OR (state = 'pending' AND may_have_acted))
    ON CONFLICT (delegation_key) DO UPDATE SET reason = excluded.reason, woken = true, rings = 1,
        due_at = excluded.due_at, finished_at = NULL,
        state = CASE WHEN cancellations.finished_at IS NULL THEN cancellations.state ELSE 'telling' END,
        attempts = CASE WHEN cancellations.finished_at IS NULL THEN cancellations.attempts ELSE 0 END,
        asked_at = CASE WHEN cancellations.finished_at IS NULL THEN cancellations.asked_at ELSE now() END,
        error = CASE WHEN cancellations.finished_at IS NULL THEN cancellations.error END
    RETURNING step_number, index
""")

# Nobody answered in time, and the call failed for it: its job is there still, and asks. An undo goes on with it; where
# a task merely ends, what became of its calls stays as it was recorded.
_STILL_ASKS = text("""
    UPDATE delegations SET state = 'in_flight', finished_at = NULL
    WHERE task_id = :task_id AND state = 'failed' AND error_code = 'no_answer' AND may_have_acted
      AND remote_url IS NOT NULL
""")

UNDO = "undo"
"""The reason of calls that are not wanted since their task is being undone."""

_WITHDRAW = text("""
    UPDATE cancellations SET state = 'withdrawn', due_at = NULL, woken = false, epoch = epoch + 1, finished_at = now()
    WHERE task_id = :task_id AND step_number = :step AND finished_at IS NULL
""")

_RUNG = text("""
    SELECT c.step_number, c.index AS place, t.priority, t.aged FROM cancellations c JOIN tasks t USING (task_id)
    WHERE c.task_id = :task_id AND c.finished_at IS NULL AND c.woken
    ORDER BY c.step_number, c.index
""")

_ALL = text("SELECT * FROM cancellations WHERE task_id = :task_id ORDER BY step_number, index")


def note_unwanted(connection: Connection, task_id: str, reason: str, stall: timedelta) -> int:
    """Note every call of the task that may be under way as not wanted any more; returns how many.

    The caller has locked the task's row. ``reason`` is a code: ``canceled``, ``deadline_passed``, ``undo``… Their
    doorbells are to be rung after the commit (`rung_unwanted`); the sweep rings after ``stall``.
    """
    parameters = {"task_id": task_id, "reason": reason, "stall": stall}
    if reason == UNDO:
        connection.execute(_STILL_ASKS, {"task_id": task_id})
    return len(connection.execute(_NOTE, parameters).all())


def rung_unwanted(connection: Connection, task_id: str) -> tuple[Dispatch, ...]:
    """The doorbells of what `note_unwanted` noted and nobody has taken up."""
    rows = connection.execute(_RUNG, {"task_id": task_id})
    return tuple(
        Dispatch(task_id, row.step_number, urgency_of(row.priority, row.aged), index=row.place, cancels=True)
        for row in rows
    )


def withdraw_unwanted(connection: Connection, task_id: str, step: int) -> None:
    """The calls of this step are wanted again: what their agents have not been told they are told no more."""
    connection.execute(_WITHDRAW, {"task_id": task_id, "step": step})


def load_cancellations(connection: Connection, task_id: str) -> Sequence[Cancellation]:
    """The task's cancellations, in the order of its calls."""
    return [cancellation_of(row) for row in connection.execute(_ALL, {"task_id": task_id}).mappings()]


def cancellations_told(connection: Connection, task_id: str) -> list[dict[str, Any]]:
    """The task's cancellations as updates tell them."""
    return cancellations_report(load_cancellations(connection, task_id))


def cancellation_of(row: Row) -> Cancellation:
    """A row of ``cancellations``."""
    values: dict[str, Any] = {
        name: row[name] for name in ("task_id", "index", "agent", "reason", "attempts", "asked_at", "error")
    }
    return Cancellation(
        **values,
        step=row["step_number"],
        key=row["delegation_key"],
        state=CancelState(row["state"]),
        finished_at=row["finished_at"],
    )
