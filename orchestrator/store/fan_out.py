"""The delegations of one step together: which may be under way, and whether any still is.

Whoever asks holds the lock on the task's row. So of two that settle at once the second sees what the first wrote, and
exactly one of them sees that nothing is left: that one wakes the step. No counter anywhere, least of all in Redis.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection

from orchestrator.domain.journal import Dispatch, FanOut
from orchestrator.domain.value import Value, replace
from orchestrator.store.engine import text

# Moving: with a due time. Held back: without one. Parked ones wait for a person and keep nobody from going on.
_RELEASE = text("""
    WITH open AS (
        SELECT index, due_at, state, attempts FROM delegations
        WHERE task_id = :task_id AND step_number = :step AND state IN ('pending', 'in_flight', 'unknown')
          AND NOT parked
    ), failed AS (
        SELECT EXISTS (SELECT FROM delegations
                       WHERE task_id = :task_id AND step_number = :step AND state = 'failed'
                         AND error_code IS DISTINCT FROM 'declined') AS any
    ), next AS (
        SELECT index FROM open, failed
        WHERE due_at IS NULL AND NOT (:stop_on_failure AND failed.any AND state = 'pending' AND attempts = 0)
        ORDER BY index
        LIMIT greatest(0, :at_once - (SELECT count(*) FROM open WHERE due_at IS NOT NULL))
    ), released AS (
        UPDATE delegations SET due_at = now() + CAST(:stall AS interval), woken = true, rings = 0
        FROM next
        WHERE delegations.task_id = :task_id AND delegations.step_number = :step AND delegations.index = next.index
        RETURNING delegations.index
    )
    SELECT (SELECT count(*) FROM open WHERE due_at IS NOT NULL) + (SELECT count(*) FROM released) AS moving,
           (SELECT array_agg(index ORDER BY index) FROM released) AS released,
           (SELECT count(*) FROM delegations WHERE task_id = :task_id AND step_number = :step) AS delegations,
           (SELECT count(*) FROM delegations WHERE task_id = :task_id AND step_number = :step
                AND state IN ('succeeded', 'failed', 'compensated')) AS settled
""")


class Released(Value, frozen=True):
    """What came of looking at a step's delegations."""

    moving: int
    """How many are under way, those just made due included. None: the step can go on."""
    doorbells: tuple[Dispatch, ...]
    settled: int
    count: int
    """All delegations of the step."""


def release(connection: Connection, step: Dispatch, fan_out: FanOut, stall: timedelta) -> Released:
    """Make as many delegations of a step due as there is room for. The caller has locked the task's row."""
    row = connection.execute(
        _RELEASE,
        {
            "task_id": step.task_id,
            "step": step.step,
            "at_once": fan_out.at_once,
            "stop_on_failure": fan_out.stop_on_failure,
            "stall": stall,
        },
    ).one()
    doorbells = tuple(replace(step, index=index) for index in row.released or ())
    return Released(row.moving, doorbells, row.settled, row.delegations)
