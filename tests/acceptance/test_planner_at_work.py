"""A worker whose planner is a model behind real HTTP: LangChain against a scripted OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agents import ScriptedAgent, reply
from tests.support.llm import LlmServer, broken, fails, says, slow, tool
from tests.support.processes import wait_for
from tests.support.system import System

SECRET = "sk-test-1234567890"


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "input_schema": {
            "type": "object",
            "properties": {"company": {"type": "string"}},
            "required": ["company"],
            "additionalProperties": False,
        },
        **parts,
    }


@pytest.fixture
def with_model(system: System, llm_server: LlmServer, scripted_agent: ScriptedAgent) -> Iterator[System]:
    """The product with a model and two agents; the worker is started by the test."""
    scripted_agent.script("/score", reply({"score": 71}))
    scripted_agent.script("/contract", reply({"contract": "C-1"}))
    system.use_agents(entry(scripted_agent, "score"), entry(scripted_agent, "contract", idempotent=True))
    system.env |= {
        "ORCHESTRATOR_MODEL": "openai:gpt-test",
        "OPENAI_BASE_URL": llm_server.api_url,
        "OPENAI_API_KEY": SECRET,
        "ORCHESTRATOR_VERBOSE": "1",
    }
    yield system


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return tool(name, reason=f"{name} is missing", task=f"Get the {name}", input=arguments)


def test_the_model_chooses_agents_until_every_field_is_there(
    with_model: System, llm_server: LlmServer, scripted_agent: ScriptedAgent
) -> None:
    system = with_model
    # Rubbish in between: a busy provider, a broken one, malformed arguments, an empty answer, and arguments that break
    # the agent's schema. Each is asked again.
    llm_server.script(
        fails(429, retry_after=0.2),
        fails(500),
        broken("malformed_arguments"),
        says(call("score", company="Northwind")),
        says(text=""),
        says(call("score", company="Northwind")),
        says(call("contract", company=7)),
        says(call("contract", company="Northwind")),
    )
    system.start("bridge", "worker", "beat")
    system.produce_task("model-1", required_fields=["score", "contract"], event_data={"company": "Northwind"})
    system.wait_for_state("model-1", "completed")
    assert system.data("model-1") == {"company": "Northwind", "score": 71, "contract": "C-1"}
    assert len(scripted_agent.ledger().posts("/score")) == 1
    assert len(scripted_agent.ledger().posts("/contract")) == 1

    first, second = system.store.history("model-1")
    assert first.step.decision is not None
    assert second.step.decision is not None
    assert first.step.decision.reason == "score is missing"
    assert first.step.decision.usage.model
    assert second.step.decision.usage.answers >= 2
    call_seen = scripted_agent.ledger().posts("/score")[0]
    assert call_seen.body["task"] == "Get the score"


def test_verbose_shows_prompts_and_reasons_and_never_the_key(with_model: System, llm_server: LlmServer) -> None:
    system = with_model
    llm_server.script(says(call("score", company=f"Northwind {SECRET}")))
    worker = system.start_one("worker")
    system.start("bridge", "beat")
    system.produce_task("model-2", required_fields=["score"], event_data={"company": "Northwind"})
    system.wait_for_state("model-2", "completed")
    wait_for(lambda: "score is missing" in worker.log_text(), what="the reason in the log")
    log = worker.log_text()
    assert "Do model-2" in log
    assert SECRET not in log


def test_a_worker_killed_while_the_model_thinks_leaves_its_reservation_spent(
    with_model: System, llm_server: LlmServer
) -> None:
    system = with_model
    system.env |= {"ORCHESTRATOR_LEASE": "2", "ORCHESTRATOR_MODEL_MAX_TOKENS": "1000"}
    llm_server.script(slow(60), says(call("score", company="Northwind")))
    first = system.start_one("worker")
    system.start("bridge", "beat")
    system.produce_task(
        "model-4", required_fields=["score"], event_data={"company": "Northwind"}, budget={"tokens": 12_000}
    )
    wait_for(lambda: (t := system.task("model-4")) and t.spent.reserved_tokens, what="a reservation under way")
    task = system.task("model-4")
    assert task is not None
    reserved = task.spent.reserved_tokens
    assert 1000 < reserved < 12_000
    first.kill()
    llm_server.reset()
    llm_server.script(says(call("score", company="Northwind")))
    system.start_worker(2)
    task = system.wait_for_state("model-4", "completed")
    assert reserved < task.spent.tokens <= 12_000
    assert task.spent.reserved_tokens == 0
    shown = system.orchestrator("task", "show", "model-4")
    assert "budget: steps 1 of 50" in shown.out
    assert f"tokens {task.spent.tokens:,} of 12,000" in shown.out


def test_a_provider_that_refuses_fails_the_task_with_its_reason(with_model: System, llm_server: LlmServer) -> None:
    system = with_model
    llm_server.script(fails(401, code="invalid_api_key", message="Incorrect API key provided"))
    system.start("bridge", "worker", "beat")
    system.produce_task("model-3", required_fields=["score"], event_data={"company": "Northwind"})
    task = system.wait_for_state("model-3", "failed")
    assert task.reason_code == "planner_refused"
    llm_server.script(says(call("score", company="Northwind")))
    system.orchestrator("task", "retry", "model-3")
    system.wait_for_state("model-3", "completed")
