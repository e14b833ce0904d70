"""Replies of agents that come as events: kept beside their delegation, for its step to take up under its own lease.

Nothing of the delegation's state is touched: a worker may be writing it at this moment ("202 came"), and would
overwrite a reply that was quicker than its commit.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.message import EventMessage
from orchestrator.domain.task import TaskState
from orchestrator.flow.ports import Intake, Taken
from orchestrator.store.engine import jsonb, text

# A parallel delegation has a due time of its own; one that was parked for a person is left to its step, which makes it
# due again.
_KEEP = text("""
    UPDATE delegations SET told = CAST(:told AS jsonb), parked = false, woken = woken OR due_at IS NOT NULL,
        due_at = CASE WHEN due_at IS NOT NULL THEN now() END
    WHERE task_id = :task_id AND reply_token = :token AND told IS NULL AND state IN ('pending', 'in_flight', 'unknown')
    RETURNING step_number
""")

_KNOWN = text("SELECT told FROM delegations WHERE task_id = :task_id AND reply_token = :token")

_CAME = text("""
    SELECT 1 FROM delegations
    WHERE task_id = :task_id AND step_number = :step AND told IS NOT NULL AND due_at IS NULL
      AND state IN ('pending', 'in_flight', 'unknown')
    LIMIT 1
""")


def take_reply(connection: Connection, message: EventMessage, task: Any | None) -> Taken:
    """Keep the reply in the message; ``task`` is its row, locked, or None where there is none. Rings no doorbell."""
    task_id = message.task_id
    told = {name: value for name, value in message.event_data.items() if name != "token"}
    keys = {"task_id": task_id, "token": message.event_data["token"]}
    kept = connection.execute(_KEEP, keys | {"told": jsonb(told)}).first()
    if kept is None:
        known = connection.execute(_KNOWN, keys).first()
        if task is None or known is None:
            return Taken(Intake.REPLY_REFUSED, task_id, reason="no call of this task was sent with this token")
        if known.told == told:
            return Taken(Intake.DUPLICATE, task_id, reason="the same reply was there")
        return Taken(Intake.EVENT_LATE, task_id, reason="what became of the call is known already")
    if task is None or TaskState(task.state).is_terminal:
        return Taken(Intake.EVENT_LATE, task_id, reason="its task has ended; the reply is kept with the call")
    return Taken(Intake.REPLIED, task_id)


def reply_came(connection: Connection, task_id: str, step: int) -> bool:
    """Whether the reply to a call of this step is there that its step has not taken up."""
    return connection.execute(_CAME, {"task_id": task_id, "step": step}).first() is not None
