"""A person's word on a delegation that is unknown, written and audited in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.control import locked
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.read import not_found
from orchestrator.store.rows import delegation_of

_UNKNOWN = text("""
    SELECT d.* FROM delegations d JOIN steps s USING (task_id, step_number)
    WHERE d.task_id = :task_id AND d.state = 'unknown' AND NOT s.superseded
    ORDER BY d.step_number, d.index
""")
_KNOWN_TASK = text("SELECT 1 FROM tasks WHERE task_id = :task_id")

_SETTLE = text("""
    UPDATE delegations SET state = :state, reply = CAST(:reply AS jsonb), error_code = :error_code, error = :error,
        settled_by = :settled_by, may_have_acted = false, remote_url = NULL, parked = false, due_at = NULL,
        woken = false, lease_owner = NULL, lease_until = NULL,
        finished_at = CASE WHEN :state = 'pending' THEN NULL ELSE now() END,
        cleared_at = CASE WHEN :state = 'pending' THEN now() ELSE cleared_at END
    WHERE idempotency_key = :key AND state = 'unknown'
""")

_WAKE = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:stall AS interval), rings = 0, updated_at = now()
    WHERE task_id = :task_id
      AND CASE WHEN state = 'waiting' AND next_step = :step OR state = 'compensating' THEN true ELSE false END
    RETURNING priority, next_step
""")

_STATE_OF = {
    Outcome.SUCCEEDED: DelegationState.SUCCEEDED,
    Outcome.NEVER_HAPPENED: DelegationState.PENDING,
    Outcome.FAILED: DelegationState.FAILED,
}


class ResolvePart(Transactions):
    """Implements `orchestrator.flow.resolve.ResolveStore`."""

    stall: timedelta

    def unknown_delegations(self, task_id: str) -> Sequence[Delegation]:
        """The task's delegations whose outcome is unknown, in order."""

        def work(connection: Connection) -> Sequence[Delegation]:
            if connection.execute(_KNOWN_TASK, {"task_id": task_id}).first() is None:
                raise not_found(task_id)
            return [delegation_of(row) for row in connection.execute(_UNKNOWN, {"task_id": task_id}).mappings()]

        return self.transact(work)

    def resolve(self, delegation: Delegation, resolution: Resolution, *, who: str, why: str) -> Dispatch | None:
        """Write the word; wake the step where it waits."""
        task_id = delegation.task_id

        def work(connection: Connection) -> Dispatch | None:
            row = locked(connection, task_id)
            if row["held"]:
                raise NotAllowed(
                    f"a worker is at step {row['next_step']} of task {task_id!r} at this moment",
                    hint="It may find out by itself; see `orchestrator task show` in a moment.",
                    task_id=task_id,
                )
            if connection.execute(_SETTLE, _settlement(delegation, resolution, who)).rowcount != 1:
                raise NotAllowed(f"delegation {delegation.ref} of {task_id!r} is settled meanwhile", task_id=task_id)
            details = {"delegation": delegation.ref, "agent": delegation.agent, "outcome": resolution.outcome.value}
            audit(connection, who=who, what="resolve", why=why, task_id=task_id, details=details)
            if TaskState(row["state"]).is_terminal:
                return None
            parameters = {"task_id": task_id, "step": delegation.step, "stall": self.stall}
            woken = connection.execute(_WAKE, parameters).first()
            return None if woken is None else Dispatch(task_id, woken.next_step, woken.priority)

        return self.transact(work)


def _settlement(delegation: Delegation, resolution: Resolution, who: str) -> dict[str, object]:
    failed = resolution.outcome is Outcome.FAILED
    return {
        "key": delegation.key,
        "state": _STATE_OF[resolution.outcome].value,
        "reply": jsonb(resolution.reply) if resolution.outcome is Outcome.SUCCEEDED else None,
        "error_code": "agent_failed" if failed else None,
        "error": f"{delegation.agent} did not do it, says {who}" if failed else None,
        # Sent again, its outcome is the agent's own word.
        "settled_by": None if resolution.outcome is Outcome.NEVER_HAPPENED else who,
    }
