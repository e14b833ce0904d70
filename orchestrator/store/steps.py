"""Advancing a task: claiming its lease, keeping it, handing it back. What a step writes is in `fenced_commit`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.budget import Spent
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import (
    Claim,
    Committed,
    Dispatch,
    HistoryEntry,
    Lease,
    NotClaimed,
    PendingEvent,
    Settlement,
    StepCommit,
)
from orchestrator.domain.task import TaskState
from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.turns import MOST_URGENT, TurnRules
from orchestrator.errors import LeaseLost, NewerJournal
from orchestrator.store.delegations import DelegationPart
from orchestrator.store.engine import jsonb, text
from orchestrator.store.fenced_commit import DELEGATIONS, WRITE_STATE, FencedCommit, fence_of
from orchestrator.store.history import load_history
from orchestrator.store.offers import keep_offer
from orchestrator.store.questions import question_of
from orchestrator.store.rows import (
    context_of,
    delegation_of,
    pending_event_of,
    step_of,
    task_of,
)
from orchestrator.store.spending import write_reservation
from orchestrator.store.turns import AGED

_CLAIM = text(f"""
    UPDATE tasks SET
        epoch = epoch + 1,
        lease_owner = :owner,
        lost_leases = lost_leases + CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END,
        lease_until = now() + CAST(:lease_for AS interval),
        due_at = now() + CAST(:lease_for AS interval),
        aged = least({MOST_URGENT}, aged + coalesce({AGED.format(since="ready_at")}, 0)),
        ready_at = NULL,
        rings = 0,
        woken = false,
        spent_tokens = spent_tokens + reserved_tokens,
        spent_money = spent_money + reserved_money,
        reserved_tokens = 0,
        reserved_money = 0,
        state = CASE WHEN state = 'compensating' THEN state ELSE 'processing' END,
        waits_for = NULL,
        updated_at = now()
    WHERE task_id = :task_id AND next_step = :step AND NOT paused
      AND state IN ('received', 'processing', 'waiting', 'compensating')
      AND (lease_until IS NULL OR lease_until < now())
      AND (state NOT IN ('waiting', 'compensating') OR woken OR cancel_requested OR due_at <= now())
      AND (state <> 'received' OR not_before IS NULL OR not_before <= now())
    RETURNING *
""")  # noqa: S608  # constants of ours only

_LOAD = text("""
    SELECT
        (SELECT to_jsonb(c) FROM task_contexts c WHERE c.task_id = :task_id) AS context,
        (SELECT jsonb_agg(e ORDER BY e.id) FROM (
            SELECT id, event_type, body, received_at FROM inbox
            WHERE task_id = :task_id AND state IN ('pending', 'early')) e) AS events,
        (SELECT jsonb_agg(q ORDER BY q.asked_at, q.ref) FROM questions q
            LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
            WHERE q.task_id = :task_id AND NOT coalesce(s.superseded, false)
              AND (q.state IN ('open', 'answered') OR q.step_number = :step)) AS questions
""")

_NOT_CLAIMED = text("SELECT state, paused, next_step, lease_until >= now() AS held FROM tasks WHERE task_id = :task_id")

_RELEASE = text("""
    UPDATE tasks SET lease_owner = NULL, lease_until = NULL, due_at = :retry_at, updated_at = now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, epoch bigint, owner text)
    WHERE tasks.task_id = r.task_id AND tasks.epoch = r.epoch AND tasks.lease_owner = r.owner
      AND tasks.next_step = r.step
    RETURNING tasks.*
""")

_RENEW = text("""
    UPDATE tasks SET lease_until = now() + CAST(:lease_for AS interval), due_at = now() + CAST(:lease_for AS interval)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, epoch bigint, owner text)
    WHERE tasks.task_id = r.task_id AND tasks.epoch = r.epoch AND tasks.lease_owner = r.owner
      AND tasks.next_step = r.step
      AND tasks.lease_until IS NOT NULL
    RETURNING tasks.task_id, tasks.lease_owner
""")

_SETTLE_LATE = text("""
    UPDATE delegations SET state = :state, reply = CAST(:reply AS jsonb), error_code = :error_code, error = :error,
        remote_url = :remote_url, finished_at = now(), parked = false
    WHERE idempotency_key = :key AND attempts = :attempt AND state IN ('in_flight', 'unknown')
    RETURNING task_id, step_number
""")

_WAKE_STEP = text("""
    UPDATE tasks SET woken = true, due_at = now()
    WHERE task_id = :task_id AND next_step = :step AND state IN ('waiting', 'compensating')
""")


class StepPart(DelegationPart):
    """Implements `orchestrator.flow.ports.StepStore`."""

    stall: timedelta
    kept_offers: set[str]
    """Digests of what is known to be in ``offers``: an offer is written once a process, not with every step."""
    turns: TurnRules

    def claim(self, task_id: str, step: int, owner: str, lease_for: timedelta) -> Claim | NotClaimed:
        """Take the lease and load what the step needs."""
        owner = f"{owner}:{secrets.token_hex(4)}"  # of this claim alone, see `fence_of`
        parameters = {
            "task_id": task_id,
            "step": step,
            "owner": owner,
            "lease_for": lease_for,
            "ageing": self.turns.ageing.total_seconds(),
        }

        def work(connection: Connection) -> Claim | NotClaimed:
            row = connection.execute(_CLAIM, parameters).mappings().first()
            if row is None:
                return _why_not(connection, task_id, step)
            loaded = connection.execute(_LOAD, {"task_id": task_id, "step": step}).one()
            if loaded.context["context"]["current_state"] != row["state"]:
                connection.execute(WRITE_STATE, {"task_id": task_id, "state": row["state"]})
            step_row = (
                connection.execute(
                    text("SELECT * FROM steps WHERE task_id = :task_id AND step_number = :step"), parameters
                )
                .mappings()
                .first()
            )
            delegations: tuple[Delegation, ...] = ()
            if step_row is not None:
                rows = connection.execute(DELEGATIONS, parameters).mappings()
                delegations = tuple(delegation_of(r) for r in rows)
            claim = Claim(
                lease=Lease(task_id, step, row["epoch"], owner),
                task=task_of(row),
                context=context_of(loaded.context),
                step=None if step_row is None else step_of(step_row),
                delegations=delegations,
                events=tuple(_event_of_json(e) for e in loaded.events or ()),
                questions=tuple(question_of(q) for q in loaded.questions or ()),
            )
            _refuse_what_is_newer(claim)
            return claim

        # A claim that a crash of PostgreSQL forgets has done nothing yet: it need not wait for the disk.
        return self.transact(work, durable=False)

    def commit(self, lease: Lease, commit: StepCommit) -> Committed:
        """Write one fenced transaction."""
        offer = commit.offer if commit.offer is not None and commit.offer.digest not in self.kept_offers else None

        def work(connection: Connection) -> Committed:
            if offer is not None:
                keep_offer(connection, offer, self.kept_offers)
            return FencedCommit(connection, lease, commit, self.stall).write()

        committed = self.transact(work)
        if offer is not None:
            self.kept_offers.update(offer.entries())
        return committed

    def reserve(self, lease: Lease, spent: Spent) -> None:
        """Write what is spent and reserved, before a model is asked."""
        if not self.transact(lambda connection: write_reservation(connection, fence_of(lease), spent)):
            raise LeaseLost(
                f"step {lease.step} of task {lease.task_id!r} was taken over or has ended", task_id=lease.task_id
            )

    def release(self, leases: Sequence[Lease], retry_at: datetime) -> Sequence[Dispatch]:
        """Hand steps back unfinished; returns the doorbells of those that were still held."""
        of_delegations = self.release_delegations([one for one in leases if one.index is not None], retry_at)
        of_tasks = [lease for lease in leases if lease.index is None]
        if not of_tasks:
            return of_delegations
        parameters = {"rows": _rows_of(of_tasks), "retry_at": retry_at}
        rows = self.transact(lambda connection: connection.execute(_RELEASE, parameters).mappings().all())
        tasks = [task_of(row) for row in rows]
        steps = [Dispatch(task.task_id, task.next_step, task.urgency, task.lane) for task in tasks]
        return [*of_delegations, *steps]

    def renew(self, leases: Sequence[Lease], lease_for: timedelta) -> Sequence[Lease]:
        """Prolong leases; returns those that were lost."""
        of_tasks = [lease for lease in leases if lease.index is None]
        of_delegations = [lease for lease in leases if lease.index is not None]
        return [*self._renew_tasks(of_tasks, lease_for), *self.renew_delegations(of_delegations, lease_for)]

    def _renew_tasks(self, leases: Sequence[Lease], lease_for: timedelta) -> Sequence[Lease]:
        if not leases:
            return []
        parameters = {"rows": _rows_of(leases), "lease_for": lease_for}
        kept = self.transact(
            lambda connection: {(r.task_id, r.lease_owner) for r in connection.execute(_RENEW, parameters)},
            durable=False,
        )
        return [lease for lease in leases if (lease.task_id, lease.owner) not in kept]

    def settle_late(self, key: str, attempt: int, settlement: Settlement) -> bool:
        """Store an answer that came after the lease was lost."""
        parameters = {
            "key": key,
            "attempt": attempt,
            "state": settlement.state.value,
            "reply": None if settlement.reply is None else jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
        }

        def work(connection: Connection) -> bool:
            row = connection.execute(_SETTLE_LATE, parameters).first()
            if row is not None:
                connection.execute(_WAKE_STEP, {"task_id": row.task_id, "step": row.step_number})
            return row is not None

        return self.transact(work)

    def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """All steps with their delegations, oldest first."""
        return self.transact(lambda connection: load_history(connection, task_id))


def _rows_of(leases: Sequence[Lease]) -> str:
    # In one order, so that two statements over the same tasks do not wait for each other.
    return jsonb([fence_of(lease) for lease in sorted(leases, key=lambda lease: lease.task_id)])


def _refuse_what_is_newer(claim: Claim) -> None:
    values: list[JournalValue] = [one.state for one in claim.delegations]
    if claim.step is not None:
        values.append(claim.step.state)
        if claim.step.decision is not None:
            values.append(claim.step.decision.kind)
    if unknown := sorted({str(value) for value in values if not value.is_known}):
        raise NewerJournal(
            f"step {claim.lease.step} of task {claim.task.task_id!r} holds what this version does not know: "
            f"{', '.join(unknown)}",
            hint="A newer worker goes on with it; upgrade this one.",
            task_id=claim.task.task_id,
        )


def _event_of_json(data: dict[str, Any]) -> PendingEvent:
    return pending_event_of({**data, "received_at": datetime.fromisoformat(data["received_at"])})


def _why_not(connection: Connection, task_id: str, step: int) -> NotClaimed:
    row = connection.execute(_NOT_CLAIMED, {"task_id": task_id}).first()
    if row is None:
        return NotClaimed.NO_TASK
    if TaskState(row.state).is_terminal:
        return NotClaimed.ENDED
    if row.next_step != step:
        return NotClaimed.NOT_NEXT
    if row.paused:
        return NotClaimed.PAUSED
    return NotClaimed.HELD if row.held else NotClaimed.NOT_DUE
