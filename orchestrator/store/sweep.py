"""What the sweep asks of the tables: tasks whose doorbell is due, and events whose task does not come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import LANES, LAST_PLACE, MOST_URGENT, TenantLoad, TurnRules, place_of
from orchestrator.store.cancellations import RING_AGAIN
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.turns import AGED, ALIVE, FLIGHT, IN_FLIGHT, IN_TURN, KIND, ONE_AT_A_TIME, TENANT

MAX_STALL = timedelta(minutes=5)
"""While many messages wait, doorbells that nobody answers are rung ever more seldom, but not more seldom than this."""

BUSY_STALLS = 5
"""While many messages wait in the broker, a doorbell counts as lost only after so many stall times."""

AGED_BEFORE_AGAIN = 3
"""Levels that a task gains while less urgent than others in the broker before its doorbell is rung again, higher up."""

_GROUP = f"{TENANT} AS who, priority, ({KIND}) AS kind"  # constants of ours only

# The tasks of one tenant, priority and kind stand in the index in the order in which they are due. So the first few of
# each group, found by leaping from group to group, hold the most urgent of all, however many wait behind them.
_RING = text(f"""
    WITH RECURSIVE groups AS (
        (SELECT {_GROUP} FROM tasks WHERE {IN_TURN} ORDER BY 1, 2, 3 LIMIT 1)
        UNION ALL
        SELECT following.* FROM groups g CROSS JOIN LATERAL (
            SELECT {_GROUP} FROM tasks
            WHERE {IN_TURN} AND ({TENANT}, priority, ({KIND})) > (g.who, g.priority, g.kind)
            ORDER BY 1, 2, 3 LIMIT 1) following
    ), due AS (
        SELECT g.who, g.kind, first.* FROM groups g CROSS JOIN LATERAL (
            SELECT task_id, lane, due_at, priority + aged + {AGED.format(since="coalesce(ready_at, due_at)")} AS turn
            FROM tasks
            WHERE {IN_TURN} AND {TENANT} = g.who AND priority = g.priority AND ({KIND}) = g.kind
              AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
              AND (NOT :busy OR lease_until IS NOT NULL OR (rings = 0 AND state <> 'processing')
                   OR due_at <= now() - CAST(:patience AS interval)
                   OR (rung_as < :ahead AND least(:highest, priority + aged
                        + {AGED.format(since="coalesce(ready_at, due_at)")}) >= least(:highest, rung_as + :gained)))
            ORDER BY due_at
            LIMIT (SELECT 8 + 2 * :limit / count(*) FROM groups)) first
    ), flight AS (
        {FLIGHT} GROUP BY 1
    ), ranked AS (
        SELECT due.*, least(:highest, turn)::int AS level, coalesce(flight.tasks, 0) AS tasks,
               coalesce(flight.near, 0) AS near,
               count(*) FILTER (WHERE kind <> 0) OVER turns AS new_tasks,
               count(*) FILTER (WHERE kind <> 0 OR lane <> 0) OVER turns AS new_near,
               row_number() OVER turns AS nth
        FROM due LEFT JOIN flight USING (who)
        WINDOW turns AS (PARTITION BY who ORDER BY least(:highest, turn) DESC, kind, turn DESC, due_at
                         ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ), placed AS (
        SELECT *, CASE WHEN (kind = 0 AND lane = 0) OR near + new_near <= :share THEN 0 ELSE 1 END AS new_lane
        FROM ranked
        WHERE kind = 0 OR tasks + new_tasks
              <= coalesce(CAST(CAST(:caps AS jsonb) ->> who AS bigint),
                          CASE WHEN who <> '' THEN CAST(:cap AS bigint) END,
                          tasks + new_tasks)
    ), chosen AS (
        SELECT task_id, level, new_lane, nth FROM placed
        WHERE (:highest - level) * :lanes + new_lane <= :until
        ORDER BY level DESC, new_lane, nth, due_at
        LIMIT :limit
    ), locked AS (
        SELECT tasks.task_id FROM tasks JOIN chosen USING (task_id)
        WHERE due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        FOR UPDATE OF tasks SKIP LOCKED
    )
    UPDATE tasks SET
        due_at = now() + least(CAST(:stall AS interval) * power(2, CASE WHEN :busy THEN least(rings, 20) ELSE 0 END),
                               CAST(:most AS interval)),
        woken = true,
        rings = rings + 1,
        ready_at = coalesce(ready_at, due_at),
        rung_as = chosen.level,
        lane = chosen.new_lane
    FROM locked JOIN chosen USING (task_id) WHERE tasks.task_id = locked.task_id
    RETURNING tasks.task_id, tasks.next_step, chosen.level, tasks.lane, chosen.nth
""")  # noqa: S608  # the same

# As if their patience were over, so that they are rung also where the broker has filled up again meanwhile.
_RING_AGAIN = (
    text(f"""
        UPDATE tasks SET ready_at = coalesce(ready_at, now()), due_at = now() - CAST(:patience AS interval), rings = 0
        WHERE {ALIVE} AND due_at > now() AND (lease_until IS NULL OR lease_until < now())
          AND (state IN ('received', 'processing') OR (state = 'waiting' AND woken))
    """),  # noqa: S608  # constants of ours only
    text("""
        UPDATE delegations SET due_at = now() - CAST(:patience AS interval), rings = 0
        WHERE due_at > now() AND woken AND (lease_until IS NULL OR lease_until < now())
    """),
    RING_AGAIN,
)

# What is held is due when its lease ends, or little later (up to 1.3 leases from now: `claim_step_1`).
_HELD_HERE = text(f"""
    SELECT task_id AS key, lease_owner AS owner, true AS task FROM tasks
    WHERE {ALIVE} AND due_at > now() AND due_at <= now() + 1.3 * CAST(:lease AS interval)
      AND lease_until > now() AND starts_with(lease_owner, :place)
    UNION ALL
    SELECT idempotency_key, lease_owner, false FROM delegations
    WHERE due_at > now() AND due_at <= now() + 1.3 * CAST(:lease AS interval)
      AND lease_until > now() AND starts_with(lease_owner, :place)
""")  # noqa: S608  # constants of ours only
_END_LEASES = tuple(
    text(f"""
        UPDATE {table} SET lease_until = now() - interval '1 millisecond', due_at = now()
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(key text, owner text)
        WHERE {table}.{key} = r.key AND {table}.lease_owner = r.owner AND {table}.lease_until > now()
    """)  # noqa: S608  # the same
    for table, key in (("tasks", "task_id"), ("delegations", "idempotency_key"))
)

_TENANTS = text(f"""
    SELECT who, count(*) FILTER (WHERE kind = 0) AS in_flight, count(*) FILTER (WHERE kind <> 0) AS due FROM (
        SELECT {TENANT} AS who, 0 AS kind FROM tasks WHERE {IN_FLIGHT}
        UNION ALL
        SELECT {TENANT}, 1 FROM tasks WHERE {ALIVE} AND ({KIND}) <> 0 AND due_at <= now()) loads
    GROUP BY who ORDER BY in_flight DESC, due DESC, who
""")  # noqa: S608  # constants of ours only

_JOIN_EARLY = text("""
    UPDATE inbox SET state = 'pending'
    FROM tasks WHERE tasks.task_id = inbox.task_id AND inbox.state = 'early'
      AND tasks.state NOT IN ('completed', 'failed', 'canceled')
    RETURNING inbox.task_id
""")

_WAKE_JOINED = text("""
    UPDATE tasks SET woken = true, due_at = now()
    WHERE task_id = ANY(:ids)
      AND CASE WHEN state = 'waiting' AND waits_for IN ('event', 'person') THEN true ELSE false END
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
    """Implements `orchestrator.flow.sweep.SweepStore`."""

    turns: TurnRules

    def ring_due(
        self, limit: int, stall: timedelta, *, busy: bool = False, until: int = LAST_PLACE, ahead: int = -1
    ) -> Sequence[Dispatch]:
        """Take up to ``limit`` tasks that are due; each is due again later unless it moves."""
        parameters = {
            "limit": limit,
            "stall": stall,
            # Seldom, yet often enough for what a task gains by waiting to be heard.
            "most": min(MAX_STALL, max(stall, self.turns.ageing * AGED_BEFORE_AGAIN)),
            "busy": busy,
            "patience": stall * (BUSY_STALLS - 1),
            "until": until,
            "ahead": ahead,
            "gained": AGED_BEFORE_AGAIN,
            "highest": MOST_URGENT,
            "lanes": LANES,
            "ageing": self.turns.ageing.total_seconds(),
            "share": self.turns.share,
            "cap": self.turns.cap,
            "caps": jsonb(dict(self.turns.caps)),
        }

        def work(connection: Connection) -> Sequence[Row[Any]]:
            if self.turns.has_caps:
                connection.execute(ONE_AT_A_TIME)
            return connection.execute(_RING, parameters).all()

        rows = sorted(self.transact(work), key=lambda row: (place_of(row.level, row.lane), row.nth))
        return [Dispatch(row.task_id, row.next_step, row.level, row.lane) for row in rows]

    def end_leases(self, place: str, has_died: Callable[[str], bool], lease: timedelta) -> int:
        """End the leases of processes that have died."""
        parameters = {"place": place, "lease": lease}
        held = self.transact(lambda connection: connection.execute(_HELD_HERE, parameters).all(), durable=False)
        dead = sorted((row for row in held if has_died(row.owner)), key=lambda row: row.key)
        if not dead:
            return 0
        rows = [
            jsonb([{"key": row.key, "owner": row.owner} for row in dead if row.task is of_task])
            for of_task in (True, False)
        ]
        return self.transact(
            lambda connection: sum(
                connection.execute(statement, {"rows": some}).rowcount
                for statement, some in zip(_END_LEASES, rows, strict=True)
            ),
            durable=False,
        )

    def ring_again(self, stall: timedelta) -> int:
        """Make due what was rung and not taken up."""
        parameters = {"patience": stall * (BUSY_STALLS - 1)}
        return self.transact(
            lambda connection: sum(connection.execute(statement, parameters).rowcount for statement in _RING_AGAIN)
        )

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
        query = text(f"""
            SELECT count(*) FROM tasks
            WHERE {ALIVE} AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        """)  # noqa: S608  # constants of ours only
        return int(self.transact(lambda connection: connection.execute(query).scalar_one()))

    def tenants(self) -> Sequence[TenantLoad]:
        """Tenants with tasks in flight or due, most in flight first."""
        rows = self.transact(lambda connection: connection.execute(_TENANTS).all())
        return [TenantLoad(row.who or None, row.in_flight, row.due, self.turns.cap_of(row.who or None)) for row in rows]
