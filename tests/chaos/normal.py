"""When everything must move again after the last fault: derived from the settings, for each fault of the last seconds.

*Normal* is that nothing waits for the product to recover: each task and call that is due is in a worker's hand or in a
queue, each record that Kafka has is read, each update is published, but for what came within the last moment. (Not:
that all has ended. Work takes its time, and so do agents and people.) `calm` sees until when that was not so.

After calm weather one sweep finds what does not move. A fault needs more where something must run out first (a lease, a
membership, a stall time), and it has as much from its own end on, not from the storm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge import pause, updates
from bridge.group import JOINING_LONGEST
from orchestrator.store.outbox import PUBLISHER_LEASE
from orchestrator.worker import guard
from tests.chaos.calm import PATIENCE


@dataclass(frozen=True, slots=True)
class Waits:
    """The settings that recovery goes by, in seconds."""

    sweep: float
    lease: float
    stall: float
    session: float
    """Of the bridges' group."""
    start: float
    """A process of ours from its start until it works, measured on this machine at the storm's beginning."""
    busy: float = 1.0
    """How much longer work takes here than it must: processes that want a processor for each that there is."""


Part = tuple[str, float]
Needs = Callable[[Waits], list[Part]]


def _worker(waits: Waits) -> list[Part]:
    """A sweep on the same machine ends the leases of the dead worker; the first may have been in its own hands."""
    return [("a worker's start", waits.start), ("two sweeps", 2 * waits.sweep)]


def _paused(waits: Waits) -> list[Part]:
    """A doorbell in its hands counts as lost after the stall time, a lease that it let expire ends after its time."""
    return [("lease or stall time", max(waits.lease, waits.stall)), ("two sweeps", 2 * waits.sweep)]


def _beat(waits: Waits) -> list[Part]:
    return [("beat's start", waits.start), ("two sweeps", 2 * waits.sweep)]


def _redis(waits: Waits) -> list[Part]:
    """Whoever ended is started again, or looks for it; a single doorbell that was lost counts so after the stall."""
    return [
        ("a start, or looking for Redis", max(waits.start, guard.LONGEST_PAUSE)),
        ("the stall time", waits.stall),
        ("two sweeps", 2 * waits.sweep),
    ]


def _postgres(waits: Waits) -> list[Part]:
    return [
        ("looking for PostgreSQL", pause.LONGEST_PAUSE),
        ("lease or stall time", max(waits.lease, waits.stall)),
        ("two sweeps", 2 * waits.sweep),
    ]


def _group(waits: Waits) -> list[Part]:
    """The group waits for the session of the one that is gone, then forms anew; the publisher's lease ends beside."""
    return [
        ("joining the group", max(JOINING_LONGEST * waits.session, PUBLISHER_LEASE.total_seconds())),
        ("standing for election", updates.ELECTION_EVERY),
    ]


def _bridge(waits: Waits) -> list[Part]:
    return [("a bridge's start", waits.start), *_group(waits)]


def _kafka(waits: Waits) -> list[Part]:
    return [("joining the group", JOINING_LONGEST * waits.session), ("looking for Kafka", pause.LONGEST_PAUSE)]


def _postgres_of_bridge(_waits: Waits) -> list[Part]:
    return [
        ("looking for PostgreSQL", pause.LONGEST_PAUSE),
        ("the publisher's lease", PUBLISHER_LEASE.total_seconds()),
        ("standing for election", updates.ELECTION_EVERY),
    ]


@dataclass(frozen=True, slots=True)
class Side:
    """Tasks and calls, or records and updates: what recovers by itself, whatever the other does."""

    name: str
    calm: Needs
    """What it takes without a fault."""
    needs: Mapping[str, Needs]
    """By kind of fault, or by what it strikes; what is not here does not strike this side."""


TASKS = Side(
    "tasks and calls",
    lambda waits: [("the next sweep", waits.sweep)],
    {
        "worker.kill": _worker,
        "worker.deploy": _worker,
        "worker.pause": _paused,
        "beat": _beat,
        "redis": _redis,
        "postgres": _postgres,
    },
)
BRIDGE = Side(
    "records and updates",
    lambda _waits: [("a look into the outbox", updates.LATEST)],
    {
        "bridge.kill": _bridge,
        "publisher": _bridge,
        "bridge": _group,
        "kafka": _kafka,
        "postgres": _postgres_of_bridge,
    },
)
STRUCK_BY_BRIDGE = frozenset({"the bridge to read", "the bridge to publish"})
"""Reasons of `calm` that are the bridge's; the rest of its recovery is the tasks'."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Within how many seconds after the last fault all of one side must move, and why."""

    seconds: float
    why: str


def bound(side: Side, over: Sequence[tuple[str, float]], waits: Waits) -> Bound:
    """The latest of what each fault needs.

    Args:
        over: kind of each fault, and how many seconds before the storm's end it was over.
    """
    found = [_bound("calm", side.calm(waits), 0.0, waits)]
    for kind, before in over:
        need = side.needs.get(kind) or side.needs.get(kind.partition(".")[0])
        if need is not None:
            found.append(_bound(kind, need(waits), before, waits))
    return max(found, key=lambda one: one.seconds)


def _bound(what: str, parts: Sequence[Part], before: float, waits: Waits) -> Bound:
    all_parts = [*parts, ("what is on its way", PATIENCE * waits.busy)]
    sums = " + ".join(f"{name} {each:.3g}" for name, each in all_parts)
    since = f", over {before:.1f} s before the end" if before else ""
    return Bound(round(sum(each for _, each in all_parts) - before, 1), f"{what}{since}: {sums}")
