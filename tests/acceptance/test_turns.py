"""Priorities, ageing and tenants from Kafka to the last step, with real workers. What is asserted is order."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import redis
from sqlalchemy import text

from orchestrator.worker.names import LANE_QUEUES, broker_priority
from tests.support.agents import ScriptedAgent, reply
from tests.support.documents import commands, type_in
from tests.support.processes import wait_for
from tests.support.system import System

AT_ONCE = {"required_fields": ["a"], "event_data": {"a": 1}}
"""A task that one step finishes without asking anyone."""


def backlog(system: System, names: Sequence[str], **parts: object) -> None:
    """Produce these tasks and wait until the bridge has taken them in."""
    for name in names:
        system.produce_task(name, **{**AT_ONCE, **parts})
    system.producer.flush()
    wait_for(lambda: set(names) <= {task.task_id for task in system.store.tasks(limit=5_000)}, 60, "all are taken in")


def rung(system: System, urgency: int, *lanes: int) -> int:
    """Doorbells of this urgency that wait in Redis, in these lanes."""
    place = broker_priority(urgency)
    with redis.Redis.from_url(system.env["REDIS_URL"]) as client:
        names = [f"orchestrator:{LANE_QUEUES[lane]}" + (f"\x06\x16{place}" if place else "") for lane in lanes]
        return sum(int(client.llen(name)) for name in names)


def in_order(system: System) -> list[str]:
    """The tasks in the order in which their first steps were written."""
    with system.store.engine.connect() as connection:
        rows = connection.execute(text("SELECT task_id FROM steps WHERE step_number = 1 ORDER BY started_at"))
        return [row.task_id for row in rows]


def test_a_late_urgent_task_overtakes_a_backlog_and_a_single_task_another_tenants(system: System) -> None:
    system.env["ORCHESTRATOR_DISPATCH_WINDOW"] = "40"
    system.start("bridge")
    names = [f"a-{number:03}" for number in range(150)]
    backlog(system, names, tenant="a")
    backlog(system, ["urgent"], tenant="a", priority=9)
    wait_for(lambda: rung(system, 9, 0, 1), what="the urgent one rings although the window is full of others")
    backlog(system, ["b-1"], tenant="b")
    wait_for(lambda: rung(system, 4, 0) == 11, what="a's share of ten and b's only one")
    system.start("beat")
    system.start_worker(1, "--concurrency", "1")
    system.wait_for_all([*names, "urgent", "b-1"])
    order = in_order(system)
    assert order[0] == "urgent"
    assert order.index("b-1") <= 11, "behind the other tenant's share, before its backlog"


def test_nothing_starves_under_a_stream_of_urgent_tasks(system: System) -> None:
    """Urgent tasks come faster than they are done; one of priority 0 with three steps is finished meanwhile."""
    system.env |= {"ORCHESTRATOR_AGEING": "0.4", "ORCHESTRATOR_STALL": "1"}
    system.start("bridge", "beat")
    urgent: list[str] = []
    stop = threading.Event()

    def unfinished() -> int:
        with system.store.engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM tasks WHERE priority = 9 AND state <> 'completed'"))
            return int(found.scalar_one())

    def stream() -> None:
        while not stop.is_set():
            if unfinished() < 150:
                names = [f"urgent-{len(urgent) + number}" for number in range(100)]
                backlog(system, names, priority=9)
                urgent.extend(names)

    backlog(system, [f"urgent-before-{number}" for number in range(150)], priority=9)
    system.produce_task(
        "patient", priority=0, required_fields=["credit_score"], event_data={"company_name": "Northwind Bearings GmbH"}
    )
    wait_for(lambda: rung(system, 0, 0, 1), what="it waits behind them")
    streaming = threading.Thread(target=stream)
    streaming.start()
    try:
        system.start_worker(1, "--concurrency", "1")
        patient = system.wait_for_state("patient", "completed", timeout=120)
        assert unfinished() > 0, "the stream had not dried up"
    finally:
        stop.set()
        streaming.join()
    assert patient.priority == 0
    assert patient.aged > 0


def test_a_tenants_cap_holds_over_all_workers(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/slow", reply({"slow": 1}, delay=0.1))
    system.use_agents(
        {
            "name": "slow",
            "description": "Takes a moment.",
            "url": scripted_agent.url("/slow"),
            "provides": ["slow"],
            "idempotent": True,
        }
    )
    system.env["ORCHESTRATOR_TENANT_TASKS"] = "*=100,acme=2"
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "10")
    system.start_worker(2, "--concurrency", "10")
    names = [f"acme-{number}" for number in range(12)]
    for name in names:
        system.produce_task(name, tenant="acme", required_fields=["slow"])
    system.wait_for_all(names)
    assert scripted_agent.ledger().max_in_flight["/slow"] == 2


def test_the_guide(system: System) -> None:
    """What docs/priorities-and-fairness.md tells to type does what it says."""
    system.env["ORCHESTRATOR_TENANT_TASKS"] = "*=200,acme=500"
    system.start("bridge", "beat", "worker")
    outputs = [
        type_in(command, system.folder, system.env)
        for command in commands("docs/priorities-and-fairness.md")
        if command.startswith("orchestrator ")
    ]
    assert any('"priority": 9' in output and '"tenant": "acme"' in output for output in outputs)
    system.wait_for_state("urgent-1", "completed")
