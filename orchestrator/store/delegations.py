"""One delegation of a parallel step: claiming its lease, settling it, and ringing for those that are due.

Its lease is its own, so that many of a step run side by side without the task's. Settling joins: see `fan_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import (
    DelegationClaim,
    Dispatch,
    FanOut,
    Lease,
    NotClaimed,
    Settled,
    Settlement,
    Start,
)
from orchestrator.domain.progress import is_worth_telling
from orchestrator.domain.task import Task, TaskState
from orchestrator.domain.turns import place_of, urgency_of
from orchestrator.domain.value import replace
from orchestrator.errors import NewerJournal
from orchestrator.store.cancellations import WAKE_UNDO
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.fan_out import release
from orchestrator.store.published import update_body
from orchestrator.store.read import load_context
from orchestrator.store.rows import delegation_of, task_of
from orchestrator.store.sweep import BUSY_STALLS, MAX_STALL
from orchestrator.store.tell import tell

# Shared with other claims, so that a step's delegations begin side by side, but not with whoever moves the task.
_TASK = text("SELECT * FROM tasks WHERE task_id = :task_id FOR SHARE")

_LOCK_TASK = text("SELECT * FROM tasks WHERE task_id = :task_id FOR UPDATE")

_FOUND = text("""
    SELECT *, coalesce(lease_until >= now(), false) AS held, woken OR coalesce(due_at <= now(), false) AS due
    FROM delegations WHERE task_id = :task_id AND step_number = :step AND index = :index FOR UPDATE
""")

_TAKE = text("""
    UPDATE delegations SET epoch = epoch + 1, lease_owner = :owner,
        lost_leases = lost_leases + CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END,
        lease_until = now() + CAST(:lease_for AS interval), due_at = now() + CAST(:lease_for AS interval),
        woken = false, rings = 0
    WHERE id = :id
    RETURNING *
""")

# As `_TAKE`, and the intent to send: on disk before the request leaves.
_TAKE_TO_SEND = text("""
    UPDATE delegations SET epoch = epoch + 1, lease_owner = :owner,
        lost_leases = lost_leases + CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END,
        lease_until = now() + CAST(:lease_for AS interval), due_at = now() + CAST(:lease_for AS interval),
        woken = false, rings = 0,
        state = 'in_flight', attempts = attempts + 1, sent_at = coalesce(sent_at, now()), deadline_at = :deadline_at,
        remote_url = NULL, error_code = NULL, error = NULL, finished_at = NULL,
        may_have_acted = may_have_acted OR state IN ('in_flight', 'unknown')
    WHERE id = :id
    RETURNING *
""")

_RENEW = text("""
    UPDATE delegations SET lease_until = now() + CAST(:lease_for AS interval),
        due_at = now() + CAST(:lease_for AS interval)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, index int, epoch bigint, owner text)
    WHERE delegations.task_id = r.task_id AND delegations.step_number = r.step AND delegations.index = r.index
      AND delegations.epoch = r.epoch AND delegations.lease_owner = r.owner AND delegations.lease_until IS NOT NULL
    RETURNING delegations.lease_owner
""")

_RELEASE = text("""
    UPDATE delegations SET lease_owner = NULL, lease_until = NULL, due_at = :retry_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, index int, epoch bigint, owner text),
        tasks t
    WHERE delegations.task_id = r.task_id AND delegations.step_number = r.step AND delegations.index = r.index
      AND delegations.epoch = r.epoch AND delegations.lease_owner = r.owner AND delegations.lease_until IS NOT NULL
      AND t.task_id = r.task_id
    RETURNING delegations.task_id, delegations.step_number, delegations.index AS place, t.priority, t.aged, t.lane
""")

# An outcome counts for its own attempt whoever brings it, until one is known; anything less only from the holder.
_SETTLE = text("""
    UPDATE delegations SET state = :state, reply = CAST(:reply AS jsonb), error_code = :error_code, error = :error,
        remote_url = :remote_url, parked = :parked AND told IS NULL, woken = false, rings = 0,
        due_at = CASE WHEN told IS NOT NULL AND :state NOT IN ('succeeded', 'failed') THEN now()
            ELSE CAST(:due_at AS timestamptz) END,
        lease_owner = NULL, lease_until = NULL, lost_leases = 0,
        finished_at = CASE WHEN :state IN ('succeeded', 'failed') THEN now() END,
        may_have_acted = (may_have_acted OR :may_have_acted OR :state = 'unknown')
            AND CAST(:error_code AS text) IS DISTINCT FROM 'agent_never_received',
        deadline_at = coalesce(CAST(:deadline_at AS timestamptz), deadline_at),
        cleared_at = CASE WHEN :state = 'pending' AND CAST(:error_code AS text) = 'agent_never_received' THEN now()
            ELSE cleared_at END
    WHERE task_id = :task_id AND step_number = :step AND index = :index AND attempts = :attempt
      AND state IN ('pending', 'in_flight', 'unknown')
      AND ((epoch = :epoch AND lease_owner = :owner) OR (:state IN ('succeeded', 'failed') AND state <> 'pending'))
""")

_WAKE_STEP = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:stall AS interval), rings = 1
    WHERE task_id = :task_id AND CASE WHEN state = 'waiting' AND waits_for = 'agent' THEN true ELSE false END
""")

_RING = text("""
    WITH due AS (
        SELECT d.id, t.priority, t.aged, t.lane FROM delegations d JOIN tasks t ON t.task_id = d.task_id
        WHERE d.due_at <= now() AND (d.lease_until IS NULL OR d.lease_until < now())
          AND CASE WHEN NOT t.paused AND t.next_step = d.step_number AND t.state IN ('processing', 'waiting')
              THEN true ELSE false END
          AND (NOT :busy OR NOT d.woken OR d.lease_until IS NOT NULL
               OR d.due_at <= now() - CAST(:patience AS interval))
        ORDER BY t.priority + t.aged DESC, t.lane, d.due_at
        LIMIT :limit
        FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE delegations SET
        due_at = now() + least(CAST(:stall AS interval) * power(2, CASE WHEN :busy THEN least(rings, 20) ELSE 0 END),
                               CAST(:most AS interval)),
        woken = true,
        rings = rings + 1
    FROM due WHERE delegations.id = due.id
    RETURNING delegations.task_id, step_number, index AS place, due.priority, due.aged, due.lane
""")

# What its task left behind: nobody waits for it any more, and what became of a call under way nobody knows.
_LEAVE = text("""
    UPDATE delegations SET due_at = NULL, woken = false, lease_owner = NULL, lease_until = NULL,
        state = CASE WHEN delegations.state = 'in_flight' THEN 'unknown' ELSE delegations.state END,
        error_code = CASE WHEN delegations.state = 'in_flight' THEN 'interrupted' ELSE error_code END,
        error = CASE WHEN delegations.state = 'in_flight' THEN 'its step had ended when its worker was gone'
                     ELSE error END
    FROM (
        SELECT d.id FROM delegations d JOIN tasks t ON t.task_id = d.task_id
        WHERE d.due_at <= now() AND (d.lease_until IS NULL OR d.lease_until < now())
          AND (t.next_step <> d.step_number OR t.state NOT IN ('processing', 'waiting', 'compensating'))
        LIMIT :limit FOR UPDATE OF d SKIP LOCKED
    ) AS left_behind
    WHERE delegations.id = left_behind.id
""")


class DelegationPart(Transactions):
    """Implements `orchestrator.flow.delegation_run.DelegationStore`, and what sweep and heartbeat need of it."""

    stall: timedelta

    def claim_delegation(
        self, lease_for: timedelta, place: Dispatch, owner: str, begin: Callable[[Task, Delegation], Start | None]
    ) -> DelegationClaim | NotClaimed:
        """Take the lease of a delegation, and mark it in flight where ``begin`` says that it is to be sent."""
        keys = {"task_id": place.task_id, "step": place.step, "index": place.index}

        def work(connection: Connection) -> DelegationClaim | NotClaimed:
            task_row = connection.execute(_TASK, keys).mappings().first()
            if task_row is None:
                return NotClaimed.NO_TASK
            found = connection.execute(_FOUND, keys).mappings().first()
            if found is None:
                return NotClaimed.NOT_NEXT
            task, delegation = task_of(task_row), delegation_of(found)
            if refused := _why_not(task, place.step):
                return refused
            if not delegation.state.is_known:
                raise NewerJournal(
                    f"delegation {delegation.ref} of task {place.task_id!r} is in a state that this version does not "
                    f"know: {delegation.state}",
                    hint="A newer worker goes on with it; upgrade this one.",
                    task_id=place.task_id,
                )
            if delegation.is_closed:
                return NotClaimed.ENDED
            if found["held"] and found["lease_owner"] == owner:
                lease = Lease(place.task_id, place.step, found["epoch"], owner, delegation.index)
                return DelegationClaim(lease, task, delegation, started=False)
            if found["held"]:
                return NotClaimed.HELD
            if not found["due"]:
                return NotClaimed.NOT_DUE
            # As the claim will have counted it: a lease found run out and never released.
            lost = delegation.lost_leases + (found["lease_until"] is not None)
            start = begin(task, replace(delegation, lost_leases=lost))
            parameters: dict[str, Any] = {"id": found["id"], "owner": owner, "lease_for": lease_for}
            take, sending = (_TAKE, {}) if start is None else (_TAKE_TO_SEND, {"deadline_at": start.deadline_at})
            row = connection.execute(take, parameters | sending).mappings().one()
            lease = Lease(place.task_id, place.step, row["epoch"], owner, delegation.index)
            return DelegationClaim(lease, task, delegation_of(row), started=start is not None)

        return self.transact(work)

    def settle_delegation(
        self, lease: Lease, attempt: int, settlement: Settlement, due_at: datetime | None, fan_out: FanOut
    ) -> Settled:
        """Write what became of a delegation; where it has come to an end, make room for the next or wake the step."""
        keys = {"task_id": lease.task_id, "step": lease.step, "index": lease.index}
        parameters = keys | {
            "epoch": lease.epoch,
            "owner": lease.owner,
            "attempt": attempt,
            "state": settlement.state.value,
            "reply": None if settlement.reply is None else jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
            "parked": settlement.parked,
            "may_have_acted": settlement.may_have_acted,
            "deadline_at": settlement.deadline_at,
            "due_at": due_at,
        }

        def work(connection: Connection) -> Settled:
            if due_at is not None:
                return Settled(connection.execute(_SETTLE, parameters).rowcount == 1)
            # The task first, as everybody does: who settles after us then sees what we wrote.
            task = connection.execute(_LOCK_TASK, keys).one()
            if connection.execute(_SETTLE, parameters).rowcount != 1:
                return Settled(stored=False)
            return Settled(stored=True, doorbells=self._join(connection, lease, task, settlement, fan_out))

        return self.transact(work)

    def _join(
        self, connection: Connection, lease: Lease, task: Row[Any], settlement: Settlement, fan_out: FanOut
    ) -> tuple[Dispatch, ...]:
        if task.state == TaskState.COMPENSATING:
            # Its undo waits for what is under way.
            woken = connection.execute(WAKE_UNDO, {"task_id": lease.task_id}).rowcount
            return (Dispatch(lease.task_id, task.next_step, urgency_of(task.priority, task.aged), task.lane),) * woken
        if task.next_step != lease.step or task.state not in {TaskState.WAITING, TaskState.PROCESSING}:
            return ()
        step = Dispatch(lease.task_id, lease.step, urgency_of(task.priority, task.aged), task.lane)
        released = release(connection, step, fan_out, self.stall)
        if released.moving:
            if settlement.state.is_settled and is_worth_telling(released.settled, released.count):
                _tell_progress(connection, task)
            return released.doorbells
        # A step that is at work now looks for itself before it waits.
        woken = connection.execute(_WAKE_STEP, {"task_id": lease.task_id, "stall": self.stall}).rowcount
        return (step,) if woken else ()

    def renew_delegations(self, leases: Sequence[Lease], lease_for: timedelta) -> Sequence[Lease]:
        """Prolong the leases of delegations; returns those that were lost."""
        if not leases:
            return []
        parameters = {"rows": _rows_of(leases), "lease_for": lease_for}
        kept = self.transact(
            lambda connection: {r.lease_owner for r in connection.execute(_RENEW, parameters)}, durable=False
        )
        return [lease for lease in leases if lease.owner not in kept]

    def release_delegations(self, leases: Sequence[Lease], retry_at: datetime) -> Sequence[Dispatch]:
        """Hand delegations back unfinished; returns the doorbells of those that were still held."""
        if not leases:
            return []
        parameters = {"rows": _rows_of(leases), "retry_at": retry_at}
        return _doorbells(self.transact(lambda connection: connection.execute(_RELEASE, parameters).all()))

    def ring_due_delegations(self, limit: int, stall: timedelta, *, busy: bool = False) -> Sequence[Dispatch]:
        """Take up to ``limit`` delegations that are due; each is due again later unless it moves."""
        parameters = {
            "limit": limit,
            "stall": stall,
            "most": MAX_STALL,
            "busy": busy,
            "patience": stall * (BUSY_STALLS - 1),
        }

        def work(connection: Connection) -> Sequence[Any]:
            connection.execute(_LEAVE, {"limit": limit})
            return connection.execute(_RING, parameters).all()

        return _doorbells(self.transact(work))


def _tell_progress(connection: Connection, task: Row[Any]) -> None:
    """An update that differs from the last in its progress only."""
    context = load_context(connection, task.task_id)
    body = update_body(
        task_id=task.task_id,
        state=task.state,
        step=task.next_step,
        context=context,
        waits_for=task.waits_for,
        reason_code=task.reason_code,
        reason=task.reason,
        source=task.source,
    )
    tell(connection, body, context)


def _doorbells(rows: Sequence[Row[Any]]) -> Sequence[Dispatch]:
    doorbells = [
        Dispatch(row.task_id, row.step_number, urgency_of(row.priority, row.aged), row.lane, row.place) for row in rows
    ]
    return sorted(doorbells, key=lambda doorbell: place_of(doorbell.priority, doorbell.lane))


def _rows_of(leases: Sequence[Lease]) -> str:
    # In one order, so that two statements over the same rows do not wait for each other.
    ordered = sorted(leases, key=lambda one: (one.task_id, one.step, one.index or 0))
    return jsonb(
        [
            {"task_id": one.task_id, "step": one.step, "index": one.index, "epoch": one.epoch, "owner": one.owner}
            for one in ordered
        ]
    )


def _why_not(task: Task, step: int) -> NotClaimed | None:
    if task.state.is_terminal:
        return NotClaimed.ENDED
    if task.next_step != step or task.state not in {TaskState.PROCESSING, TaskState.WAITING}:
        return NotClaimed.NOT_NEXT
    if task.deadline is not None and datetime.now(UTC) >= task.deadline:
        return NotClaimed.LATE
    return NotClaimed.PAUSED if task.paused or task.cancel_requested else None
