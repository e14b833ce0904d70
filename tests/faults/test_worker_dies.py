"""Workers that die by kill -9 between two commits or effects: nothing is lost and nothing done twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.devstack.process import ManagedProcess, Restart
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.task import WaitsFor
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.processes import wait_for
from tests.support.system import System

AGAIN = Restart(first=0.1, most=0.5)

# Where a task of two steps is when its worker dies: requests to the first agent, questions to the planner for step 1.
KILLS: Mapping[FaultPoint, tuple[int, int]] = {
    FaultPoint.STEP_RECEIVED: (1, 1),
    FaultPoint.STEP_CLAIMED: (1, 1),
    FaultPoint.STEP_PLANNED: (1, 2),
    FaultPoint.DELEGATION_MARKED: (1, 1),
    FaultPoint.DELEGATION_ANSWERED: (2, 1),
    FaultPoint.STEP_ENDED: (1, 1),
    FaultPoint.STEP_SUCCESSOR_SENT: (1, 1),
}


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "retry": {"max_attempts": 3, "base_delay": 0.1, "max_delay": 0.5},
        **parts,
    }


def start_workers(system: System, armed: dict[str, str]) -> list[ManagedProcess]:
    """Two workers that are started again when they die."""
    workers = [system.start_worker(number, "--concurrency", "4", **armed) for number in (1, 2)]
    for worker in workers:
        worker.set_restart(AGAIN)
    return workers


def decisions(workers: list[ManagedProcess], task_id: str) -> Counter[int]:
    """How often the planner was asked for each step of a task, by the workers' logs."""
    found: Counter[int] = Counter()
    for worker in workers:
        for line in worker.log_text().splitlines():
            if "step.decided" in line and f"task_id={task_id} " in line and (step := re.search(r" step=(\d+)", line)):
                found[int(step[1])] += 1
    return found


def states_told(system: System, task_id: str) -> list[tuple[str, int]]:
    """State and step of each update in the outbox, in order."""
    return [(row.body["state"], row.body["step"]) for row in system.store.updates(task_id)]


def test_a_worker_killed_anywhere_in_a_step_loses_nothing_and_repeats_nothing(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=True)
    scripted_agent.script("/book", reply({"book": "B-1"}), idempotent=True)
    system.use_agents(
        entry(scripted_agent, "pay", idempotent=True), entry(scripted_agent, "book", idempotent=True, requires=["pay"])
    )
    armed = faults.arm(*(f"{point}:kill:only=dies-at-{point}" for point in KILLS))
    workers = start_workers(system, armed)
    system.start("bridge", "beat")
    for point, (requests, asked) in KILLS.items():
        # One after another: a death takes all that its worker does with it.
        task_id = f"dies-at-{point}"
        system.produce_task(task_id, required_fields=["pay", "book"])
        faults.wait_for(point)
        system.wait_for_state(task_id, "completed")

        posts = [seen.key for seen in scripted_agent.ledger().posts("/pay") if seen.key.startswith(task_id)]
        assert len(posts) == requests, point
        assert len(set(posts)) == 1, point
        asked_for = decisions(workers, task_id)
        assert (asked_for[1], asked_for[2]) == (asked, 1), point
        assert system.data(task_id) == {"pay": "P-1", "book": "B-1"}, point
        assert [entry.step.number for entry in system.store.history(task_id)] == [1, 2], point
        assert states_told(system, task_id) == [("received", 1), ("processing", 2), ("completed", 2)], point
        assert [version for version, _, _ in system.store.versions(task_id)] == [1, 2, 3], point
    assert {point: faults.fired(point) for point in KILLS} == {point: [f"dies-at-{point}"] for point in KILLS}
    effects = scripted_agent.ledger().effects
    assert len(effects) == 2 * len(KILLS)
    assert set(effects.values()) == {1}


@pytest.mark.parametrize("kind", ["looks up", "neither"])
def test_an_agent_that_honours_no_keys_is_never_called_a_second_time(
    system: System, scripted_agent: ScriptedAgent, faults: Faults, kind: str
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    # It acts on each request, whatever its key: a second request would show as a second effect.
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=False)
    lookup = {"lookup": {"url": scripted_agent.url("/pay/replies/{key}")}} if kind == "looks up" else {}
    schema = {"type": "object", "required": ["pay"], "properties": {"pay": {"type": "string"}}}
    timeout = {"connect": 1, "read": 2, "total": 3}
    system.use_agents(entry(scripted_agent, "pay", idempotent=False, timeout=timeout, output_schema=schema, **lookup))
    before, after = FaultPoint.DELEGATION_MARKED, FaultPoint.DELEGATION_ANSWERED
    start_workers(system, faults.arm(f"{before}:kill:only=not-sent", f"{after}:kill:only=acted"))
    system.start("bridge", "beat")

    for point, task_id in ((before, "not-sent"), (after, "acted")):
        system.produce_task(task_id, required_fields=["pay"])
        faults.wait_for(point)
        if kind == "looks up":
            system.wait_for_state(task_id, "completed")
            assert system.data(task_id) == {"pay": "P-1"}
        else:
            task = system.wait_for_state(task_id, "waiting")
            assert task.waits_for is WaitsFor.PERSON
            assert task.reason_code == "outcome_unknown"
            (step,) = system.store.history(task_id)
            assert [one.state for one in step.delegations] == [DelegationState.UNKNOWN]
    if kind == "neither":
        settle_by_hand(system)
    posts = Counter(seen.key.split(":")[0] for seen in scripted_agent.ledger().posts("/pay"))
    assert posts == {"not-sent": 1, "acted": 1}
    assert scripted_agent.ledger().doubled == []


def settle_by_hand(system: System) -> None:
    """What a person does with the two: both are listed; one is sent, the other one's reply is entered."""
    parked = system.orchestrator("task", "list", "--waits-for", "person", "--json").json()["tasks"]
    assert {task["task_id"] for task in parked} == {"not-sent", "acted"}
    shown = system.orchestrator("task", "show", "acted").out
    assert "orchestrator task resolve acted --succeeded --reply JSON" in shown
    refused = system.orchestrator("task", "resolve", "acted", "--succeeded", "--reply", '{"pay": 7}', code=1)
    assert "output_schema" in refused.err
    said = ("--why", "seen in the ledger", "--who", "ann", "--json")
    entered = system.orchestrator("task", "resolve", "acted", "--succeeded", "--reply", '{"pay": "P-1"}', *said).json()
    assert (entered["delegation"], entered["outcome"], entered["step"]) == ("1.0", "succeeded", 1)
    system.orchestrator("task", "resolve", "not-sent", "--never-happened")
    for task_id in ("acted", "not-sent"):
        system.wait_for_state(task_id, "completed")
        assert system.data(task_id) == {"pay": "P-1"}
    origins = {task_id: system.store.context(task_id).origins["pay"] for task_id in ("acted", "not-sent")}
    assert (origins["acted"].kind, origins["acted"].name) == ("person", "ann")
    assert (origins["not-sent"].kind, origins["not-sent"].name) == ("agent", "pay")


def test_a_step_that_kills_every_worker_is_set_aside(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    """It is not looped: after as many deaths without a commit as are allowed it fails as `poison`; others go on."""
    system.env |= {"ORCHESTRATOR_LEASE": "1", "ORCHESTRATOR_STALL": "1", "ORCHESTRATOR_MAX_LOST_LEASES": "2"}
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=True)
    system.use_agents(entry(scripted_agent, "pay", idempotent=True))
    workers = start_workers(system, faults.arm(f"{FaultPoint.STEP_PLANNED}:kill:only=poison:times=9"))
    system.start("bridge", "beat")
    system.produce_task("poison", required_fields=["pay"])
    faults.wait_for(FaultPoint.STEP_PLANNED)
    system.produce_task("healthy", required_fields=["pay"])
    task = system.wait_for_state("poison", "failed")
    assert task.reason_code == "poison"
    system.wait_for_state("healthy", "completed")
    assert faults.fired(FaultPoint.STEP_PLANNED) == ["poison", "poison"]
    wait_for(lambda: all(worker.running for worker in workers), what="both workers are back")
