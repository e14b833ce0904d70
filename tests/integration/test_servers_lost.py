"""Redis and PostgreSQL lost in every way while calls are in flight: the processes stay up, and go on by themselves.

The outages are short here; half a minute of each is in `tests/acceptance/test_outages.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.devstack.stack import EmbeddedStack
from tests.chaos.servers import Servers
from tests.support.agents import ScriptedAgent, reply
from tests.support.intake_seen import scalar, unpublished
from tests.support.own_servers import own_servers, product_on
from tests.support.processes import wait_for
from tests.support.system import PROGRAMS, System

CALLS = 12
LEASE = 3
TABLES = ("tasks", "task_contexts", "context_versions", "steps", "delegations", "inbox", "outbox")
AGES = ("ORCHESTRATOR_KEEP_TASKS", "ORCHESTRATOR_KEEP_INBOX", "ORCHESTRATOR_KEEP_UPDATES")


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Servers to be ended; a PostgreSQL with few connections."""
    with own_servers(tmp_path, fsync="off", max_connections="60") as stack:
        yield stack


@pytest.fixture
def own(own_stack: EmbeddedStack, system: System) -> Iterator[System]:
    """The product on those servers."""
    pace = {"ORCHESTRATOR_LEASE": str(LEASE), "ORCHESTRATOR_STALL": str(LEASE), "ORCHESTRATOR_PRUNE_INTERVAL": "1"}
    with product_on(own_stack, system, **pace) as found:
        yield found


def entries(agent: ScriptedAgent) -> list[dict[str, Any]]:
    """An agent that holds its calls, and one that comes after it."""
    patient = {"connect": 2, "read": 90, "total": 90}
    hold = {"name": "hold", "description": "Holds its calls.", "provides": ["held"]}
    last = {"name": "last", "description": "Comes last.", "provides": ["last"], "requires": ["held"]}
    return [
        {**one, "url": agent.url(f"/{one['name']}"), "side_effects": True, "idempotent": True, "timeout": patient}
        for one in (hold, last)
    ]


def lose_redis(servers: Servers) -> None:
    """Killed, away for a moment, and back without what it had."""
    servers.switches["redis"].kill()
    time.sleep(2)
    servers.forget_redis()


def lose_postgres(servers: Servers) -> None:
    """Killed, and away for longer than a lease."""
    servers.switches["postgres"].kill()
    time.sleep(LEASE + 1)
    servers.switches["postgres"].start()


BLOWS: Mapping[str, Callable[[Servers], None]] = {
    "Redis killed and back without its data": lose_redis,
    "all connections to Redis cut": lambda servers: servers.cut_redis(),
    "Redis hanging for longer than its time-out": lambda servers: servers.hang_redis(6),
    "PostgreSQL restarted, fast": lambda servers: servers.restart_postgres(immediate=False),
    "PostgreSQL restarted, immediate": lambda servers: servers.restart_postgres(immediate=True),
    "PostgreSQL killed and away": lose_postgres,
    "PostgreSQL at its connection limit": lambda servers: servers.fill_postgres(LEASE + 1),
}


def test_processes_outlive_their_servers_and_what_is_old_is_removed(
    own: System, own_stack: EmbeddedStack, scripted_agent: ScriptedAgent
) -> None:
    """Each blow falls while calls are in flight. At last beat has everything removed that is over."""
    own.use_agents(*entries(scripted_agent))
    scripted_agent.script("/last", reply({"last": 1}))
    switches = {"redis": own_stack.valkey, "postgres": own_stack.postgres}
    servers = Servers(own_stack.keeper, own.env, own_stack.postgres.url(), switches)
    processes = {name: own.start_one(name) for name in ("bridge", "beat", "worker")}
    for name, process in processes.items():
        own.processes.wait_for_log(process, PROGRAMS[name][1])
    for number, (what, blow) in enumerate(BLOWS.items()):
        scripted_agent.script("/hold", reply({"held": 1}, gate=f"{number}"))
        ids = [f"{number}-{one}" for one in range(CALLS)]
        for task_id in ids:
            own.produce_task(task_id, required_fields=["last"])
        own.producer.flush()
        wait_for(lambda: scripted_agent.ledger().in_flight.get("/hold") == CALLS, 60.0, f"calls are in flight: {what}")
        blow(servers)
        scripted_agent.open_gate(f"{number}")
        own.wait_for_all(ids, timeout=60.0)
        for name, process in processes.items():
            assert process.running, f"{name} ended with {process.exit_code}: {what}"
    assert scripted_agent.ledger().doubled == []
    assert len(scripted_agent.ledger().effects) == 2 * CALLS * len(BLOWS)
    assert scalar(own.store, "SELECT count(*) FROM restores") == 0, "a server that crashed is no older"

    processes["worker"].stop()
    wait_for(lambda: unpublished(own.store) == 0, what="all updates are published")
    own.start_worker(2, **dict.fromkeys(AGES, "0.000001"))
    wait_for(lambda: not any(scalar(own.store, f"SELECT count(*) FROM {one}") for one in TABLES), 30.0, "all is gone")
