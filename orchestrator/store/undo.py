"""What an undo reads and writes: compensations, the delegations that they undo, and the end of the task.

Each write is one transaction, fenced by the lease like those of a step: the task's row is locked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.context import Change, Origin
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import GoOn, Lease
from orchestrator.domain.task import TaskState
from orchestrator.domain.undo import (
    Begun,
    Rest,
    Settled,
    Tried,
    UndoCommit,
    UndoCommitted,
    Undoing,
    undo_key,
    undo_report,
    undo_words,
)
from orchestrator.errors import LeaseLost
from orchestrator.store.cancellations import WAKE_UNDO
from orchestrator.store.context_rows import write_changes
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.fenced_commit import WRITE_STATE, fence_of
from orchestrator.store.published import update_body
from orchestrator.store.read import load_context
from orchestrator.store.tell import tell
from orchestrator.store.undo_begin import load_items
from orchestrator.store.unwanted import cancellations_told

_FENCE = text("""
    SELECT undo, source, next_step, reason_code, reason FROM tasks
    WHERE task_id = :task_id AND epoch = :epoch AND lease_owner = :owner AND next_step = :step
      AND CASE WHEN state = 'compensating' THEN true ELSE false END
    FOR UPDATE
""")
_SEND_AGAIN = text("""
    UPDATE delegations SET state = 'in_flight', attempts = attempts + 1, sent_at = coalesce(sent_at, now()),
        deadline_at = :deadline_at, remote_url = NULL, may_have_acted = true, finished_at = NULL
    WHERE idempotency_key = :key AND state NOT IN ('succeeded', 'compensated')
""")
_SETTLE_DELEGATION = text("""
    UPDATE delegations SET state = :state, reply = nullif(CAST(:reply AS jsonb), 'null'), error_code = :error_code,
        error = :error, remote_url = :remote_url, may_have_acted = :state <> 'failed',
        finished_at = CASE WHEN :state IN ('succeeded', 'failed') THEN now() END, parked = false, due_at = NULL
    WHERE idempotency_key = :key AND state NOT IN ('succeeded', 'compensated')
""")
_BEGIN = text("""
    INSERT INTO compensations (delegation_key, task_id, step_number, index, agent, task, arguments, idempotency_key,
                               state, attempts, sent_at, deadline_at)
    SELECT idempotency_key, task_id, step_number, index, agent, 'Undo: ' || task, CAST(:arguments AS jsonb), :undo_key,
           'in_flight', 1, now(), :deadline_at
    FROM delegations WHERE idempotency_key = :key
    ON CONFLICT (delegation_key) DO UPDATE SET state = 'in_flight', attempts = compensations.attempts + 1,
        arguments = CASE WHEN compensations.sent_at IS NULL THEN excluded.arguments ELSE compensations.arguments END,
        sent_at = coalesce(compensations.sent_at, now()), deadline_at = excluded.deadline_at, remote_url = NULL,
        error_code = NULL, error = NULL, finished_at = NULL
""")
_TRY = text("""
    INSERT INTO compensations (delegation_key, task_id, step_number, index, agent, task, idempotency_key, state, reply,
                               error_code, error, remote_url, finished_at)
    SELECT idempotency_key, task_id, step_number, index, agent, 'Undo: ' || task, :undo_key, :state,
           nullif(CAST(:reply AS jsonb), 'null'), :error_code, :error, :remote_url, CASE WHEN :closed THEN now() END
    FROM delegations WHERE idempotency_key = :key
    ON CONFLICT (delegation_key) DO UPDATE SET state = excluded.state, reply = excluded.reply,
        error_code = excluded.error_code, error = excluded.error, remote_url = excluded.remote_url,
        finished_at = excluded.finished_at,
        cleared_at = CASE WHEN excluded.state = 'pending' AND excluded.error_code = 'agent_never_received' THEN now()
            ELSE compensations.cleared_at END
    WHERE compensations.state <> 'succeeded'
""")
_LATE = text("""
    SELECT 1 FROM compensations
    WHERE delegation_key = :key AND attempts = :attempt AND state IN ('in_flight', 'unknown') FOR UPDATE
""")
_UNDONE = text("""
    UPDATE delegations SET state = 'compensated' WHERE idempotency_key = :key AND state = 'succeeded'
    RETURNING agent, step_number
""")
_GO_ON = text("UPDATE tasks SET lost_leases = 0, updated_at = now() WHERE task_id = :task_id")
_REST = text("""
    UPDATE tasks SET waits_for = :waits_for, wait = CAST(:wait AS jsonb), due_at = :due_at, woken = false, rings = 0,
        lost_leases = 0, lease_owner = NULL, lease_until = NULL, updated_at = now()
    WHERE task_id = :task_id
""")
_END = text("""
    UPDATE tasks SET state = :state, waits_for = NULL, wait = '{}', due_at = NULL, woken = false, rings = 0,
        lost_leases = 0, lease_owner = NULL, lease_until = NULL, cancel_requested = false,
        reason_code = :reason_code, reason = :reason, ended_at = now(), updated_at = now(),
        undo = undo || jsonb_build_object('left', CAST(:left AS integer))
    WHERE task_id = :task_id
""")


class UndoPart(Transactions):
    """Implements `orchestrator.flow.compensate.UndoStore`."""

    def undo_items(self, task_id: str) -> Sequence[Undoing]:
        """Every delegation that acted or may have acted, newest first, with its compensation."""
        return self.transact(lambda connection: load_items(connection, task_id))

    def write_undo(self, lease: Lease, commit: UndoCommit) -> UndoCommitted:
        """Write one fenced transaction of an undo."""
        return self.transact(lambda connection: _write(connection, lease, commit))

    def settle_undo_late(self, task_id: str, attempt: int, tried: Tried) -> bool:
        """Store a compensation's answer that came after the lease was lost, under its own attempt."""

        def work(connection: Connection) -> bool:
            connection.execute(text("SELECT 1 FROM tasks WHERE task_id = :id FOR UPDATE"), {"id": task_id})
            if connection.execute(_LATE, {"key": tried.key, "attempt": attempt}).first() is None:
                return False
            _try(connection, task_id, tried)
            connection.execute(WAKE_UNDO, {"task_id": task_id})
            return True

        return self.transact(work)


def _write(connection: Connection, lease: Lease, commit: UndoCommit) -> UndoCommitted:
    task = connection.execute(_FENCE, fence_of(lease)).first()
    if task is None:
        raise LeaseLost(f"the undo of task {lease.task_id!r} was taken over or has ended", task_id=lease.task_id)
    if commit.settled is not None:
        _settle(connection, commit.settled)
    if commit.begun is not None:
        _begin(connection, commit.begun)
    if commit.tried is not None:
        _try(connection, lease.task_id, commit.tried)
    items = load_items(connection, lease.task_id)
    match commit.then:
        case Rest(waits_for, due_at, reason, until_canceled):
            wait = jsonb({"reason": reason})
            if until_canceled and not any(item.canceling for item in items):
                due_at = datetime.now(UTC)
            connection.execute(
                _REST, {"task_id": lease.task_id, "waits_for": waits_for.value, "wait": wait, "due_at": due_at}
            )
        case GoOn():
            connection.execute(_GO_ON, {"task_id": lease.task_id})
        case _ if all(item.is_closed for item in items):
            return _end(connection, lease.task_id, task, items)
    if commit.tried is not None and commit.tried.closed:
        tell_undo(connection, lease.task_id, task, TaskState.COMPENSATING, (task.reason_code, task.reason), items)
    return UndoCommitted(TaskState.COMPENSATING, items)


def _settle(connection: Connection, settled: Settled) -> None:
    if settled.settlement is None:
        connection.execute(_SEND_AGAIN, {"key": settled.key, "deadline_at": settled.deadline_at})
        return
    settlement = settled.settlement
    connection.execute(
        _SETTLE_DELEGATION,
        {
            "key": settled.key,
            "state": settlement.state.value,
            "reply": jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
        },
    )


def _begin(connection: Connection, begun: Begun) -> None:
    connection.execute(
        _BEGIN,
        {
            "key": begun.key,
            "undo_key": undo_key(begun.key),
            "arguments": jsonb(dict(begun.arguments)),
            "deadline_at": begun.deadline_at,
        },
    )


def _try(connection: Connection, task_id: str, tried: Tried) -> None:
    settlement = tried.settlement
    connection.execute(
        _TRY,
        {
            "key": tried.key,
            "undo_key": undo_key(tried.key),
            "state": settlement.state.value,
            "reply": jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
            "closed": tried.closed,
        },
    )
    if settlement.state is DelegationState.SUCCEEDED:
        undone = connection.execute(_UNDONE, {"key": tried.key}).first()
        if undone is not None:
            forget(connection, task_id, tried.key, undone.agent, undone.step_number)


def forget(connection: Connection, task_id: str, key: str, agent: str, step: int) -> None:
    """Take out of the context what an undone delegation had given: it is not so any more."""
    context = load_context(connection, task_id)
    origin = Origin("undo", agent, datetime.now(UTC), step=step, delegation=key)
    gone = [name for name, given in context.origins.items() if given.delegation == key]
    changes = [Change(name, None, origin, removed=True) for name in gone]
    write_changes(connection, task_id, context, changes, step)


def _end(connection: Connection, task_id: str, task: Row[Any], items: Sequence[Undoing]) -> UndoCommitted:
    state = TaskState(task.undo["then"])
    words = undo_words(undo_report(task.undo, items))
    reason = f"{task.undo['reason']}; {words}" if task.undo.get("reason") else words
    code = task.undo.get("reason_code")
    left = sum(not item.is_undone for item in items)
    connection.execute(
        _END, {"task_id": task_id, "state": state.value, "reason_code": code, "reason": reason, "left": left}
    )
    tell_undo(connection, task_id, task, state, (code, reason), items)
    return UndoCommitted(state, items, reason)


def tell_undo(
    connection: Connection,
    task_id: str,
    task: Any,
    state: TaskState,
    reason: tuple[str | None, str | None],
    items: Sequence[Undoing],
) -> None:
    """Write state and update of a task that is being undone, or was.

    Args:
        connection: of the transaction.
        task_id: the task.
        task: its row, with ``undo``, ``source`` and ``next_step``.
        state: as it is from now on.
        reason: reason code and reason of the state.
        items: what was undone and what not.
    """
    connection.execute(WRITE_STATE, {"task_id": task_id, "state": state.value})
    context = load_context(connection, task_id)
    body = update_body(
        task_id=task_id,
        state=state.value,
        step=task.next_step,
        context=context,
        waits_for=None,
        reason_code=reason[0],
        reason=reason[1],
        source=task.source,
        undo=undo_report(task.undo, items),
        cancellations=cancellations_told(connection, task_id),
    )
    tell(connection, body, context)
