"""Half a minute without Redis, without PostgreSQL, or without a free connection to it, at the default settings.

Tasks of every sort are on their way: calls in flight, jobs, parallel calls, waits for an event. What comes meanwhile,
replies and records and events, comes while the server is away. Then all go on by themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.devstack.stack import EmbeddedStack
from tests.chaos.servers import Servers
from tests.support.agents import ScriptedAgent, job, poll, reply
from tests.support.intake_seen import unpublished
from tests.support.own_servers import own_servers, product_on
from tests.support.processes import wait_for
from tests.support.system import PROGRAMS, System

AWAY = 30.0
SWEEP, LEASE, STALL = 2.0, 9.0, 10.0
"""The defaults, which these tests keep to."""
RECOVERY = LEASE + STALL + 2 * SWEEP + 15.0
"""Seconds after which all must have ended: a lease to run out, a doorbell that was lost, their sweeps; and the work."""

OF_EACH = 8
SORTS: Mapping[str, tuple[str, ...]] = {
    "calls": ("last",),
    "jobs": ("paper",),
    "wide": ("left", "right"),
    "events": ("receipt",),
    "late": ("last",),
}
"""Required fields of each sort of task; those called late are produced while the server is away."""
EFFECTS = {"calls": 2, "jobs": 1, "wide": 2, "events": 1, "late": 2}


def away(name: str) -> Callable[[Servers, Callable[[], None]], None]:
    """Killed with kill -9, and back half a minute later with what it had."""

    def blow(servers: Servers, meanwhile: Callable[[], None]) -> None:
        servers.switches[name].kill()
        begun = time.monotonic()
        meanwhile()
        time.sleep(AWAY - (time.monotonic() - begun))
        servers.switches[name].start()

    return blow


def full(servers: Servers, meanwhile: Callable[[], None]) -> None:
    """Every connection is taken by somebody else, those of the product included."""
    meanwhile()
    servers.fill_postgres(AWAY)


OUTAGES: Mapping[str, Callable[[Servers, Callable[[], None]], None]] = {
    "Redis away": away("redis"),
    "PostgreSQL away": away("postgres"),
    "PostgreSQL at its connection limit": full,
}


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Servers to be ended."""
    with own_servers(tmp_path, max_connections="60") as stack:
        yield stack


@pytest.fixture
def own(own_stack: EmbeddedStack, system: System, scripted_agent: ScriptedAgent) -> Iterator[System]:
    """The product on those servers, with its default pace and agents that act once for each key."""
    fills = {"name": "approved", "description": "Approved.", "fills": {"approval": "/approval"}}
    (system.folder / "events.yaml").write_text(yaml.safe_dump({"events": [fills]}), encoding="utf-8")
    system.env["ORCHESTRATOR_EVENTS"] = str(system.folder / "events.yaml")
    system.use_agents(
        entry(scripted_agent, "held"),
        entry(scripted_agent, "last", "held"),
        entry(scripted_agent, "paper"),
        entry(scripted_agent, "left"),
        entry(scripted_agent, "right"),
        entry(scripted_agent, "receipt", "approval"),
    )
    for name in ("last", "receipt"):
        scripted_agent.script(f"/{name}", reply({name: 1}))
    for name in ("held", "left", "right"):
        scripted_agent.script(f"/{name}", reply({name: 1}, gate="outage"))
    scripted_agent.script("/paper", job(*[poll("running")] * 4, poll("succeeded", {"paper": 1}), retry_after=2))
    with product_on(own_stack, system, ORCHESTRATOR_SWEEP_INTERVAL=str(SWEEP)) as found:
        yield found


def entry(agent: ScriptedAgent, provides: str, *requires: str) -> dict[str, Any]:
    return {
        "name": provides,
        "description": f"Gives {provides}.",
        "url": agent.url(f"/{provides}"),
        "provides": [provides],
        "requires": list(requires),
        "idempotent": True,
        "timeout": {"connect": 2, "read": 90, "total": 90},
    }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("outage", OUTAGES)
def test_after_half_a_minute_all_tasks_go_on_by_themselves(
    own: System, own_stack: EmbeddedStack, scripted_agent: ScriptedAgent, outage: str
) -> None:
    processes = {name: own.start_one(name) for name in ("bridge", "beat", "worker")}
    for name, process in processes.items():
        own.processes.wait_for_log(process, PROGRAMS[name][1])
    first, later = [name for name in SORTS if name != "late"], ["late"]
    produce(own, first)
    agent = scripted_agent.ledger
    wait_for(lambda: sum(agent().in_flight.get(f"/{one}", 0) for one in ("held", "left", "right")) == 3 * OF_EACH, 60.0)
    wait_for(lambda: len(agent().posts("/paper")) == OF_EACH, 60.0, "the jobs are begun")
    wait_for(lambda: waiting_for_events(own) == OF_EACH, 60.0, "tasks wait for their events")

    def meanwhile() -> None:
        scripted_agent.open_gate("outage")
        produce(own, later)
        for number in range(OF_EACH):
            own.produce_event(f"events-{number}", "approved", approval="yes")
        own.producer.flush()

    switches = {"redis": own_stack.valkey, "postgres": own_stack.postgres}
    OUTAGES[outage](Servers(own_stack.keeper, own.env, own_stack.postgres.url(), switches), meanwhile)
    ids = [f"{sort}-{number}" for sort in SORTS for number in range(OF_EACH)]
    own.wait_for_all(ids, timeout=RECOVERY)

    for name, process in processes.items():
        assert process.running, f"{name} ended with {process.exit_code}"
    assert {task.task_id for task in own.store.tasks(limit=1000)} == set(ids)
    assert agent().doubled == []
    assert len(agent().effects) == sum(EFFECTS[sort] * OF_EACH for sort in SORTS)
    wait_for(lambda: unpublished(own.store) == 0, what="all updates are published")
    rows = {row.body["update_id"] for task_id in ids for row in own.store.updates(task_id)}
    told = {
        one["update_id"]: one for one in own.read("task-updates", len(rows), counted_by=lambda one: one["update_id"])
    }
    assert set(told) == rows
    assert Counter(one["task_id"] for one in told.values() if one["state"] == "completed") == dict.fromkeys(ids, 1)


def produce(system: System, sorts: list[str]) -> None:
    for sort in sorts:
        for number in range(OF_EACH):
            system.produce_task(f"{sort}-{number}", required_fields=list(SORTS[sort]))
    system.producer.flush()


def waiting_for_events(system: System) -> int:
    return sum(task.waits_for == "event" for task in system.store.tasks(state="waiting", limit=1000))
