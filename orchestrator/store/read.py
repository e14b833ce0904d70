"""Looking: tasks, contexts and their versions, the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.context import Change, Context, rebuild
from orchestrator.domain.task import Task
from orchestrator.errors import NotAllowed, TaskNotFound
from orchestrator.store.engine import Transactions, text
from orchestrator.store.published import iso
from orchestrator.store.rows import changes_of, context_of, task_of

_TASK = text("SELECT * FROM tasks WHERE task_id = :task_id")
_CONTEXT = text("SELECT * FROM task_contexts WHERE task_id = :task_id")
_VERSIONS = text("SELECT * FROM context_versions WHERE task_id = :task_id ORDER BY version")
_TASKS = text("""
    SELECT t.* FROM tasks t
    LEFT JOIN tasks before ON before.task_id = :after
    WHERE (CAST(:state AS text) IS NULL OR t.state = :state)
      AND (CAST(:waits_for AS text) IS NULL OR (t.state = 'waiting' AND t.waits_for = :waits_for))
      AND (CAST(:after AS text) IS NULL OR (t.created_at, t.task_id) < (before.created_at, before.task_id))
    ORDER BY t.created_at DESC, t.task_id DESC LIMIT :limit
""")


def not_found(task_id: str) -> TaskNotFound:
    """The error for an unknown id."""
    return TaskNotFound(
        f"there is no task {task_id!r}",
        hint="See `orchestrator task list`; a message that was refused is in `orchestrator dead-letter list`.",
        task_id=task_id,
    )


class ReadPart(Transactions):
    """Implements `orchestrator.flow.ports.ReadStore`, but for what other parts bring."""

    def task(self, task_id: str) -> Task:
        """One task."""
        row = self.transact(lambda connection: connection.execute(_TASK, {"task_id": task_id}).mappings().first())
        if row is None:
            raise not_found(task_id)
        return task_of(row)

    def context(self, task_id: str, version: int | None = None) -> Context:
        """The context now, or as it was at ``version``."""
        return self.transact(lambda connection: load_context(connection, task_id, version))

    def context_row(self, task_id: str) -> Mapping[str, Any]:
        """The promised shape of a context."""
        row = self.transact(lambda connection: connection.execute(_CONTEXT, {"task_id": task_id}).mappings().first())
        if row is None:
            raise not_found(task_id)
        return {
            "id": row["id"],
            "task_id": row["task_id"],
            "context": {name: row["context"][name] for name in ("required_fields", "current_state", "collected_data")},
            "created_at": iso(row["created_at"]),
            "updated_at": iso(row["updated_at"]),
        }

    def versions(self, task_id: str) -> Sequence[tuple[int, datetime, Sequence[Change]]]:
        """Every context version with its changes."""
        rows = self.transact(lambda connection: connection.execute(_VERSIONS, {"task_id": task_id}).mappings().all())
        if not rows:
            raise not_found(task_id)
        return [(row["version"], row["created_at"], changes_of(row["changes"])) for row in rows]

    def tasks(
        self, *, state: str | None = None, waits_for: str | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Task]:
        """Newest first."""
        parameters = {"state": state, "waits_for": waits_for, "limit": limit, "after": after}
        rows = self.transact(lambda connection: connection.execute(_TASKS, parameters).mappings().all())
        return [task_of(row) for row in rows]


def load_context(connection: Connection, task_id: str, version: int | None = None) -> Context:
    """A context, rebuilt from its history where a former version is asked for.

    Raises:
        TaskNotFound: no such task.
        NotAllowed: no such version.
    """
    row = connection.execute(_CONTEXT, {"task_id": task_id}).mappings().first()
    if row is None:
        raise not_found(task_id)
    current = context_of(row)
    if version is None or version == current.version:
        return current
    if not 1 <= version < current.version:
        raise NotAllowed(
            f"task {task_id!r} has context versions 1 to {current.version}, not {version}",
            hint=f"See them with `orchestrator task show {task_id} --history`.",
            task_id=task_id,
        )
    rows = connection.execute(_VERSIONS, {"task_id": task_id}).mappings()
    changes = [changes_of(r["changes"]) for r in rows if r["version"] <= version]
    return rebuild(current.required_fields, changes, current.field_schemas)
