"""What will happen, drawn from a seed: which fault strikes when and for how long, which records arrive when. Pure.

The same seed, duration and rate give the same plan. (What a fault meets when it strikes is up to the machine.)
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.chaos.cast import EVENT, ROLES, TEMPLATES, approval_of, describe, template_of

# -- pace


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the product is in this storm, in seconds; agents' time-outs go with it."""

    lease: float
    stall: float
    sweep: float
    agent_total: float
    fault_every: float
    """Mean time between two faults."""


DEFAULT_PACE = Pace(lease=9.0, stall=10.0, sweep=2.0, agent_total=4.0, fault_every=2.5)
"""The product's own defaults."""

QUICK_PACE = Pace(lease=2.0, stall=2.0, sweep=0.3, agent_total=2.0, fault_every=0.9)
"""For storms too short for the defaults."""

# -- faults

STRIKES: Mapping[str, tuple[str, int]] = {
    "worker.kill": ("worker", 5),
    "worker.pause": ("worker", 3),
    "worker.deploy": ("worker", 1),
    "bridge.kill": ("bridge", 3),
    "bridge.pause": ("bridge", 1),
    "publisher.kill": ("bridge", 1),
    "publisher.pause": ("bridge", 1),
    "beat.kill": ("beat", 1),
    "bridge.second": ("second bridge", 3),
    "redis.flush": ("redis", 4),
    "redis.cut": ("redis", 3),
    "redis.kill": ("redis", 2),
    "redis.hang": ("redis", 1),
    "redis.restart": ("redis", 1),
    "postgres.kill": ("postgres", 2),
    "postgres.restart": ("postgres", 1),
    "postgres.cut": ("postgres", 2),
    "postgres.full": ("postgres", 1),
    "kafka.kill": ("kafka", 2),
}
"""Each sort of fault: what it strikes, and how often it comes among others."""

WORKERS = ("worker1", "worker2")
BEATS = ("beat1", "beat2")


@dataclass(frozen=True, slots=True)
class Fault:
    """One blow."""

    at: float
    """Seconds after the storm's beginning."""
    kind: str
    target: str
    """Process or server; faults of one target never overlap."""
    lasts: float
    """Seconds until it is undone (a server started again, a process let go on)."""
    hard: bool = False
    """Ended by kill -9 where there is a choice."""


def draw_faults(seed: int, duration: float, pace: Pace, can: Callable[[str], bool] = lambda _kind: True) -> list[Fault]:
    """The faults of a storm in their order: every kind once while there is time, then at random.

    Args:
        can: which kinds there may be.
    """
    rng = random.Random(f"faults {seed}")
    kinds = [kind for kind in STRIKES if can(kind)]
    first = rng.sample(kinds, len(kinds))
    weights = [STRIKES[kind][1] for kind in kinds]
    free_at: dict[str, float] = defaultdict(float)
    faults: list[Fault] = []
    now = pace.fault_every
    while now < duration:
        is_first = bool(first)
        kind = first.pop() if is_first else rng.choices(kinds, weights)[0]
        fault = _fault(rng, kind, now, pace)
        if free_at[fault.target] <= now and now + fault.lasts <= duration + pace.lease:
            free_at[fault.target] = now + fault.lasts + pace.fault_every
            faults.append(fault)
        elif is_first:
            first.insert(0, kind)
        now += rng.expovariate(1 / pace.fault_every)
    return faults


def _fault(rng: random.Random, kind: str, at: float, pace: Pace) -> Fault:
    group, action = STRIKES[kind][0], kind.partition(".")[2]
    target = {"worker": rng.choice(WORKERS), "beat": rng.choice(BEATS)}.get(group, group)
    match action:
        case "pause":
            lasts = pace.lease * rng.uniform(1.2, 1.6)
        case "kill" if group in {"redis", "postgres", "kafka"}:
            # Now and then it stays away for long: 30 s at the default pace.
            lasts = pace.lease * (3.3 if rng.random() < 0.15 else rng.uniform(0.1, 0.5))
        case "hang" | "full":
            lasts = pace.lease * rng.uniform(0.5, 1.0)
        case "second":
            lasts = pace.lease * rng.uniform(0.7, 1.5)
        case _:
            lasts = 0.0
    return Fault(round(at, 2), kind, target, round(lasts, 2), hard=rng.random() < 0.5)


# -- arrivals


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record to produce."""

    at: float
    topic: str
    """``tasks`` or ``events``."""
    key: str | None
    value: bytes


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def draw_arrivals(seed: int, duration: float, rate: float, began: datetime = LONG_AGO) -> list[Arrival]:
    """The records of a storm in their order.

    Args:
        rate: new tasks a second; events, repetitions and bad records come on top.
        began: when the storm begins, for the times that stand in messages.
    """
    rng = random.Random(f"arrivals {seed}")
    arrivals: list[Arrival] = []
    now, number = 0.0, 0
    while now < duration:
        number += 1
        arrivals.extend(_task(rng, f"{seed}-{number}", now, began))
        if rng.random() < 0.03:
            arrivals.append(Arrival(now, "tasks", None, _BAD[number % len(_BAD)]))
        now += rng.expovariate(rate)
    for number, arrival in enumerate(arrivals):
        arrivals[number] = replace(arrival, at=round(min(arrival.at, duration), 3))
    return sorted(arrivals, key=lambda arrival: arrival.at)


_BAD = (
    b"not json",
    b'{"task_description": 5}',
    b'{"task_description": "a\\u0000b", "required_fields": []}',
    b"\xff\xfe",
)


def _task(rng: random.Random, order: str, at: float, began: datetime) -> list[Arrival]:
    template = rng.choices(TEMPLATES, [one.weight for one in TEMPLATES])[0]
    message: dict[str, Any] = {
        "task_description": describe(template, order),
        "required_fields": list(template.required),
        "event_data": {"order": order},
        "priority": rng.randrange(10),
    }
    if tenant := rng.choice((None, "red", "green", "blue")):
        message["tenant"] = tenant
    if template.doomed:
        message["on_failure"] = "undo"
    if template.overdue:
        message["deadline"] = (began + timedelta(seconds=at + rng.uniform(1.0, 4.0))).isoformat()
    elif rng.random() < 0.1:
        message["not_before"] = (began + timedelta(seconds=at + rng.uniform(0.0, 3.0))).isoformat()
    # An event needs the task's id, so whoever sends one knows it.
    named = rng.random() < 0.7 or template.name == "receipt"
    marked = rng.random() < 0.6
    task_id = f"order-{order}" if named else None
    if named:
        message["task_id"] = task_id
    if marked:
        message["message_id"] = f"message-{order}"
    record = Arrival(at, "tasks", task_id, json.dumps(message).encode())
    arrivals = [record]
    if (named or marked) and rng.random() < 0.25:
        arrivals.append(_later(record, at + rng.expovariate(0.5)))
    if named and rng.random() < 0.05:
        other = {**message, "task_description": "something else", "message_id": f"conflict-{order}"}
        arrivals.append(Arrival(at + rng.uniform(1, 4), "tasks", task_id, json.dumps(other).encode()))
    if template.name == "receipt" and task_id is not None:
        arrivals.extend(_events(rng, task_id, order, at))
    return arrivals


def _events(rng: random.Random, task_id: str, order: str, at: float) -> list[Arrival]:
    """Its approval: before the task, soon after it, or late; now and then twice."""
    event = {"task_id": task_id, "event_type": EVENT, "event_data": {"approval": approval_of(order)}}
    when = max(0.0, at + rng.choice([-1.0, 0.0, 1.0, 5.0]) + rng.uniform(-0.5, 0.5))
    record = Arrival(when, "events", task_id, json.dumps(event).encode())
    return [record, _later(record, when + rng.uniform(0, 5))] if rng.random() < 0.3 else [record]


def _later(record: Arrival, at: float) -> Arrival:
    return Arrival(at, record.topic, record.key, record.value)


# -- what people do

CANCELED = frozenset(role.provides for role in ROLES if role.cancels)
"""What agents find out whose jobs can be canceled."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a person does to a task."""

    at: float
    what: str
    """``pause``, ``resume``, ``restart``, ``cancel``, ``cancel and undo``, ``cancel its job`` (while it runs)."""
    task_id: str


def draw_deeds(seed: int, arrivals: Iterable[Arrival]) -> list[Deed]:
    """Now and then somebody pauses a task for a while, cancels it, or has it begin anew."""
    rng = random.Random(f"deeds {seed}")
    deeds: list[Deed] = []
    known: set[str] = set()
    for arrival in arrivals:
        message = _message(arrival)
        task_id = message.get("task_id")
        if task_id is None or task_id in known:
            continue
        known.add(task_id)
        template = template_of(message["task_description"])
        draw, at = rng.random(), arrival.at + rng.uniform(0.0, 3.0)
        if draw < 0.06:
            deeds += [Deed(at, "pause", task_id), Deed(at + rng.uniform(1.0, 8.0), "resume", task_id)]
        elif draw < 0.13 and not (template.doomed or template.overdue):
            undo = rng.random() < 0.5 and template.undoable
            deeds.append(Deed(at, "cancel and undo" if undo else "cancel", task_id))
        elif draw < 0.18 and not (template.doomed or template.overdue):
            deeds.append(Deed(at, "restart", task_id))
        elif draw < 0.4 and set(template.required) & CANCELED:
            deeds.append(Deed(at, "cancel its job", task_id))
    return sorted(deeds, key=lambda deed: deed.at)


def _message(arrival: Arrival) -> Mapping[str, Any]:
    """A task's message; empty for any other record."""
    if arrival.topic != "tasks":
        return {}
    try:
        found = json.loads(arrival.value)
    except ValueError:
        return {}
    # The same id with other content, or bad: not the task.
    return found if isinstance(found, dict) and "order" in found.get("event_data", {}) and _is_plain(found) else {}


def _is_plain(message: Mapping[str, Any]) -> bool:
    return not str(message.get("message_id", "")).startswith("conflict-")
