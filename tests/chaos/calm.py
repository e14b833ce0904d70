"""The calm after a storm: what the last tasks wait for, looked at again and again, and until when each reason was seen.

Some of these waits are what an agent asks for, or what its entry in agents.yaml says; the rest is the product's own
time, and that is what is to be short.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extras
import redis

from orchestrator.domain.limits import NOT_TRIED
from orchestrator.worker.identity import has_died

OF_AGENTS = frozenset(
    {
        *("an agent's retry policy", "an agent's job", "a look-up's deadline", "an agent's limit"),
        *("an event", "a person who is asked", "a person who paused it", "its own time"),
        "a person's word, which was not heard",
    }
)
"""Waits that agents ask for, or their entries; and those for others who are not the product."""

OF_WORK = frozenset({"at work", "its turn in the queue", "the next sweep", "being read", "being published"})
"""Not waits: there is work, and it is being done. All other reasons are the product's recovery."""

SETTLED = (
    "(t.state IN ('completed', 'failed', 'canceled')"
    " OR (t.state = 'waiting' AND t.waits_for = 'person' AND t.reason_code IS NOT DISTINCT FROM 'outcome_unknown'))"
)

# A task that waits for several delegations is told of by these.
_MOVING = f"""
    SELECT t.task_id || ':' || t.next_step || ':' || t.epoch AS what, t.task_id, t.state, t.waits_for, t.reason_code,
           t.due_at, t.woken, t.rings, t.lease_owner, t.lease_until, d.state AS call, d.remote_url, t.paused,
           t.not_before, t.deadline, now() AS now
    FROM tasks t
    LEFT JOIN LATERAL (SELECT * FROM delegations d WHERE d.task_id = t.task_id AND d.step_number = t.next_step
                       AND d.state IN ('pending', 'in_flight', 'unknown') ORDER BY d.index LIMIT 1) d ON true
    WHERE NOT {SETTLED}
      AND (t.lease_until IS NOT NULL OR t.woken OR NOT EXISTS (
            SELECT FROM delegations d WHERE d.task_id = t.task_id AND d.step_number = t.next_step
            AND d.due_at IS NOT NULL AND d.state IN ('pending', 'in_flight', 'unknown')))
    UNION ALL
    SELECT d.idempotency_key || ':' || d.epoch, d.task_id, t.state,
           CASE WHEN d.state = 'pending' THEN 'retry' ELSE 'agent' END, d.error_code, d.due_at, d.woken, d.rings,
           d.lease_owner, d.lease_until, d.state, d.remote_url, t.paused, NULL, NULL, now()
    FROM delegations d JOIN tasks t USING (task_id)
    WHERE NOT {SETTLED} AND t.next_step = d.step_number AND d.due_at IS NOT NULL AND NOT d.parked
      AND d.state IN ('pending', 'in_flight', 'unknown')
"""

_REST = """
    SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL),
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox WHERE published_at IS NULL),
           (SELECT coalesce(jsonb_object_agg(topic || ' ' || partition, next_offset), '{}') FROM offsets)
"""


@dataclass
class Calm:
    """What was seen since the last fault. Times are seconds after it."""

    began: float
    """When the last fault was over (monotonic)."""
    sweep: float
    """Seconds between two sweeps."""
    words: Mapping[str, float] = field(default_factory=dict)
    """When (monotonic) a person last told something to a task. The doorbells of these words are lost, on purpose."""
    unheard_for: float = 0.0
    """Seconds after which the sweep must have rung for such a word."""
    ends: Mapping[str, int] = field(default_factory=dict)
    """Of each ``topic partition`` the offset behind its last record, once that is known."""
    last_seen: dict[str, float] = field(default_factory=dict)
    last_one: dict[str, str] = field(default_factory=dict)
    """For each reason the last one that waited for it."""
    moving: Counter[str] = field(default_factory=Counter)
    """How many wait for what, at the last look."""
    moving_at_first: int = 0
    load: float = 0.0
    """Processes that wanted a processor when the last fault was over, for each that there is."""
    changed_at: float = 0.0
    """When something was last seen to be otherwise than before."""
    _seen: object = None
    _taken: Mapping[str, int] = field(default_factory=dict)
    _took_at: float = 0.0
    _unheard: dict[str, float] = field(default_factory=dict)
    """What moves and has no message in Redis, and since when."""

    def look(self, database_url: str, redis_url: str) -> bool:
        """Look once; whether all is quiet. Raises what psycopg2 raises."""
        found = _read(database_url)
        at = time.monotonic() - self.began
        waiting = _messages(redis_url)
        at_work = sum(row["lease_until"] is not None and row["lease_until"] > row["now"] for row in found.rows)
        moving: Counter[str] = Counter()
        queued = waiting > at_work
        self._unheard = {} if queued else {one: self._unheard.get(one, at) for one in map(_doorbell, found.rows)}
        for row in found.rows:
            # Between a commit and its message there is a moment in which neither the row nor Redis has the doorbell.
            heard = at - self._unheard.get(_doorbell(row), at) < PATIENCE
            reason = why_waiting(row, queued=heard, sweep=self.sweep)
            if reason == "an event" and self._all_is_in(found.taken):
                reason = "an event that has come"
            if reason not in OF_AGENTS | OF_WORK and self._was_told(row["task_id"]):
                reason = "a person's word, which was not heard"
            moving[reason] += 1
            self.last_one[reason] = str(row["what"])
        if found.taken != self._taken:
            self._taken, self._took_at = found.taken, at
        if self.ends and not self._all_is_in(found.taken):
            moving["being read" if at - self._took_at < PATIENCE else "the bridge to read"] += 1
        if found.unpublished:
            moving["being published" if found.oldest < PATIENCE else "the bridge to publish"] += found.unpublished
        if not self.last_seen:
            self.moving_at_first = len(found.rows)
            self.load = os.getloadavg()[0] / (os.cpu_count() or 1)
        seen = ({_doorbell(row) for row in found.rows}, found.unpublished, found.taken)
        if seen != self._seen:
            self._seen, self.changed_at = seen, at
        self.moving = moving
        self.last_seen |= dict.fromkeys(moving, at)
        return not moving

    def _was_told(self, task_id: str) -> bool:
        return time.monotonic() - self.words.get(task_id, -self.unheard_for) < self.unheard_for

    def _all_is_in(self, taken: Mapping[str, int]) -> bool:
        """Whether every record that Kafka has is known to be taken in: then so is each event that was ever sent."""
        return bool(self.ends) and all(taken.get(place, 0) >= end for place, end in self.ends.items())

    def recovering(self) -> dict[str, float]:
        """Of each wait that is the product's recovery, until when it was seen."""
        return {reason: at for reason, at in self.last_seen.items() if reason not in OF_AGENTS | OF_WORK}

    def told(self) -> dict[str, float]:
        """Reason and until when it was seen, the latest first."""
        return {reason: round(at, 1) for reason, at in sorted(self.last_seen.items(), key=lambda item: -item[1])}


PATIENCE = 2.0
"""Seconds: what is unread or unpublished for longer is not merely on its way."""


@dataclass(frozen=True, slots=True)
class _Found:
    rows: list[dict[str, Any]]
    unpublished: int
    oldest: float
    """Seconds that the oldest of these waits."""
    taken: dict[str, int]


def why_waiting(row: Mapping[str, Any], *, queued: bool, sweep: float) -> str:
    """What one task or delegation waits for.

    Args:
        row: of `_MOVING`.
        queued: messages wait in the broker or in the hands of workers.
        sweep: seconds between two sweeps.
    """
    late = row["due_at"] is not None and (row["now"] - row["due_at"]).total_seconds() > 2 * sweep
    if row["lease_until"] is not None:
        if row["lease_until"] <= row["now"]:
            return "a sweep that is late" if late else "the next sweep"
        return "a lease of a worker that died" if has_died(row["lease_owner"]) else "at work"
    if row["due_at"] is None:
        return "a person who is asked" if row["waits_for"] == "person" else "an event"
    if row["paused"]:
        return "a person who paused it"
    if not row["woken"] and row["due_at"] > row["now"] and row["due_at"] in {row["not_before"], row["deadline"]}:
        return "its own time"
    moves = row["woken"] or row["state"] in {"received", "processing"}
    if queued and (row["rings"] > 0 or moves):
        # Also where it is due: while much waits, the sweep does not ring again for what is in the queue.
        return "its turn in the queue"
    if row["rings"] > 0 or (moves and row["due_at"] > row["now"]):
        return "a doorbell that was lost"
    if row["due_at"] <= row["now"]:
        return "a sweep that is late" if late else "the next sweep"
    if row["reason_code"] in NOT_TRIED:
        return "an agent's limit"
    if row["call"] == "unknown":
        return "a look-up's deadline"
    if row["remote_url"] is not None:
        return "an agent's job"
    return "an agent's retry policy"


def _doorbell(row: Mapping[str, Any]) -> str:
    return f"{row['what']}:{row['rings']}:{row['woken']}"


def _read(database_url: str) -> _Found:
    connection = psycopg2.connect(database_url, connect_timeout=5)
    try:
        with connection, connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(_MOVING)
            rows = [dict(row) for row in cursor.fetchall()]
        with connection, connection.cursor() as plain:
            plain.execute(_REST)
            unpublished, oldest, taken = plain.fetchone() or (0, 0, {})
            return _Found(rows, int(unpublished), float(oldest), dict(taken))
    finally:
        connection.close()


def _messages(redis_url: str) -> int:
    """Messages of steps and delegations in the broker, those that workers hold included."""
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
            lists = [name for name in client.scan_iter(match="*", _type="list") if b"control" not in name]
            held = list(client.scan_iter(match="*unacked", _type="hash"))
            return sum(int(count) for count in (*map(client.llen, lists), *map(client.hlen, held)))
    except redis.RedisError:
        return 0
