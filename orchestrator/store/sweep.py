"""What the sweep asks of the tables: tasks whose doorbell is due, and events whose task does not come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from orchestrator.domain.journal import Dispatch
from orchestrator.store.engine import Transactions, text

MAX_STALL = timedelta(minutes=5)
"""Doorbells that nobody answers are rung ever more seldom, but never more seldom than this."""

BUSY_STALLS = 5
"""While many messages wait in the broker, a doorbell counts as lost only after so many stall times."""

_RING = text("""
    WITH due AS (
        SELECT task_id FROM tasks
        WHERE due_at <= now() AND NOT paused AND state IN ('received', 'processing', 'waiting')
          AND (lease_until IS NULL OR lease_until < now())
          AND (NOT :busy OR lease_until IS NOT NULL OR (rings = 0 AND state <> 'processing')
               OR due_at <= now() - CAST(:patience AS interval))
        ORDER BY due_at
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE tasks SET
        due_at = now() + least(CAST(:stall AS interval) * power(2, least(rings, 20)), CAST(:most AS interval)),
        woken = true,
        rings = rings + 1
    FROM due WHERE tasks.task_id = due.task_id
    RETURNING tasks.task_id, tasks.next_step, tasks.priority
""")

_JOIN_EARLY = text("""
    UPDATE inbox SET state = 'pending'
    FROM tasks WHERE tasks.task_id = inbox.task_id AND inbox.state = 'early'
      AND tasks.state NOT IN ('completed', 'failed', 'canceled')
    RETURNING inbox.task_id
""")

_WAKE_JOINED = text("""
    UPDATE tasks SET woken = true, due_at = now()
    WHERE task_id = ANY(:ids) AND state = 'waiting' AND waits_for IN ('event', 'person')
""")

_LATE_EARLY = text("""
    UPDATE inbox SET state = 'late'
    FROM tasks WHERE tasks.task_id = inbox.task_id AND inbox.state = 'early'
      AND tasks.state IN ('completed', 'failed', 'canceled')
""")

_EXPIRE = text("""
    WITH old AS (
        SELECT id FROM inbox
        WHERE state = 'early' AND received_at < now() - CAST(:older_than AS interval)
        ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), expired AS (
        UPDATE inbox SET state = 'expired' FROM old WHERE inbox.id = old.id RETURNING inbox.*
    ), letters AS (
        INSERT INTO dead_letters (reason, detail, task_id, topic, partition, record_offset, timestamp_ms, key, value,
                                  headers)
        SELECT 'unknown_task', 'no task ' || task_id || ' came within the time that an event waits for its task',
               task_id, topic, partition, record_offset, timestamp_ms, key, value, headers
        FROM expired RETURNING id, task_id
    )
    INSERT INTO outbox (kind, task_id, dead_letter_id) SELECT 'dead_letter', task_id, id FROM letters
""")


class SweepPart(Transactions):
    """Implements `orchestrator.flow.ports.SweepStore`."""

    def ring_due(self, limit: int, stall: timedelta, *, busy: bool = False) -> Sequence[Dispatch]:
        """Take up to ``limit`` tasks that are due; each is due again later unless it moves."""
        parameters = {
            "limit": limit,
            "stall": stall,
            "most": MAX_STALL,
            "busy": busy,
            "patience": stall * (BUSY_STALLS - 1),
        }
        rows = self.transact(lambda connection: connection.execute(_RING, parameters).all())
        doorbells = [Dispatch(row.task_id, row.next_step, row.priority) for row in rows]
        return sorted(doorbells, key=lambda doorbell: -doorbell.priority)

    def expire_events(self, limit: int, older_than: timedelta) -> int:
        """Bring early events to their tasks; dead-letter those whose task does not come."""

        def work(connection: Connection) -> int:
            joined = {row.task_id for row in connection.execute(_JOIN_EARLY)}
            if joined:
                connection.execute(_WAKE_JOINED, {"ids": sorted(joined)})
            connection.execute(_LATE_EARLY)
            return connection.execute(_EXPIRE, {"limit": limit, "older_than": older_than}).rowcount

        return self.transact(work)

    def undispatched(self) -> int:
        """How many tasks are due now and not in the hands of a worker."""
        query = text("""
            SELECT count(*) FROM tasks
            WHERE due_at <= now() AND NOT paused AND state IN ('received', 'processing', 'waiting', 'compensating')
              AND (lease_until IS NULL OR lease_until < now())
        """)
        return int(self.transact(lambda connection: connection.execute(query).scalar_one()))
