"""A person's hand on effects and beginnings: undo what an ended task did, restart a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.control import NEWEST_STEP, SUPERSEDE, ControlPart, begin_undo, locked, refuse_held
from orchestrator.store.engine import text
from orchestrator.store.undo_begin import load_items, undo_of

_REOPEN = text("""
    UPDATE compensations SET finished_at = NULL, state = CASE WHEN state = 'failed' THEN 'pending' ELSE state END
    WHERE task_id = :task_id AND state IN ('failed', 'unknown')
""")


class UndoControlPart(ControlPart):
    """Implements the rest of `orchestrator.flow.ports.ControlStore`."""

    def undo(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Undo what an ended task did; once more, what could not be undone before."""

        def work(connection: Connection) -> Dispatch:
            row = locked(connection, task_id)
            state = TaskState(row["state"])
            if state is TaskState.COMPENSATING:
                raise NotAllowed(f"task {task_id!r} is being undone already", task_id=task_id)
            if not state.is_terminal:
                raise NotAllowed(
                    f"task {task_id!r} has not ended: it is {state.value}",
                    hint=f"To end it and undo what it did: `orchestrator task cancel {task_id} --undo`.",
                    task_id=task_id,
                )
            connection.execute(_REOPEN, {"task_id": task_id})
            if all(item.is_closed for item in load_items(connection, task_id)):
                raise NotAllowed(
                    f"task {task_id!r} did nothing that is left to be undone",
                    hint=f"What it did is in `orchestrator task show {task_id} --steps`.",
                    task_id=task_id,
                )
            by = f"undone by {who}" + (f": {why}" if why else "")
            before = row["undo"] or row
            then = TaskState.FAILED if state is TaskState.FAILED else TaskState.CANCELED
            reason = by if state is TaskState.COMPLETED else before["reason"]
            undo = undo_of("undo", then, before["reason_code"], reason, who=who, why=why)
            begin_undo(connection, row, undo, self.stall)
            audit(connection, who=who, what="undo", why=why, task_id=task_id, details={"was": state.value})
            return Dispatch(task_id, row["next_step"], row["priority"])

        return self.transact(work)

    def restart(self, task_id: str, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Begin anew from the task's first context with ``edits`` on top, under new step numbers."""

        def work(connection: Connection) -> Dispatch:
            row = locked(connection, task_id)
            if row["state"] == TaskState.COMPENSATING:
                raise NotAllowed(
                    f"task {task_id!r} is being undone",
                    hint=f"Follow it with `orchestrator task watch {task_id}`; restart it when it has ended.",
                    task_id=task_id,
                )
            refuse_held(connection, row)
            newest = connection.execute(NEWEST_STEP, {"task_id": task_id}).scalar_one()
            number = max(newest, row["next_step"]) + 1
            self._go_back(connection, task_id, 1, edits, who, number)
            connection.execute(SUPERSEDE, {"task_id": task_id, "step": 1})
            self._restart(connection, row, number, f"restarted by {who}" + (f": {why}" if why else ""), number - 1)
            audit(
                connection,
                who=who,
                what="restart",
                why=why,
                task_id=task_id,
                details={"step": number, "edits": dict(edits)},
            )
            return Dispatch(task_id, number, row["priority"])

        return self.transact(work)
