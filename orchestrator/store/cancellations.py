"""Working through calls that are not wanted any more: claiming one, writing what its agent said, ringing what is due.

No lease: a try lasts seconds, saying it twice is harmless, and whoever comes later is fenced by the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.cancellation import CancelClaim, Cancellation, CancelVerdict
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Dispatch, NotClaimed, Settled, Settlement
from orchestrator.domain.task import TaskState
from orchestrator.domain.turns import place_of, urgency_of
from orchestrator.errors import NewerJournal
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.rows import delegation_of
from orchestrator.store.tell_state import tell_as_it_is
from orchestrator.store.unwanted import cancellation_of, load_cancellations, rung_unwanted

_TAKE = text("""
    UPDATE cancellations SET epoch = epoch + 1, attempts = attempts + 1, woken = false, rings = 0,
        due_at = now() + CAST(:try_for AS interval)
    WHERE task_id = :task_id AND step_number = :step AND index = :index AND finished_at IS NULL
      AND (woken OR due_at <= now())
    RETURNING *
""")
_OPEN = text("""
    SELECT 1 FROM cancellations
    WHERE task_id = :task_id AND step_number = :step AND index = :index AND finished_at IS NULL
""")
# A worker waits for its answer: that of a single call holds the task's lease, of several each has its own.
_CALL = text("""
    SELECT d.*, d.state = 'in_flight' AND (coalesce(d.lease_until >= now(), false)
        OR (coalesce(t.lease_until >= now(), false) AND t.next_step = d.step_number AND t.state = 'processing'))
            AS under_way,
        d.state <> 'pending' OR d.may_have_acted AS was_sent
    FROM delegations d JOIN tasks t USING (task_id) WHERE d.idempotency_key = :key
""")
_LOCK_TASK = text("SELECT * FROM tasks WHERE task_id = :task_id FOR UPDATE")
_WRITE = text("""
    UPDATE cancellations SET state = :state, error = :error, due_at = :due_at,
        attempts = attempts - CASE WHEN :exchanged THEN 0 ELSE 1 END,
        finished_at = CASE WHEN :open THEN NULL ELSE now() END
    WHERE delegation_key = :key AND epoch = :epoch AND finished_at IS NULL
""")
# An outcome counts whoever brings it, unless another is known or the call was sent anew meanwhile. That nobody can tell
# is written only where nobody else is at it any more.
_SETTLE = text("""
    UPDATE delegations SET state = :state, reply = nullif(CAST(:reply AS jsonb), 'null'), error_code = :error_code,
        error = :error, parked = :parked, due_at = NULL, woken = false,
        remote_url = CASE WHEN :state = 'in_flight' THEN :remote_url WHEN :state = 'unknown' AND NOT :parked THEN NULL
            ELSE remote_url END,
        may_have_acted = :state IN ('unknown', 'in_flight') OR (:state = 'failed' AND :error_code = 'reply_invalid'),
        finished_at = CASE WHEN :state IN ('succeeded', 'failed') THEN now() END
    WHERE idempotency_key = :key AND attempts = :attempt
      AND (state IN ('in_flight', 'unknown') OR (state = 'pending' AND may_have_acted))
      AND (:state IN ('succeeded', 'failed') OR NOT coalesce(lease_until >= now(), false))
""")
# An undo waits until what was in flight when it began is known.
WAKE_UNDO = text("""
    UPDATE tasks SET woken = true, due_at = now()
    WHERE task_id = :task_id AND CASE WHEN state = 'compensating' THEN true ELSE false END
""")
_RING = text("""
    WITH due AS (
        SELECT c.delegation_key, t.priority, t.aged FROM cancellations c JOIN tasks t USING (task_id)
        WHERE c.due_at <= now() ORDER BY c.due_at LIMIT :limit FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE cancellations SET due_at = now() + CAST(:stall AS interval), woken = true, rings = rings + 1
    FROM due WHERE cancellations.delegation_key = due.delegation_key
    RETURNING cancellations.task_id, step_number, index AS place, due.priority, due.aged
""")
RING_AGAIN = text("UPDATE cancellations SET due_at = now(), rings = 0 WHERE due_at > now() AND woken")


class CancellationPart(Transactions):
    """Implements `orchestrator.flow.cancel_calls.CancelStore`, and what sweep and command line need of it."""

    def claim_cancellation(self, place: Dispatch, try_for: timedelta) -> CancelClaim | NotClaimed:
        """Take one up, for as long as a try may last."""
        keys: dict[str, Any] = {"task_id": place.task_id, "step": place.step, "index": place.index}

        def work(connection: Connection) -> CancelClaim | NotClaimed:
            row = connection.execute(_TAKE, keys | {"try_for": try_for}).mappings().first()
            if row is None:
                there = connection.execute(_OPEN, keys).first() is not None
                return NotClaimed.NOT_DUE if there else NotClaimed.ENDED
            found = connection.execute(_CALL, {"key": row["delegation_key"]}).mappings().one()
            cancellation, delegation = cancellation_of(row), delegation_of(found)
            if unknown := [str(one) for one in (cancellation.state, delegation.state) if not one.is_known]:
                raise NewerJournal(
                    f"the cancel of call {delegation.ref} of task {place.task_id!r} holds what this version does not "
                    f"know: {', '.join(unknown)}",
                    hint="A newer worker goes on with it; upgrade this one.",
                    task_id=place.task_id,
                )
            return CancelClaim(cancellation, delegation, row["epoch"], found["under_way"], found["was_sent"])

        return self.transact(work)

    def write_cancellation(self, claim: CancelClaim, verdict: CancelVerdict) -> Settled:
        """Write what came of a try, and what is known of the call by it; wakes an undo that waits for that."""
        task_id = claim.cancellation.task_id
        parameters = {
            "key": claim.cancellation.key,
            "epoch": claim.epoch,
            "state": verdict.state.value,
            "open": verdict.state.is_open,
            "error": verdict.error,
            "due_at": verdict.due_at,
            "exchanged": verdict.exchanged,
        }

        def work(connection: Connection) -> Settled:
            # The task first, as everybody does.
            task = connection.execute(_LOCK_TASK, {"task_id": task_id}).one()
            if connection.execute(_WRITE, parameters).rowcount != 1:
                return Settled(stored=False)
            if verdict.settlement is not None:
                _settle(connection, claim, verdict.settlement, task)
            if verdict.state.is_open:
                return Settled(stored=True)
            if task.state != "completed":  # it ended before the cancel came, and that was told
                tell_as_it_is(connection, task)
            woken = connection.execute(WAKE_UNDO, {"task_id": task_id}).rowcount
            step = Dispatch(task_id, task.next_step, urgency_of(task.priority, task.aged), task.lane)
            return Settled(stored=True, doorbells=(step,) * woken)

        return self.transact(work)

    def ring_due_cancellations(self, limit: int, stall: timedelta) -> Sequence[Dispatch]:
        """Take up to ``limit`` that are due, most urgent first; each is due again later unless it moves."""
        rows = self.transact(lambda connection: connection.execute(_RING, {"limit": limit, "stall": stall}).all())
        bells = [
            Dispatch(row.task_id, row.step_number, urgency_of(row.priority, row.aged), index=row.place, cancels=True)
            for row in rows
        ]
        return sorted(bells, key=lambda bell: place_of(bell.priority, bell.lane))

    def unwanted_calls(self, task_id: str) -> Sequence[Dispatch]:
        """The doorbells of what was noted for a task and nobody has taken up."""
        return self.transact(lambda connection: rung_unwanted(connection, task_id))

    def cancellations(self, task_id: str) -> Sequence[Cancellation]:
        """Calls whose agents were to be told that they are not wanted any more, in their order."""
        return self.transact(lambda connection: load_cancellations(connection, task_id))


def _settle(connection: Connection, claim: CancelClaim, settlement: Settlement, task: Row[Any]) -> None:
    ended = TaskState(task.state).is_terminal
    if settlement.state is DelegationState.UNKNOWN and settlement.parked and (claim.under_way or not ended):
        return  # a worker may still bring the reply; an undo has its own ways to find out
    connection.execute(
        _SETTLE,
        {
            "key": claim.delegation.key,
            "attempt": claim.delegation.attempts,
            "state": settlement.state.value,
            "reply": jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
            "parked": settlement.parked,
        },
    )
