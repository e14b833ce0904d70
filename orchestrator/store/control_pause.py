"""A person's hand on a task's course: pause and resume; finding the tasks for it; what was done by hand.

Pause sets a flag that claims read: a running step goes on to its end, nothing new begins. Neither touches the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from orchestrator.domain.by_hand import AuditEntry, TaskFilter
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import Task, TaskState
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.control import locked
from orchestrator.store.control_undo import UndoControlPart
from orchestrator.store.engine import text
from orchestrator.store.read import not_found
from orchestrator.store.rows import task_of
from orchestrator.store.tell_state import tell_as_it_is

_PAUSE = text("UPDATE tasks SET paused = true, updated_at = now() WHERE task_id = :task_id RETURNING *")

# What came while it was paused woke nobody: events and answers are looked for now.
_RESUME = text("""
    UPDATE tasks SET paused = false, rings = 0, updated_at = now(),
        woken = woken OR state = 'compensating' OR (state = 'waiting' AND (
            EXISTS (SELECT FROM inbox i WHERE i.task_id = tasks.task_id AND i.state IN ('pending', 'early'))
            OR EXISTS (SELECT FROM questions q WHERE q.task_id = tasks.task_id AND q.state = 'answered'))),
        due_at = CASE WHEN state = 'waiting' THEN due_at ELSE now() + CAST(:stall AS interval) END
    WHERE task_id = :task_id
    RETURNING *
""")
_DUE_SOON = text("UPDATE tasks SET due_at = now() + CAST(:stall AS interval) WHERE task_id = :task_id")

_FIND = text("""
    SELECT t.* FROM tasks t
    WHERE (CAST(:states AS text[]) IS NULL OR t.state = ANY(CAST(:states AS text[])))
      AND (CAST(:reason AS text) IS NULL OR t.reason_code = :reason)
      AND (CAST(:since AS interval) IS NULL OR t.updated_at >= now() - CAST(:since AS interval))
      AND (CAST(:tenant AS text) IS NULL OR t.tenant = :tenant)
      AND (CAST(:paused AS boolean) IS NULL OR t.paused = :paused)
      AND (CAST(:doubted AS boolean) IS NULL OR (t.doubted_at IS NOT NULL) = :doubted)
      AND (CAST(:agent AS text) IS NULL OR EXISTS (
            SELECT FROM delegations d
            WHERE d.task_id = t.task_id AND d.step_number = t.next_step AND d.agent = :agent))
    ORDER BY t.priority DESC, t.created_at, t.task_id
    LIMIT :limit
""")

_AUDIT = text("SELECT at, who, what, why, details FROM audit WHERE task_id = :task_id ORDER BY id")
_KNOWN = text("SELECT 1 FROM tasks WHERE task_id = :task_id")


class PauseControlPart(UndoControlPart):
    """Implements the rest of `orchestrator.flow.ports.ControlStore`, and what finds tasks for it."""

    def pause(self, task_id: str, *, who: str, why: str) -> Task:
        """Let nothing new begin; what runs goes on to its end."""

        def work(connection: Connection) -> Task:
            row = locked(connection, task_id)
            _refuse_ended(row, task_id)
            if row["paused"]:
                raise NotAllowed(f"task {task_id!r} is paused already", task_id=task_id)
            paused = connection.execute(_PAUSE, {"task_id": task_id}).one()
            tell_as_it_is(connection, paused, f"paused by {who}" + (f": {why}" if why else ""))
            audit(connection, who=who, what="pause", why=why, task_id=task_id, details={"running": row["held"]})
            return task_of(locked(connection, task_id))

        return self.transact(work)

    def resume(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Let a paused task go on, with what came meanwhile."""

        def work(connection: Connection) -> Dispatch:
            row = locked(connection, task_id)
            # It went to its end while it stood paused: telling so once more would be a second end to whoever reads it.
            _refuse_ended(row, task_id)
            if not row["paused"]:
                raise NotAllowed(
                    f"task {task_id!r} is not paused: it is {row['state']}",
                    hint=f"What it does or waits for: `orchestrator task show {task_id}`.",
                    task_id=task_id,
                )
            keys: dict[str, Any] = {"task_id": task_id, "stall": self.stall}
            resumed = connection.execute(_RESUME, keys).one()
            if resumed.woken and resumed.state == TaskState.WAITING:
                connection.execute(_DUE_SOON, keys)
            tell_as_it_is(connection, resumed, f"resumed by {who}" + (f": {why}" if why else ""))
            audit(connection, who=who, what="resume", why=why, task_id=task_id, details={})
            return Dispatch(task_id, row["next_step"], row["priority"])

        return self.transact(work)

    def find_tasks(self, wanted: TaskFilter, limit: int) -> Sequence[Task]:
        """The tasks that fit, most urgent and oldest first."""
        parameters = {
            "states": [state.value for state in wanted.states] or None,
            "reason": wanted.reason,
            "since": wanted.since,
            "tenant": wanted.tenant,
            "paused": wanted.paused,
            "doubted": wanted.doubted,
            "agent": wanted.agent,
            "limit": limit,
        }
        rows = self.transact(lambda connection: connection.execute(_FIND, parameters).mappings().all())
        return [task_of(row) for row in rows]

    def audit_of(self, task_id: str) -> Sequence[AuditEntry]:
        """What people did to a task, oldest first."""

        def work(connection: Connection) -> Sequence[AuditEntry]:
            if connection.execute(_KNOWN, {"task_id": task_id}).first() is None:
                raise not_found(task_id)
            rows = connection.execute(_AUDIT, {"task_id": task_id})
            return [AuditEntry(row.at, row.who, row.what, row.why, row.details) for row in rows]

        return self.transact(work)


def _refuse_ended(row: RowMapping, task_id: str) -> None:
    state = TaskState(row["state"])
    if state.is_terminal:
        raise NotAllowed(f"task {task_id!r} has already ended: it is {state.value}", task_id=task_id)
