"""Workers that die by kill -9 in a step with several calls: each call goes on under its own key, joined once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.devstack.process import Restart
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.system import System

# Where a worker dies, and how many requests the three calls of its step may take: the workers have four threads, so
# what one takes down with it is called again.
KILLS: Mapping[FaultPoint, range] = {
    FaultPoint.STEP_ENDED: range(3, 4),
    FaultPoint.DELEGATION_MARKED: range(3, 6),
    FaultPoint.DELEGATION_ANSWERED: range(4, 7),
    FaultPoint.DELEGATION_SETTLED: range(3, 6),
}


def entry(agent: ScriptedAgent, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "idempotent": True,
        "retry": {"max_attempts": 5, "base_delay": 0.1, "max_delay": 0.5},
    }


def test_a_worker_killed_anywhere_in_a_parallel_step_loses_nothing_and_repeats_nothing(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5", "ORCHESTRATOR_FAN_OUT_AT_ONCE": "2"}
    names = ("pay", "book", "mail")
    for name in names:
        scripted_agent.script(f"/{name}", reply({name: name.upper()}), idempotent=True)
    system.use_agents(*(entry(scripted_agent, name) for name in names))
    armed = faults.arm(*(f"{point}:kill:only=dies-at-{point}" for point in KILLS))
    for number in (1, 2):
        system.start_worker(number, "--concurrency", "4", **armed).set_restart(Restart(first=0.1, most=0.5))
    system.start("bridge", "beat")
    for point, requests in KILLS.items():
        task_id = f"dies-at-{point}"
        system.produce_task(task_id, required_fields=names)
        faults.wait_for(point)
        system.wait_for_state(task_id, "completed")
        keys = [seen.key for seen in scripted_agent.ledger().requests if seen.key.startswith(task_id)]
        assert len(keys) in requests, point
        assert len(set(keys)) == 3, point
        assert system.data(task_id) == {name: name.upper() for name in names}, point
        assert [entry.step.number for entry in system.store.history(task_id)] == [1], point
        assert [version for version, _, _ in system.store.versions(task_id)] == [1, 2], point
        states = [row.body["state"] for row in system.store.updates(task_id)]
        assert (states[0], states[-1], states.count("completed")) == ("received", "completed", 1), point
    assert {point: faults.fired(point) for point in KILLS} == {point: [f"dies-at-{point}"] for point in KILLS}
    effects = scripted_agent.ledger().effects
    assert len(effects) == 3 * len(KILLS)
    assert set(effects.values()) == {1}
