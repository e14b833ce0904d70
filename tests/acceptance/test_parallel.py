"""Several calls in one decision on the whole stack: side by side on one worker, under kills, and a hundred of them."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

import redis

from orchestrator.domain.task import WaitsFor
from tests.support.agents import ScriptedAgent, problem, reply
from tests.support.documents import commands, type_in
from tests.support.llm import LlmServer, says, tool
from tests.support.processes import wait_for
from tests.support.system import System


def entry(agent: ScriptedAgent, number: int, **parts: Any) -> dict[str, Any]:
    """One of many agents behind one address; it gives a field of its own."""
    return {
        "name": f"check_{number}",
        "description": f"Gives part {number}.",
        "url": agent.url("/check"),
        "provides": {f"part_{number}": "/value"},
        "idempotent": True,
        "retry": {"max_attempts": 5, "base_delay": 0.1, "max_delay": 0.5},
        **parts,
    }


def parts(count: int) -> list[str]:
    return [f"part_{number}" for number in range(count)]


def in_flower(system: System, task_id: str) -> list[dict[str, Any]]:
    """The delegations in Flower's list of tasks, found by typing the task's id into its search field."""
    columns = ("name", "uuid", "state", "kwargs", "root_id")
    query = {
        "draw": "1",
        "start": "0",
        "length": "200",
        "search[value]": task_id,
        "order[0][column]": "0",
        "order[0][dir]": "asc",
        **{f"columns[{place}][data]": name for place, name in enumerate(columns)},
    }
    url = f"{system.flower_url}/tasks/datatable?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["data"]
    return [row for row in rows if row["name"] == "orchestrator.delegate"]


def test_ten_calls_of_one_step_are_with_their_agent_at_once_and_each_is_seen_in_flower(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    scripted_agent.script("/check", reply({"value": "ok"}, gate="go"))
    system.use_agents(*(entry(scripted_agent, number) for number in range(10)))
    system.start("flower")
    system.start("bridge", "worker", "beat")
    system.produce_task("ten-1", required_fields=parts(10))
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/check") == 10, what="ten calls at once")
    task = system.task("ten-1")
    assert task is not None
    assert task.waits_for is WaitsFor.AGENT
    scripted_agent.open_gate("go")
    system.wait_for_state("ten-1", "completed")
    assert system.data("ten-1") == dict.fromkeys(parts(10), "ok")
    assert len(system.store.history("ten-1")) == 1
    ended = wait_for(
        lambda: (
            found
            if len(found := in_flower(system, "ten-1")) == 10 and all(one["state"] == "SUCCESS" for one in found)
            else None
        ),
        what="ten delegations in Flower",
    )
    assert ended is not None
    assert {one["root_id"] for one in ended} == {"ten-1"}


def test_a_worker_killed_with_calls_in_flight_doubles_none_and_the_step_is_joined_once(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    scripted_agent.script("/check", reply({"value": "ok"}, gate="go"), idempotent=True)
    system.use_agents(*(entry(scripted_agent, number) for number in range(6)))
    first = system.start_worker(1)
    system.start("bridge", "beat")
    system.produce_task("killed-1", required_fields=parts(6))
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/check") == 6, what="six calls in flight")
    first.kill()
    system.start_worker(2)
    scripted_agent.open_gate("go")
    system.wait_for_state("killed-1", "completed")
    ledger = scripted_agent.ledger()
    assert len({seen.key for seen in ledger.posts("/check")}) == 6
    assert ledger.doubled == []
    (only,) = system.store.history("killed-1")
    assert all(one.attempts == 2 for one in only.delegations)
    states = [row.body["state"] for row in system.store.updates("killed-1")]
    assert states.count("completed") == 1


def test_a_hundred_calls_in_one_step(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/check", *([problem(503)] * 3), reply({"value": "ok"}), idempotent=True)
    system.use_agents(*(entry(scripted_agent, number) for number in range(100)))
    system.start("bridge", "worker", "beat")
    system.produce_task("hundred-1", required_fields=parts(100))
    system.wait_for_state("hundred-1", "completed", timeout=120)
    (only,) = system.store.history("hundred-1")
    assert len(only.delegations) == 100
    ledger = scripted_agent.ledger()
    assert ledger.doubled == []
    assert len(ledger.effects) == 100
    assert 2 <= ledger.max_in_flight["/check"] <= 20


def test_redis_wiped_between_the_decision_and_its_delegations_loses_none(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    system.env["ORCHESTRATOR_STALL"] = "1"
    scripted_agent.script("/check", reply({"value": "ok"}))
    system.use_agents(*(entry(scripted_agent, number) for number in range(4)))
    # A worker that serves steps only: the delegations stay in Redis until they are wiped away.
    steps_only = system.start_one("worker", "--queues", "control,steps,steps-later", as_name="steps")
    system.start("bridge")
    system.produce_task("wiped-1", required_fields=parts(4))
    wait_for(
        lambda: (task := system.task("wiped-1")) is not None and task.waits_for is WaitsFor.AGENT,
        what="the step waits for its delegations",
    )
    steps_only.stop()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as client:
        assert client.flushdb()
    system.start("worker", "beat")
    system.wait_for_state("wiped-1", "completed")
    assert len(scripted_agent.ledger().posts("/check")) == 4


def test_the_commands_of_its_page_and_of_the_page_on_progress(system: System) -> None:
    system.start("bridge", "worker", "beat")
    *_, shown = [type_in(command, system.folder, system.env) for command in commands("docs/parallel.md")]
    _, parallel = system.store.history("parallel-1")
    assert sorted(one.agent for one in parallel.delegations) == ["credit_score", "sanctions_screening"]
    assert "2.1 sanctions_screening" in shown

    *_, shown, document = [type_in(command, system.folder, system.env) for command in commands("docs/progress.md")]
    assert "progress: 2 of 2 fields; spent: 2 steps, 3 calls" in shown
    progress = json.loads(document)["progress"]
    assert (progress["fields_known"], progress["delegations_settled"], progress["doing"]) == (2, 2, None)
    last = system.store.updates("progress-1")[-1].body["progress"]
    assert last["spent"] == progress["spent"]
    assert set(last) | {"doing"} == set(progress)


def test_a_model_that_calls_one_agent_ten_times_in_one_answer_has_it_called_ten_times_at_once(
    system: System, llm_server: LlmServer, scripted_agent: ScriptedAgent
) -> None:
    scripted_agent.script("/check", reply({"value": "ok"}, gate="go"))
    system.use_agents(
        entry(scripted_agent, 0, input_schema={"type": "object", "properties": {"part": {"type": "integer"}}})
    )
    system.env |= {
        "ORCHESTRATOR_MODEL": "openai:gpt-test",
        "OPENAI_BASE_URL": llm_server.api_url,
        "OPENAI_API_KEY": "sk-test-1234567890",
    }
    calls = [tool("check_0", reason="part 0 is missing", task="Check", input={"part": n}) for n in range(10)]
    llm_server.script(says(*calls))
    system.start("bridge", "worker", "beat")
    system.produce_task("model-ten", required_fields=["part_0"])
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/check") == 10, what="ten calls at once")
    scripted_agent.open_gate("go")
    system.wait_for_state("model-ten", "completed")
    posts = scripted_agent.ledger().posts("/check")
    assert sorted(seen.body["input"]["part"] for seen in posts) == list(range(10))
