"""Caps, rates and breakers of agents and models over all workers, with real agents that keep count."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from tests.support.agents import ScriptedAgent, problem, reply
from tests.support.documents import commands, type_in
from tests.support.llm import LlmServer, says, tool
from tests.support.processes import wait_for
from tests.support.system import System


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "idempotent": True,
        **parts,
    }


@pytest.fixture
def quick(system: System) -> System:
    """Short leases, so that a killed worker is noticed soon."""
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    return system


def submit(system: System, field: str, count: int, **parts: Any) -> list[str]:
    names = [f"{field}-{number}" for number in range(count)]
    for name in names:
        system.produce_task(name, required_fields=[field], **parts)
    system.producer.flush()
    return names


def attempts(system: System, names: list[str]) -> set[int]:
    """How often the calls of these tasks were attempted."""
    return {
        delegation.attempts for name in names for turn in system.store.history(name) for delegation in turn.delegations
    }


def test_a_cap_holds_over_workers_and_costs_no_attempt(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/score", reply({"score": 1}, delay=0.1))
    system.use_agents(entry(scripted_agent, "score", limits={"max_concurrency": 2}))
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "10")
    system.start_worker(2, "--concurrency", "10")
    names = submit(system, "score", 20)
    system.wait_for_all(names)
    ledger = scripted_agent.ledger()
    assert ledger.max_in_flight["/score"] == 2
    assert len(ledger.posts("/score")) == 20
    assert attempts(system, names) == {1}


def test_why_a_task_waits_is_told_and_its_worker_is_free(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/slow", reply({"slow": 1}, gate="go"))
    scripted_agent.script("/quick", reply({"quick": 1}))
    system.use_agents(
        entry(scripted_agent, "slow", limits={"max_concurrency": 1}),
        entry(scripted_agent, "quick", limits={"rate": 100}),
    )
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "2")
    names = submit(system, "slow", 5)
    wait_for(lambda: sum(task.state == "waiting" for task in system.store.tasks()) == 4, 60, "four wait")
    waiting = next(task for task in system.store.tasks(state="waiting"))
    assert waiting.reason_code == "agent_at_capacity"
    assert "slow is called as much as its limits allow (1 calls at once)" in (waiting.reason or "")
    shown = system.orchestrator("agent", "list", "--json").json()
    (slow,) = [agent for agent in shown["agents"] if agent["name"] == "slow"]
    assert slow["limits"] == {"max_concurrency": 1, "rate": None}
    assert (slow["now"]["in_flight"], slow["now"]["waiting"]) == (1, 4)
    others = submit(system, "quick", 5)
    system.wait_for_all(others)
    scripted_agent.open_gate("go")
    system.wait_for_all(names)


def test_redis_is_emptied_and_a_worker_killed_meanwhile(quick: System, scripted_agent: ScriptedAgent) -> None:
    """Slots of the dead free themselves; what Redis forgot costs no task."""
    scripted_agent.script("/score", *[reply({"score": 1}, gate="first")] * 2, reply({"score": 1}, delay=0.05))
    quick.use_agents(entry(scripted_agent, "score", limits={"max_concurrency": 2}, timeout={"total": 60}))
    quick.start("bridge", "beat")
    doomed = quick.start_worker(1, "--concurrency", "5")
    names = submit(quick, "score", 12)
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/score") == 2, 60, "both slots are taken")
    quick.start_worker(2, "--concurrency", "5")
    doomed.kill()
    wait_for(lambda: len(scripted_agent.ledger().posts("/score")) > 2, 60, "the slots of the dead are free again")
    with redis.Redis.from_url(quick.env["REDIS_URL"]) as client:
        client.flushdb()
    scripted_agent.open_gate("first")
    quick.wait_for_all(names)
    assert scripted_agent.ledger().doubled == []


def test_calls_are_spread_by_the_rate(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/score", reply({"score": 1}))
    system.use_agents(entry(scripted_agent, "score", limits={"rate": 5}))
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "10")
    system.start_worker(2, "--concurrency", "10")
    names = submit(system, "score", 12)
    system.wait_for_all(names)
    times = sorted(seen.at for seen in scripted_agent.ledger().posts("/score"))
    assert len(times) == 12
    assert times[-1] - times[0] >= 11 * 0.2 - 0.5, "no faster than five a second"


def test_an_agent_that_is_down_is_spared_and_used_again(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/score", *[problem(500)] * 3, reply({"score": 1}))
    system.use_agents(entry(scripted_agent, "score", retry={"max_attempts": 9, "base_delay": 0.05, "max_delay": 0.1}))
    system.env |= {"ORCHESTRATOR_BREAKER_FAILURES": "3", "ORCHESTRATOR_BREAKER_PAUSE": "15"}
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "5")
    names = submit(system, "score", 1)
    wait_for(lambda: (task := system.task(names[0])) and task.reason_code == "agent_breaker_open", 60, "it is spared")
    assert len(scripted_agent.ledger().posts("/score")) == 3
    # The pause is long beside the start of a command on a busy machine.
    checked = system.orchestrator("agent", "check", "--json", code=1).json()
    assert checked["agents"][0]["breaker"] == "open"
    names += submit(system, "score", 6)[1:]
    system.wait_for_all(names)
    assert len(scripted_agent.ledger().posts("/score")) == 3 + 6
    assert max(attempts(system, names)) == 4, "waiting for it was no attempt"
    assert system.orchestrator("agent", "check", "--json").json()["agents"][0]["breaker"] == "closed"


@pytest.fixture
def asking(system: System, llm_server: LlmServer) -> LlmServer:
    """The product asks a model."""
    system.env |= {
        "ORCHESTRATOR_MODEL": "openai:gpt-test",
        "OPENAI_BASE_URL": llm_server.api_url,
        "OPENAI_API_KEY": "sk-test-1234567890",
    }
    return llm_server


def test_questions_to_a_model_are_bounded_too(system: System, asking: LlmServer, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/score", reply({"score": 1}))
    system.use_agents(entry(scripted_agent, "score"))
    system.env["ORCHESTRATOR_MODEL_RATE"] = "*=100,openai:gpt-test=4"
    asking.script(*[says(tool("score", reason="it is missing", task="Score", input={}))] * 9)
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "10")
    began = time.monotonic()
    names = submit(system, "score", 9)
    system.wait_for_all(names)
    assert time.monotonic() - began >= 8 * 0.25 - 0.1
    assert len(asking.requests()) == 9
    assert {turn.step.attempts for name in names for turn in system.store.history(name)} == {1}


def test_a_cap_holds_for_the_calls_of_one_step(
    system: System, asking: LlmServer, scripted_agent: ScriptedAgent
) -> None:
    scripted_agent.script("/score", reply({"score": 1}, delay=0.1))
    schema = {"type": "object", "properties": {"part": {"type": "integer"}}}
    system.use_agents(entry(scripted_agent, "score", input_schema=schema, limits={"max_concurrency": 2}))
    calls = [tool("score", reason="it is missing", task="Score", input={"part": part}) for part in range(12)]
    asking.script(says(*calls))
    system.start("bridge", "beat")
    system.start_worker(1, "--concurrency", "10")
    system.start_worker(2, "--concurrency", "10")
    (name,) = submit(system, "score", 1)
    system.wait_for_state(name, "completed")
    ledger = scripted_agent.ledger()
    assert ledger.max_in_flight["/score"] == 2
    assert len(ledger.posts("/score")) == 12
    assert attempts(system, [name]) == {1}


def test_the_guide(system: System) -> None:
    """What docs/limits.md tells to type does what it says."""
    system.start("bridge", "beat", "worker")
    outputs = {command: type_in(command, system.folder, system.env) for command in commands("docs/limits.md")}
    assert any("breaker" in output for output in outputs.values())
