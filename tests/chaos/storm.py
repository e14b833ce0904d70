"""The course of a storm: start, strike while tasks arrive, wait until all is quiet, audit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from tests.chaos.audit import Audit, Verdict, restless
from tests.chaos.faults import Striker
from tests.chaos.plan import DEFAULT_PACE, QUICK_PACE, Pace, draw_arrivals, draw_faults
from tests.chaos.traffic import Traffic, read_topic
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

    @property
    def pace(self) -> Pace:
        """How patient the product is meanwhile."""
        return QUICK_PACE if self.duration < QUICK_BELOW else DEFAULT_PACE


def run(storm: Storm, folder: Path, tell: Callable[[str], None]) -> Verdict:
    """Run a storm on servers of its own in ``folder``; its data and logs stay there."""
    faults = draw_faults(storm.seed, storm.duration, storm.pace)
    arrivals = draw_arrivals(storm.seed, storm.duration, storm.rate)
    tell(f"seed {storm.seed}: {len(faults)} faults and {len(arrivals)} records in {storm.duration:g} s")
    with running_world(folder, storm.seed, storm.pace) as world:
        traffic = Traffic(world.stack.kafka.bootstrap_servers)
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
        ended = time.monotonic()
        world.witness.calm()
        tell(f"{ended - began:6.1f} s  the storm is over; waiting until all is quiet")
        confirmed = traffic.confirmed()
        quiet_after = _wait_until_quiet(world, ended, tell)
        world.stop()
        verdict = Audit(world, confirmed).judge()
        verdict.seconds_to_quiet = quiet_after
        verdict.faults = dict(Counter(fault.kind for fault in striker.struck))
        verdict.complaints.extend(striker.failures)
    return verdict


def _wait_until_quiet(world: World, since: float, tell: Callable[[str], None]) -> float | None:
    """Seconds from ``since`` until nothing moved any more; None where that did not come."""
    kafka = world.stack.kafka.bootstrap_servers
    ends: dict[str, int] = {}
    for record in (record for topic in ("tasks", "events") for record in read_topic(kafka, topic)):
        place = f"{record.topic} {record.partition}"
        ends[place] = max(ends.get(place, 0), record.offset + 1)
    said = ""
    while time.monotonic() - since < QUIET_WITHIN:
        try:
            moving = restless(world.stack.postgres.url(), ends)
        except psycopg2.OperationalError as error:
            moving = str(error)
        if moving is None:
            return time.monotonic() - since
        if moving != said:
            said = moving
        time.sleep(0.1)
    tell(f"not quiet: {said}")
    return None
