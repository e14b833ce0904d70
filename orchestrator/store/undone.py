"""A person's word that they undid a call themselves, where its agent did not: one audited transaction."""

from __future__ import annotations

from sqlalchemy import Connection

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.task import TaskState
from orchestrator.domain.undo import UNDONE_BY_HAND, Undoing, undo_key, undo_report, undo_words
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.control import locked
from orchestrator.store.engine import Transactions, text
from orchestrator.store.tell_state import tell_as_it_is
from orchestrator.store.undo import forget
from orchestrator.store.undo_begin import load_items

_WRITE = text("""
    INSERT INTO compensations (delegation_key, task_id, step_number, index, agent, task, idempotency_key, state,
                               error_code, error, finished_at)
    SELECT idempotency_key, task_id, step_number, index, agent, 'Undo: ' || task, :undo_key, 'succeeded', :code,
           :said, now()
    FROM delegations WHERE idempotency_key = :key
    ON CONFLICT (delegation_key) DO UPDATE SET state = 'succeeded', error_code = excluded.error_code,
        error = excluded.error, finished_at = now()
""")
_UNDONE = text("""
    UPDATE delegations SET state = 'compensated', parked = false, finished_at = coalesce(finished_at, now())
    WHERE idempotency_key = :key
""")
_REASON = text("""
    UPDATE tasks SET reason = :reason, undo = undo || jsonb_build_object('left', CAST(:left AS integer)),
        updated_at = now()
    WHERE task_id = :task_id
    RETURNING *
""")


class UndonePart(Transactions):
    """Implements the rest of `orchestrator.flow.ports.ControlStore`."""

    def undone_by_hand(self, task_id: str, ref: str | None, *, who: str, why: str) -> Delegation:
        """Note that a person undid what an undo left for them; ``ref`` may be left out where only one is left."""

        def work(connection: Connection) -> Delegation:
            row = locked(connection, task_id)
            state = TaskState(row["state"])
            if row["undo"] is None or not state.is_terminal:
                raise NotAllowed(
                    f"task {task_id!r} is {state.value}, and no undo of it has ended",
                    hint=f"Undo it first: `orchestrator task {'undo' if state.is_terminal else 'cancel --undo'} "
                    f"{task_id}`; what that leaves for you can then be noted.",
                    task_id=task_id,
                )
            item = _found(task_id, ref, [one for one in load_items(connection, task_id) if not one.is_undone])
            said = f"undone by hand by {who}" + (f": {why}" if why else "")
            key = item.delegation.key
            keys = {"key": key, "undo_key": undo_key(key), "code": UNDONE_BY_HAND, "said": said}
            connection.execute(_WRITE, keys)
            connection.execute(_UNDONE, keys)
            forget(connection, task_id, key, item.delegation.agent, item.delegation.step)
            items = load_items(connection, task_id)
            words = undo_words(undo_report(row["undo"], items))
            reason = f"{row['undo']['reason']}; {words}" if row["undo"].get("reason") else words
            left = sum(not one.is_undone for one in items)
            task = connection.execute(_REASON, {"task_id": task_id, "reason": reason, "left": left}).one()
            tell_as_it_is(connection, task)
            details = {"delegation": item.delegation.ref, "agent": item.delegation.agent}
            audit(connection, who=who, what="undone", why=why, task_id=task_id, details=details)
            return item.delegation

        return self.transact(work)


def _found(task_id: str, ref: str | None, left: list[Undoing]) -> Undoing:
    found = [one for one in left if ref in (None, one.delegation.ref)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{one.delegation.ref} ({one.delegation.agent})" for one in left)
    if not left:
        what = "has no call that is left to be undone"
    elif ref is None:
        what = f"has {len(left)} calls that are left to be undone, say which with --delegation: {names}"
    else:
        what = f"has no call {ref} that is left to be undone; it has {names}"
    raise NotAllowed(f"task {task_id!r} {what}", hint=f"See `orchestrator task show {task_id}`.", task_id=task_id)
