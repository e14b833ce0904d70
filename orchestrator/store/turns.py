"""Whose turn it is, on rows: which tasks are in flight, how urgent they have become, who of a batch may start at once.

The rules are those of `orchestrator.domain.turns`. Nothing is counted anywhere but in the rows themselves, so no count
can drift from what it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.turns import MOST_URGENT, TurnRules, Window, place_of
from orchestrator.domain.value import Value
from orchestrator.store.engine import text

TENANT = "coalesce(tenant, '')"
"""Tasks without a tenant are one group, as if of a tenant without a name."""

ALIVE = "CASE WHEN state IN ('received', 'processing', 'waiting', 'compensating') THEN NOT paused ELSE false END"
"""Neither ended nor paused. To the letter the condition of the index ``tasks_due``, and a CASE, which fits no other:
see the package's description."""

IN_TURN = (
    "CASE WHEN state IN ('received', 'processing', 'waiting', 'compensating') AND NOT paused "
    "THEN due_at IS NOT NULL ELSE false END"
)
"""Alive and due some time; to the letter the condition of the index ``tasks_turn``."""

IN_FLIGHT = (
    "NOT paused AND (state IN ('processing', 'compensating') OR (rings > 0 AND state IN ('received', 'waiting')))"
)
"""In a worker's hands, or its doorbell is on the way to one. A task that waits is not."""

KIND = """
    CASE WHEN state IN ('processing', 'compensating') OR (rings > 0 AND state IN ('received', 'waiting')) THEN 0
         WHEN state = 'received' THEN 2 ELSE 1 END
"""
IN_HAND, BEGUN, NEW = range(3)
"""0 in flight already, 1 begun before and waiting for its turn, 2 new: what is begun goes before what is new."""

AGED = "greatest(0, floor(extract(epoch FROM now() - {since}) / :ageing))"
"""Levels gained since a time. Formats ``since``; takes the parameter ``ageing`` in seconds."""

ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtext('orchestrator.turns'))")
"""Who lets tasks start counts first: where there are caps, two must not count at the same time."""

FLIGHT = (
    f"SELECT {TENANT} AS who, count(*) AS tasks, count(*) FILTER (WHERE lane = 0) AS near FROM tasks WHERE {IN_FLIGHT}"  # noqa: S608  # constants
)
_FLIGHT_OF = text(f"{FLIGHT} AND {TENANT} = ANY(:tenants) GROUP BY 1")

_WAITING_OF = text(f"""
    SELECT asked.who, max(level) AS level
    FROM unnest(CAST(:tenants AS text[])) AS asked(who) CROSS JOIN generate_series(0, {MOST_URGENT}) AS level
    CROSS JOIN LATERAL (  -- a look into the index for each, whatever the planner thinks of their number
        SELECT FROM tasks
        WHERE {IN_TURN} AND {TENANT} = asked.who AND priority = level AND ({KIND}) = {NEW} AND due_at <= now()
        ORDER BY due_at LIMIT 1) AS waits
    GROUP BY 1
""")  # noqa: S608  # constants of ours only


WAKE = text("""
    UPDATE tasks SET woken = true, due_at = now() + make_interval(secs => r.due_in), rings = tasks.rings + r.rings,
        rung_as = r.urgency, lane = r.lane
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, due_in float, rings int, urgency int, lane int)
    WHERE tasks.task_id = r.task_id
""")
"""End waits: what is due is told by `Start.row` with ``task_id`` and ``urgency``."""


class Start(Value, frozen=True):
    """How a task that may start at once, or may not, is written."""

    rung: bool
    lane: int
    due_in: timedelta
    """Until the sweep rings (again)."""

    def row(self) -> dict[str, Any]:
        """As columns: ``rings``, ``lane``, ``due_in`` in seconds."""
        return {"rings": int(self.rung), "lane": self.lane, "due_in": self.due_in.total_seconds()}


class Admission:
    """Lets tasks of one transaction start, as far as the broker's window and their tenants' caps have room.

    Args:
        connection: of the transaction that writes what it says.
        rules: caps and shares.
        window: what the broker has room for; None: everything.
        due_in: how long a doorbell may take; zero: nothing is rung, the sweep does.
    """

    def __init__(self, connection: Connection, rules: TurnRules, window: Window | None, due_in: timedelta) -> None:
        self._connection = connection
        self._rules = rules
        self._window = window
        self._due_in = due_in
        self._tasks: dict[str | None, int] = {}
        self._near: dict[str | None, int] = {}
        self._waiting: dict[str | None, int] = {}
        """Priority of the most urgent new task that waits for its turn; -1 where none does."""

    def starts(self, candidates: Sequence[tuple[str | None, int]], *, new: bool) -> list[Start]:
        """Decide for each (tenant, urgency), the most urgent first; the results are in the order given.

        ``new``: tasks never begun, which go behind those of their tenant that came before them and wait still.
        """
        if self._due_in <= timedelta(0):
            return [LATER] * len(candidates)
        self._count(tenant for tenant, _ in candidates)
        found = [LATER] * len(candidates)
        for number in sorted(range(len(candidates)), key=lambda number: -candidates[number][1]):
            tenant, urgency = candidates[number]
            if not new or urgency > self._waiting[tenant]:
                found[number] = self._start(tenant, urgency)
        return found

    def _count(self, tenants: Iterable[str | None]) -> None:
        new = set(tenants) - self._tasks.keys()
        if not new:
            return
        if any(self._rules.cap_of(tenant) is not None for tenant in new):
            self._connection.execute(ONE_AT_A_TIME)
        rows = self._connection.execute(_FLIGHT_OF, {"tenants": sorted(tenant or "" for tenant in new)})
        flight = {row.who: row for row in rows}
        rows = self._connection.execute(_WAITING_OF, {"tenants": sorted(tenant or "" for tenant in new)})
        waiting = {row.who: row.level for row in rows}
        for tenant in new:
            row = flight.get(tenant or "")
            self._tasks[tenant] = row.tasks if row else 0
            self._near[tenant] = row.near if row else 0
            self._waiting[tenant] = waiting.get(tenant or "", -1)

    def _start(self, tenant: str | None, urgency: int) -> Start:
        cap = self._rules.cap_of(tenant)
        if cap is not None and self._tasks[tenant] >= cap:
            return LATER
        lane = 0 if self._near[tenant] < self._rules.share else 1
        place = place_of(urgency, lane)
        if self._window is not None:
            if not self._window.room(place):
                return LATER
            self._window.fill(place)
        self._tasks[tenant] += 1
        self._near[tenant] += lane == 0
        return Start(True, lane, self._due_in)


LATER = Start(False, 0, timedelta(0))
"""Not rung with its batch: the sweep rings when it is due."""
