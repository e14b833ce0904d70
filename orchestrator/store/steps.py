"""Advancing a task: claiming its lease, keeping it, handing it back. What a step writes is in `fenced_commit`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from orchestrator.domain.budget import Spent
from orchestrator.domain.journal import (
    Claim,
    Committed,
    Dispatch,
    HistoryEntry,
    Lease,
    NextStep,
    NotClaimed,
    Settlement,
    StepCommit,
)
from orchestrator.domain.json_text import json_text
from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.turns import TurnRules
from orchestrator.domain.value import replace
from orchestrator.errors import NewerJournal, StoreUnavailable
from orchestrator.store.calling import CallPart
from orchestrator.store.delegations import DelegationPart
from orchestrator.store.engine import jsonb, text
from orchestrator.store.fenced_commit import FencedCommit, fence_of, lease_lost
from orchestrator.store.history import load_history
from orchestrator.store.offers import keep_offer
from orchestrator.store.rows import task_of
from orchestrator.store.spending import write_reservation
from orchestrator.store.step_calls import CLAIMS, COMMITS, claim_of, claim_owner, committed_of, usual_commit

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
    WHERE task_id = :task_id AND next_step = :step
      AND CASE WHEN state IN ('waiting', 'compensating') THEN true ELSE false END
""")


class StepPart(DelegationPart, CallPart):
    """Implements `orchestrator.flow.ports.StepStore`."""

    stall: timedelta
    kept_offers: set[str]
    """Digests of what is known to be in ``offers``: an offer is written once a process, not with every step."""
    turns: TurnRules

    def claim(self, task_id: str, step: int, owner: str, lease_for: timedelta) -> Claim | NotClaimed:
        """Take the lease and load what the step needs."""
        owner = claim_owner(owner)
        parameters = {
            "task_id": task_id,
            "step": step,
            "owner": owner,
            "lease_for": lease_for,
            "ageing": self.turns.ageing.total_seconds(),
        }
        answer = self.call(CLAIMS, parameters)
        if answer["refused"] is not None:
            return NotClaimed(answer["refused"])
        lease = Lease(task_id, step, answer["task"]["epoch"], owner, left_by=answer["left_by"])
        try:
            claim = claim_of(lease, answer)
            _refuse_what_is_newer(claim)
        except Exception:
            # The claim is committed: left as it is, it would count as the lease of a worker that died. What a newer
            # version wrote may be of a shape that cannot be read at all.
            with suppress(StoreUnavailable):
                self.release([lease], datetime.now(UTC) + self.stall)
            raise
        return claim

    def commit(self, lease: Lease, commit: StepCommit) -> Committed:
        """Write one fenced transaction."""
        kept = self.kept_offers  # another one as soon as the server may be older
        offer = commit.offer if commit.offer is not None and commit.offer.digest not in kept else None
        commit = self._without_news(commit)
        written = usual_commit(lease, commit, self.stall) if offer is None else None
        if written is not None:
            answer = self.call(COMMITS, json_text(written))
            if answer["outcome"] == "written":
                return committed_of(lease, commit, written, answer)

        def work(connection: Connection) -> Committed:
            if offer is not None:
                keep_offer(connection, offer, kept)
            return FencedCommit(connection, lease, commit, self.stall).write()

        committed = self.transact(work)
        if offer is not None:
            kept.update(offer.entries())
        return committed

    def _without_news(self, commit: StepCommit) -> StepCommit:
        """The commit without a decision made ahead on an offer that is not kept yet: deciding again writes it."""
        then = commit.then
        if not isinstance(then, NextStep) or then.ahead is None or then.ahead.offer is None:
            return commit
        if then.ahead.offer.digest in self.kept_offers:
            return commit
        return replace(commit, then=replace(then, ahead=None))

    def reserve(self, lease: Lease, spent: Spent) -> None:
        """Write what is spent and reserved, before a model is asked."""
        if not self.transact(lambda connection: write_reservation(connection, fence_of(lease), spent)):
            raise lease_lost(lease)

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
