"""The course of a storm: start, strike while tasks arrive, wait until all is quiet, audit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from tests.chaos.audit import Audit, Verdict, last_movement
from tests.chaos.bystanders import Answerers, Repliers
from tests.chaos.calm import PATIENCE, Calm
from tests.chaos.faults import Striker
from tests.chaos.normal import BRIDGE, STRUCK_BY_BRIDGE, TASKS, Waits, bound
from tests.chaos.person import People, settle_what_is_unknown
from tests.chaos.plan import DEFAULT_PACE, QUICK_PACE, Arrival, Fault, Pace, draw_arrivals, draw_deeds, draw_faults
from tests.chaos.servers import Servers
from tests.chaos.traffic import Traffic, ends_of_topics
from tests.chaos.world import World, running_world

QUICK_BELOW = 60.0
"""Seconds; a shorter storm has leases and time-outs to match."""

STANDSTILL = 90.0
"""Seconds without any change after which what is not quiet will not be; far more than it takes."""

LONGEST_CALM = 1200.0
"""Seconds after the last fault in which all must have come to rest, however much there was to be done."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What to do."""

    seed: int
    duration: float
    """Seconds during which faults strike and tasks arrive."""
    rate: float
    """New tasks a second."""
    servers: Callable[[Path], AbstractContextManager[Servers]]
    """Given the storm's folder: where it rages."""

    @property
    def pace(self) -> Pace:
        """How patient the product is meanwhile."""
        return QUICK_PACE if self.duration < QUICK_BELOW else DEFAULT_PACE


def run(storm: Storm, folder: Path, tell: Callable[[str], None]) -> Verdict:
    """Run a storm; data and logs of what it starts stay in ``folder``.

    Raises:
        NotForStorms: the servers that the environment names are not to be struck, or not named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with storm.servers(folder) as servers, running_world(folder, storm.seed, storm.pace, servers) as world:
        faults = draw_faults(storm.seed, storm.duration, storm.pace, servers.can)
        arrivals = draw_arrivals(storm.seed, storm.duration, storm.rate, datetime.now(UTC))
        tell(f"seed {storm.seed}: {len(faults)} faults and {len(arrivals)} records in {storm.duration:g} s")
        words: dict[str, float] = {}
        striker, people = Striker(world, tell), People(servers.database_url, storm.pace.stall, words)
        unheard_for = storm.pace.stall + 2 * storm.pace.sweep + PATIENCE
        traffic = Traffic(servers.kafka, servers.topic)
        answerers, repliers = Answerers(servers.database_url, storm.pace.stall, words), Repliers(world)
        try:
            _rage(storm, striker, traffic, people, (faults, arrivals))
        except BaseException:
            answerers.stop()
            repliers.stop()
            raise
        calm = Calm(time.monotonic(), storm.pace.sweep, words, unheard_for)
        ended_at = datetime.now(UTC)
        world.witness.calm()
        tell("the storm is over; waiting until all is quiet")
        quiet = _wait_until_quiet(world, calm, tell, _ending(world, traffic, people))
        last = last_movement(servers.database_url)
        parked = settle_what_is_unknown(world)
        if parked:
            tell(f"{len(parked)} tasks waited for a person: settled as the agents' ledger has it")
            _wait_until_quiet(world, Calm(time.monotonic(), storm.pace.sweep, ends=calm.ends), tell)
        repliers.stop()
        answerers.stop()
        # Their last events, which nobody waited for any more: repeated, or of tasks that had ended.
        _wait_until_quiet(world, Calm(time.monotonic(), storm.pace.sweep, ends=_ends(world)), tell)
        own_ends = _own_ends(world, striker.struck)
        world.stop()
        verdict = Audit(world, people, traffic.places).judge()
        verdict.seconds_to_quiet = max(0.0, (last - ended_at).total_seconds()) if quiet else None
        verdict.seconds_to_normal = max(calm.recovering().values(), default=0.0) if quiet else None
        over = [(fault.kind, max(0.0, calm.began - at)) for fault, at in striker.over]
        _require_normal(verdict, calm, over, _waits(storm, world, calm.load))
        verdict.waited_for = calm.told()
        verdict.moving_at_first = calm.moving_at_first
        verdict.load = round(calm.load, 1)
        verdict.parked_unknown = len(parked)
        verdict.complaints += [
            f"{one.task_id} was parked for {one.agent}, which can be asked" for one in parked if not one.by_right
        ]
        verdict.faults = dict(Counter(fault.kind for fault in striker.struck))
        verdict.own_ends = own_ends
        verdict.complaints.extend(striker.failures)
    return verdict


def _rage(
    storm: Storm, striker: Striker, traffic: Traffic, people: People, plan: tuple[Sequence[Fault], Sequence[Arrival]]
) -> None:
    """Strike, produce and meddle, each by its plan, until all is done and undone."""
    faults, arrivals = plan
    began = time.monotonic()
    others = [
        threading.Thread(target=traffic.run, args=(arrivals, began), name="traffic"),
        threading.Thread(target=people.run, args=(draw_deeds(storm.seed, arrivals), began), name="people"),
    ]
    for other in others:
        other.start()
    try:
        striker.run(faults, began)
        for other in others:
            other.join()
    except BaseException:
        for one in (striker, traffic, people):
            one.stop()
        raise


def _ending(world: World, traffic: Traffic, people: People) -> Callable[[], Mapping[str, int]]:
    """People finish, the broker confirms what was produced; what it tells are the ends of the topics."""

    def work() -> Mapping[str, int]:
        people.finish()
        traffic.confirm()
        return _ends(world)

    return work


def _ends(world: World) -> Mapping[str, int]:
    return ends_of_topics(world.servers.kafka, *map(world.servers.topic, ("tasks", "events")))


def _waits(storm: Storm, world: World, load: float) -> Waits:
    pace, session = storm.pace, world.servers.settings.kafka_session_timeout
    return Waits(pace.sweep, pace.lease, pace.stall, session, world.start_takes, max(1.0, load))


def _require_normal(verdict: Verdict, calm: Calm, over: Sequence[tuple[str, float]], waits: Waits) -> None:
    """Everything moved again as soon as it must."""
    for side in (TASKS, BRIDGE):
        most = bound(side, over, waits)
        verdict.normal_within[side.name] = f"{most.seconds:.1f} s ({most.why})"
        for reason, at in calm.recovering().items():
            if (side is BRIDGE) == (reason in STRUCK_BY_BRIDGE) and at > most.seconds:
                verdict.complain(f"{reason}: {at:.1f} s after the last fault, and it may take {most.seconds:.1f} s")


def _own_ends(world: World, faults: Sequence[Fault]) -> dict[str, int]:
    """How often each process ended without being killed, and was started again by its supervisor."""
    kills = Counter(fault.target for fault in faults if fault.kind.endswith(".kill"))
    ends = {name: process.restarts - kills[name] for name, process in world.processes.items()}
    return {name: count for name, count in ends.items() if count > 0}


def _wait_until_quiet(
    world: World,
    calm: Calm,
    tell: Callable[[str], None],
    meanwhile: Callable[[], Mapping[str, int]] | None = None,
) -> bool:
    """Look until nothing moves any more; whether that came in time.

    Args:
        meanwhile: done beside; what it returns are the ends of the topics. Nothing is quiet before.
    """
    with ThreadPoolExecutor(1) as pool:
        ends = None if meanwhile is None else pool.submit(meanwhile)
        while (since := time.monotonic() - calm.began) < min(calm.changed_at + STANDSTILL, LONGEST_CALM):
            known = ends is None or ends.done()
            if not known:
                calm.changed_at = since  # whoever waits for the broker gives up by himself
            if ends is not None and known:
                calm.ends = ends.result()
            try:
                if calm.look(world.servers.database_url, world.servers.redis_url) and known:
                    return True
            except psycopg2.OperationalError as error:
                tell(f"PostgreSQL: {error}")
            time.sleep(0.1)
    for reason, count in calm.moving.items():
        tell(f"not quiet: {count} wait for {reason}, the last {calm.last_one.get(reason, '')}")
    return False
