"""A person's hand on tasks: retry, rerun, cancel; each audited in the commit that does it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, RowMapping

from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import DecisionKind
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.context_rows import write_changes
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.published import update_body
from orchestrator.store.questions import withdraw_questions
from orchestrator.store.read import load_context, not_found
from orchestrator.store.rows import changes_of, step_of, task_of
from orchestrator.store.tell import tell
from orchestrator.store.undo import tell_undo
from orchestrator.store.undo_begin import anything_to_undo, load_items, undo_of
from orchestrator.store.unwanted import UNDO, cancellations_told, note_unwanted, withdraw_unwanted

_LOCK = text("SELECT *, coalesce(lease_until >= now(), false) AS held FROM tasks WHERE task_id = :task_id FOR UPDATE")
_CALLING = text("""
    SELECT count(*) FROM delegations WHERE task_id = :task_id AND lease_until >= now() AND state = 'in_flight'
""")
_STEP = text("SELECT * FROM steps WHERE task_id = :task_id AND step_number = :step")
NEWEST_STEP = text("SELECT coalesce(max(step_number), 0) FROM steps WHERE task_id = :task_id")
_OPEN_AGAIN = text("""
    UPDATE steps SET state = 'open', finished_at = NULL, attempts = 0 WHERE task_id = :task_id AND step_number = :step
""")
# An agent that answered what cannot be used may have acted: it is called again only if it says that this is safe. A job
# whose question nobody answered in time is there still: it is gone on with, and asks again.
_SEND_AGAIN = text("""
    UPDATE delegations SET state = CASE WHEN error_code = 'reply_invalid' THEN 'unknown'
            WHEN error_code = 'no_answer' AND remote_url IS NOT NULL THEN 'in_flight' ELSE 'pending' END,
        finished_at = NULL, told = NULL
    WHERE task_id = :task_id AND step_number = :step AND state = 'failed'
      AND error_code IS DISTINCT FROM 'declined'
""")
# Of a parallel step: what waits for a later moment is tried now, and what waits for a person is looked at once more.
_TRY_NOW = text("""
    UPDATE delegations SET parked = false, due_at = CASE WHEN due_at IS NULL THEN NULL ELSE now() END
    WHERE task_id = :task_id AND step_number = :step AND state IN ('pending', 'in_flight', 'unknown')
      AND (lease_until IS NULL OR lease_until < now())
""")
_LATER = text("SELECT changes FROM context_versions WHERE task_id = :task_id AND version > :version ORDER BY version")
SUPERSEDE = text("UPDATE steps SET superseded = true WHERE task_id = :task_id AND step_number >= :step")
# What had ended when PostgreSQL was restored may have been gone on with in what is forgotten.
_DOUBTED_SINCE = """doubted_at = CASE WHEN ended_at IS NULL THEN doubted_at ELSE greatest(doubted_at, (
            SELECT max(noticed_at) FROM restores
            WHERE noticed_at > greatest(tasks.ended_at, tasks.trusted_at))) END"""
_RESTART = text(f"""
    UPDATE tasks SET state = 'processing', waits_for = NULL, wait = '{{}}', next_step = :next_step, epoch = epoch + 1,
        lease_owner = NULL, lease_until = NULL, lost_leases = 0, rings = 0, woken = false, cancel_requested = false,
        reason_code = NULL, reason = NULL, ended_at = NULL, idle_steps = 0, due_at = now() + CAST(:stall AS interval),
        undo = NULL, steps_before = coalesce(CAST(:steps_before AS integer), steps_before), updated_at = now(),
        {_DOUBTED_SINCE}
    WHERE task_id = :task_id
""")  # noqa: S608  # a constant of ours
_RAISE = text("UPDATE tasks SET budget_raised = CAST(:raised AS jsonb) WHERE task_id = :task_id")
_MAKE_DUE = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:stall AS interval), rings = 0, updated_at = now()
    WHERE task_id = :task_id
""")
_CANCEL_NOW = text("""
    UPDATE tasks SET state = 'canceled', waits_for = NULL, due_at = NULL, epoch = epoch + 1, lease_owner = NULL,
        lease_until = NULL, reason_code = 'canceled', reason = :reason, ended_at = now(), updated_at = now(),
        undo = NULL
    WHERE task_id = :task_id
""")
_CANCEL_LATER = text("""
    UPDATE tasks SET cancel_requested = true, undo = coalesce(CAST(:undo AS jsonb), undo), updated_at = now()
    WHERE task_id = :task_id
""")
_UNDO = text(f"""
    UPDATE tasks SET state = 'compensating', undo = CAST(:undo AS jsonb), waits_for = NULL, wait = '{{}}', woken = true,
        due_at = now() + CAST(:stall AS interval), rings = 0, lost_leases = 0, cancel_requested = false,
        epoch = epoch + 1, lease_owner = NULL, lease_until = NULL, ended_at = NULL, reason_code = :reason_code,
        reason = :reason, updated_at = now(), {_DOUBTED_SINCE}
    WHERE task_id = :task_id
    RETURNING *
""")  # noqa: S608  # the same
_STATE = text("""
    UPDATE task_contexts SET context = jsonb_set(context, '{current_state}', to_jsonb(CAST(:state AS text))),
        updated_at = now()
    WHERE task_id = :task_id
""")


class ControlPart(Transactions):
    """Implements `orchestrator.flow.ports.ControlStore`."""

    stall: timedelta

    def retry(
        self, task_id: str, *, who: str, why: str, raise_budget: Mapping[str, int | Decimal] | None = None
    ) -> Dispatch:
        """Open a failed task again at the step that failed, or make a waiting one due."""

        def work(connection: Connection) -> Dispatch:
            row = locked(connection, task_id)
            refuse_undone(row)
            step = row["next_step"]
            if row["state"] == TaskState.WAITING and row["waits_for"] != WaitsFor.EVENT:
                connection.execute(_TRY_NOW, {"task_id": task_id, "step": step})
                connection.execute(_MAKE_DUE, {"task_id": task_id, "stall": self.stall})
            elif row["state"] == TaskState.FAILED:
                step = self._open_failed(connection, row)
            else:
                raise NotAllowed(
                    f"task {task_id!r} is {row['state']}; only a failed task, or one that waits for a retry, "
                    "an agent or a person, can be retried",
                    hint=f"To go on from an earlier step: `orchestrator task rerun {task_id} --step N`.",
                    task_id=task_id,
                )
            details: dict[str, Any] = {"step": step}
            if raise_budget:
                details["raised"] = {name: str(amount) for name, amount in raise_budget.items()}
                connection.execute(_RAISE, {"task_id": task_id, "raised": jsonb(_raised(row, raise_budget))})
            audit(connection, who=who, what="retry", why=why, task_id=task_id, details=details)
            return Dispatch(task_id, step, row["priority"])

        return self.transact(work)

    def _open_failed(self, connection: Connection, row: RowMapping) -> int:
        task_id, step = row["task_id"], row["next_step"]
        keys = {"task_id": task_id, "step": step}
        found = connection.execute(_STEP, keys).mappings().first()
        decision = None if found is None else step_of(found).decision
        if decision is not None and decision.kind is DecisionKind.FAIL:
            # The decision was to fail: it stays on record, and a new step decides anew.
            connection.execute(SUPERSEDE, keys)
            step = connection.execute(NEWEST_STEP, keys).scalar_one() + 1
        else:
            connection.execute(_OPEN_AGAIN, keys)
            connection.execute(_SEND_AGAIN, keys)
            connection.execute(_TRY_NOW, keys)
        withdraw_unwanted(connection, task_id, step)
        self._restart(connection, row, step, "retried by hand")
        return int(step)

    def rerun(self, task_id: str, step: int, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Go back to the context before ``step`` with ``edits`` on top, under a new step number."""

        def work(connection: Connection) -> Dispatch:
            row, number = self.rerun_in(connection, task_id, step, edits, who)
            details = {"from_step": step, "step": number, "edits": dict(edits)}
            audit(connection, who=who, what="rerun", why=why, task_id=task_id, details=details)
            return Dispatch(task_id, number, row["priority"])

        return self.transact(work)

    def rerun_in(
        self, connection: Connection, task_id: str, step: int, edits: Mapping[str, Any], who: str
    ) -> tuple[RowMapping, int]:
        """Go back within a transaction; the task's row as it was, and the new step's number."""
        row = locked(connection, task_id)
        refuse_undone(row)
        refuse_held(connection, row)
        found = connection.execute(_STEP, {"task_id": task_id, "step": step}).mappings().first()
        if found is None:
            raise NotAllowed(
                f"task {task_id!r} has no step {step}",
                hint=f"See its steps with `orchestrator task show {task_id} --steps`.",
                task_id=task_id,
            )
        newest = connection.execute(NEWEST_STEP, {"task_id": task_id}).scalar_one()
        number = int(max(newest, row["next_step"]) + 1)
        self._go_back(connection, task_id, found["base_version"], edits, who, number)
        connection.execute(SUPERSEDE, {"task_id": task_id, "step": step})
        left_behind = row["steps_before"] + number - step
        self._restart(connection, row, number, f"rerun from step {step} by hand", left_behind)
        return row, number

    def _go_back(
        self, connection: Connection, task_id: str, version: int, edits: Mapping[str, Any], who: str, step: int
    ) -> None:
        origin = Origin("person", who, datetime.now(UTC))
        current = load_context(connection, task_id)
        before = load_context(connection, task_id, version)
        # Going back undoes what the task did, not what the world told it meanwhile.
        later = connection.execute(_LATER, {"task_id": task_id, "version": version})
        told = [one for row in later for one in changes_of(row.changes) if one.origin.kind == "event"]
        target = before.apply([*told, *(Change(name, value, origin) for name, value in edits.items())])
        changes = current.changes_to(target, origin)
        write_changes(connection, task_id, current, changes, step)

    def _restart(
        self, connection: Connection, row: RowMapping, step: int, reason: str, steps_before: int | None = None
    ) -> None:
        task_id = row["task_id"]
        parameters = {"task_id": task_id, "next_step": step, "stall": self.stall, "steps_before": steps_before}
        connection.execute(_RESTART, parameters)
        _tell(connection, row, TaskState.PROCESSING, step, None, reason)

    def cancel(self, task_id: str, *, who: str, why: str, undo: bool = False) -> Task:
        """End the task: at once where no step runs, else at its next boundary; ``undo``: once it is undone."""

        def work(connection: Connection) -> Task:
            row = locked(connection, task_id)
            state = TaskState(row["state"])
            if state.is_terminal:
                hint = f"To undo what it did: `orchestrator task undo {task_id}`." if undo else None
                raise NotAllowed(f"task {task_id!r} has already ended: it is {state.value}", hint=hint, task_id=task_id)
            if state is TaskState.COMPENSATING:
                raise NotAllowed(f"task {task_id!r} is being undone already, then it ends", task_id=task_id)
            reason = f"canceled by {who}" + (f": {why}" if why else "")
            asked = undo_of("cancel", TaskState.CANCELED, "canceled", reason, who=who, why=why) if undo else None
            if row["held"]:
                parameters = {"task_id": task_id, "undo": None if asked is None else jsonb(asked)}
                connection.execute(_CANCEL_LATER, parameters)
                note_unwanted(connection, task_id, "canceled", self.stall)
            elif asked is not None and anything_to_undo(connection, task_id):
                begin_undo(connection, row, asked, self.stall)
            else:
                connection.execute(_CANCEL_NOW, {"task_id": task_id, "reason": reason})
                note_unwanted(connection, task_id, "canceled", self.stall)
                _tell(connection, row, TaskState.CANCELED, row["next_step"], "canceled", reason)
            details = {"at_once": not row["held"], "undo": undo}
            audit(connection, who=who, what="cancel", why=why, task_id=task_id, details=details)
            return task_of(locked(connection, task_id))

        return self.transact(work)


def _raised(row: RowMapping, more: Mapping[str, int | Decimal]) -> dict[str, int | float]:
    """What the task's bounds are raised by, with this."""
    sums = {name: Decimal(str(amount)) for name, amount in row["budget_raised"].items()}
    for name, amount in more.items():
        sums[name] = sums.get(name, Decimal(0)) + Decimal(str(amount))
    return {name: int(one) if one == one.to_integral_value() else float(one) for name, one in sums.items()}


def locked(connection: Connection, task_id: str) -> RowMapping:
    """The task's row, locked, with ``held``: whether a worker holds its lease. Raises `TaskNotFound`."""
    row = connection.execute(_LOCK, {"task_id": task_id}).mappings().first()
    if row is None:
        raise not_found(task_id)
    return row


def refuse_held(connection: Connection, row: RowMapping) -> None:
    """Refuse to move a task that a worker, or a call in flight, is at."""
    task_id = row["task_id"]
    if row["held"]:
        raise NotAllowed(
            f"a worker is at step {row['next_step']} of task {task_id!r} at this moment",
            hint=f"Wait for it, or cancel first: `orchestrator task cancel {task_id}`.",
            task_id=task_id,
        )
    if calls := connection.execute(_CALLING, {"task_id": task_id}).scalar_one():
        raise NotAllowed(
            f"{calls} calls of task {task_id!r} are in flight at this moment",
            hint=f"Wait for their replies: `orchestrator task watch {task_id}`.",
            task_id=task_id,
        )


def refuse_undone(row: RowMapping) -> None:
    """Refuse to go on with a task whose effects are undone, or are being undone: it would build on what is gone."""
    task_id = row["task_id"]
    if row["state"] == TaskState.COMPENSATING:
        raise NotAllowed(
            f"task {task_id!r} is being undone",
            hint=f"Follow it with `orchestrator task watch {task_id}`; when it has ended it can be restarted.",
            task_id=task_id,
        )
    if row["undo"] is not None and TaskState(row["state"]).is_terminal:
        raise NotAllowed(
            f"task {task_id!r} was undone: what its steps built on is gone, so it cannot go on from any of them",
            hint=f"To begin it anew from its first context: `orchestrator task restart {task_id}`.",
            task_id=task_id,
        )


def begin_undo(connection: Connection, row: RowMapping, undo: Mapping[str, Any], stall: timedelta) -> None:
    """Take a task that no worker holds into its undo."""
    parameters = {"task_id": row["task_id"], "undo": jsonb(dict(undo)), "stall": stall}
    reason = (undo["reason_code"], undo["reason"])
    task = connection.execute(_UNDO, parameters | {"reason_code": reason[0], "reason": reason[1]}).one()
    note_unwanted(connection, row["task_id"], UNDO, stall)
    withdraw_questions(connection, row["task_id"])
    tell_undo(connection, row["task_id"], task, TaskState.COMPENSATING, reason, load_items(connection, row["task_id"]))


def _tell(
    connection: Connection, row: RowMapping, state: TaskState, step: int, reason_code: str | None, reason: str
) -> None:
    connection.execute(_STATE, {"task_id": row["task_id"], "state": state.value})
    context = load_context(connection, row["task_id"])
    body = update_body(
        task_id=row["task_id"],
        state=state.value,
        step=step,
        context=context,
        waits_for=None,
        reason_code=reason_code,
        reason=reason,
        source=row["source"],
        cancellations=cancellations_told(connection, row["task_id"]) if state is TaskState.CANCELED else (),
    )
    tell(connection, body, context)
