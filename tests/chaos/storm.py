"""The course of a storm: start, strike while tasks arrive, wait until all is quiet, audit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from tests.chaos.audit import Audit, Verdict, last_movement, restless
from tests.chaos.faults import Striker
from tests.chaos.person import settle_what_is_unknown
from tests.chaos.plan import DEFAULT_PACE, QUICK_PACE, Fault, Pace, draw_arrivals, draw_faults
from tests.chaos.traffic import Traffic, ends_of_topics
from tests.chaos.world import World, running_world

QUICK_BELOW = 60.0
"""Seconds; a shorter storm has leases and time-outs to match."""

QUIET_WITHIN = 150.0
"""Seconds after the last fault in which all must have come to rest; far more than it takes."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What to do."""

    seed: int
    duration: float
    """Seconds during which faults strike and tasks arrive."""
    rate: float
    """New tasks a second."""
    classpath: str | None = None
    """Of Apache Kafka; None takes the embedded broker."""

    @property
    def pace(self) -> Pace:
        """How patient the product is meanwhile."""
        return QUICK_PACE if self.duration < QUICK_BELOW else DEFAULT_PACE


def run(storm: Storm, folder: Path, tell: Callable[[str], None]) -> Verdict:
    """Run a storm on servers of its own in ``folder``; its data and logs stay there."""
    faults = draw_faults(storm.seed, storm.duration, storm.pace)
    arrivals = draw_arrivals(storm.seed, storm.duration, storm.rate)
    tell(f"seed {storm.seed}: {len(faults)} faults and {len(arrivals)} records in {storm.duration:g} s")
    with running_world(folder, storm.seed, storm.pace, storm.classpath) as world:
        traffic = Traffic(world.kafka.bootstrap_servers)
        striker = Striker(world, tell)
        began = time.monotonic()
        producing = threading.Thread(target=traffic.run, args=(arrivals, began), name="traffic")
        producing.start()
        try:
            striker.run(faults, began)
            producing.join()
        except BaseException:
            striker.stop()
            traffic.stop()
            raise
        ended, ended_at = time.monotonic(), datetime.now(UTC)
        world.witness.calm()
        tell(f"{ended - began:6.1f} s  the storm is over; waiting until all is quiet")
        confirmed = traffic.confirmed()
        ends = ends_of_topics(world.kafka.bootstrap_servers, "tasks", "events")
        quiet = _wait_until_quiet(world, ends, ended, tell)
        last = last_movement(world.stack.postgres.url())
        parked = settle_what_is_unknown(world)
        if parked:
            tell(f"{len(parked)} tasks waited for a person: settled as the agents' ledger has it")
            _wait_until_quiet(world, ends, time.monotonic(), tell)
        world.stop()
        verdict = Audit(world, confirmed).judge()
        verdict.seconds_to_quiet = max(0.0, (last - ended_at).total_seconds()) if quiet else None
        verdict.parked_unknown = len(parked)
        verdict.complaints += [
            f"{one.task_id} was parked for {one.agent}, which can be asked" for one in parked if not one.by_right
        ]
        verdict.faults = dict(Counter(fault.kind for fault in striker.struck))
        verdict.own_ends = _own_ends(world, striker.struck)
        verdict.complaints.extend(striker.failures)
    return verdict


def _own_ends(world: World, faults: Sequence[Fault]) -> dict[str, int]:
    """How often each process ended without being killed, and was started again by its supervisor."""
    kills = Counter(fault.target for fault in faults if fault.kind.endswith(".kill"))
    ends = {name: process.restarts - kills[name] for name, process in world.processes.items()}
    return {name: count for name, count in ends.items() if count > 0}


def _wait_until_quiet(world: World, ends: Mapping[str, int], since: float, tell: Callable[[str], None]) -> bool:
    """Wait until nothing moves any more; whether that came in time (``since`` is monotonic)."""
    said = ""
    while time.monotonic() - since < QUIET_WITHIN:
        try:
            moving = restless(world.stack.postgres.url(), ends)
        except psycopg2.OperationalError as error:
            moving = str(error)
        if moving is None:
            return True
        if moving != said:
            said = moving
        time.sleep(0.1)
    tell(f"not quiet: {said}")
    return False
