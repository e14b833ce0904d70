"""Waking tasks and delegations that wait for room at an agent or a model, when there is some."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import TurnRules, urgency_of
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.turns import WAKE, Admission

_WAITING = text("""
    SELECT tasks.task_id, next_step, priority, aged, tenant
    FROM tasks JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int)
      ON tasks.task_id = r.task_id AND tasks.next_step = r.step
    WHERE CASE WHEN state = 'waiting' AND NOT paused AND rings = 0
                 AND reason_code IN ('agent_at_capacity', 'model_at_capacity')
          THEN true ELSE false END
    ORDER BY tasks.task_id
    FOR UPDATE OF tasks SKIP LOCKED
""")


_WAKE_DELEGATIONS = text("""
    WITH waiting AS (
        SELECT d.id, t.priority, t.aged, t.lane
        FROM delegations d
        JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, index int)
          ON d.task_id = r.task_id AND d.step_number = r.step AND d.index = r.index
        JOIN tasks t ON t.task_id = d.task_id
        WHERE CASE WHEN d.error_code = 'agent_at_capacity' AND d.due_at IS NOT NULL AND NOT d.woken
                     AND d.lease_until IS NULL AND t.next_step = d.step_number AND NOT t.paused
              THEN true ELSE false END
        FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE delegations SET woken = true, rings = 1, due_at = now() + CAST(:stall AS interval)
    FROM waiting WHERE delegations.id = waiting.id
    RETURNING delegations.task_id, step_number, index, waiting.priority, waiting.aged, waiting.lane
""")


class RoomPart(Transactions):
    """What `orchestrator.flow.limits.Wake` needs of the tables."""

    stall: timedelta
    turns: TurnRules

    def wake(self, waiters: Sequence[Dispatch]) -> Sequence[Dispatch]:
        """Make these due where they wait for room still; returns the doorbells to ring."""

        def work(connection: Connection) -> list[Dispatch]:
            of_steps = [waiter for waiter in waiters if waiter.index is None]
            of_delegations = [waiter for waiter in waiters if waiter.index is not None]
            return [*self._steps(connection, of_steps), *self._delegations(connection, of_delegations)]

        return self.transact(work)

    def _delegations(self, connection: Connection, waiters: Sequence[Dispatch]) -> list[Dispatch]:
        if not waiters:
            return []
        found = connection.execute(_WAKE_DELEGATIONS, {"rows": _rows(waiters), "stall": self.stall})
        return [
            Dispatch(
                row["task_id"],
                row["step_number"],
                urgency_of(row["priority"], row["aged"]),
                row["lane"],
                row["index"],
            )
            for row in found.mappings()
        ]

    def _steps(self, connection: Connection, waiters: Sequence[Dispatch]) -> list[Dispatch]:
        if not waiters:
            return []
        found = connection.execute(_WAITING, {"rows": _rows(waiters)}).all()
        if not found:
            return []
        urgencies = [urgency_of(task.priority, task.aged) for task in found]
        candidates = [(task.tenant, urgency) for task, urgency in zip(found, urgencies, strict=True)]
        starts = Admission(connection, self.turns, None, self.stall).starts(candidates, new=False)
        woken = list(zip(found, urgencies, starts, strict=True))
        due = [{"task_id": task.task_id, "urgency": urgency, **start.row()} for task, urgency, start in woken]
        connection.execute(WAKE, {"rows": jsonb(due)})
        return [
            Dispatch(task.task_id, task.next_step, urgency, start.lane) for task, urgency, start in woken if start.rung
        ]


def _rows(waiters: Sequence[Dispatch]) -> str:
    return jsonb([{"task_id": waiter.task_id, "step": waiter.step, "index": waiter.index} for waiter in waiters])
