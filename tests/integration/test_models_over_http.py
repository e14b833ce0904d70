"""Several models behind real HTTP: fallbacks, trimming, a cheaper model, and rules where there is no choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.message import TaskMessage
from orchestrator.domain.value import replace
from orchestrator.llm import make_planner
from orchestrator.llm.prompts import NEWEST
from orchestrator.settings import read_settings
from tests.support.agents import reply
from tests.support.llm import LlmServer, fails, says, tool
from tests.support.step_world import World


@pytest.fixture
def settings(llm_server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    prices = tmp_path / "prices.yaml"
    prices.write_text('models: {"openai:big": {prompt: 10, answer: 100}, "openai:small": {prompt: 1, answer: 2}}')
    return {
        "DATABASE_URL": "postgresql://h/d",
        "OPENAI_API_KEY": "sk-test-12345",
        "OPENAI_BASE_URL": llm_server.api_url,
        "ORCHESTRATOR_MODEL": "openai:big",
        "ORCHESTRATOR_MODEL_FALLBACKS": "openai:small",
        "ORCHESTRATOR_MODEL_MAX_TOKENS": "600",
        "ORCHESTRATOR_PRICES": str(prices),
    }


PlanWith = Callable[..., None]


@pytest.fixture
def plan_with(world: World) -> Iterator[PlanWith]:
    with ExitStack() as made:

        def plan(settings: dict[str, str]) -> None:
            planner: Any = make_planner(read_settings(settings, None))
            made.callback(planner.close)
            world.decide = planner.decide  # type: ignore[method-assign]  # the port that the test plays

        yield plan


def ask(name: str) -> dict[str, Any]:
    return tool(name, reason=f"{name} is missing", task=name, input={})


def models_asked(llm: LlmServer) -> list[str]:
    return [one["body"]["model"] for one in llm.requests()]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (fails(429, retry_after=30), "planner_rate_limited"),
        (fails(503), "planner_unavailable"),
        (fails(429, code="insufficient_quota"), "planner_quota"),
        (fails(400, code="context_length_exceeded", message="maximum context length"), "planner_context_too_long"),
        (says(text="", finish_reason="content_filter"), "planner_declined"),
        (fails(401), "planner_refused"),
    ],
    ids=["rate limit", "away", "quota", "too long", "declined", "key"],
)
def test_the_next_model_decides_and_the_step_keeps_what_was_tried(
    world: World,
    llm_server: LlmServer,
    settings: dict[str, str],
    plan_with: PlanWith,
    failure: dict[str, Any],
    code: str,
) -> None:
    plan_with(settings)
    world.add_agent("a", reply({"a": 1}))
    world.submit("a")
    llm_server.script(failure, says(ask("a")))
    assert world.run().outcome == "completed"
    assert models_asked(llm_server) == ["big", "small"]
    (entry,) = world.store.history("t-1")
    assert [(one.model, one.code) for one in entry.step.tried] == [("openai:big", code)]
    assert entry.step.decision is not None
    usage = entry.step.decision.usage
    assert (usage.model, usage.prompt_version) == ("openai:small", NEWEST)
    assert usage.cost is not None and usage.seconds > 0 and usage.tokens_in > 0
    assert world.store.task("t-1").versions["prompt"] == NEWEST


def test_where_all_are_limited_the_step_waits_for_the_first_that_comes_back(
    world: World, llm_server: LlmServer, settings: dict[str, str], plan_with: PlanWith
) -> None:
    plan_with(settings)
    world.add_agent("a", reply({"a": 1}))
    world.submit("a")
    llm_server.script(fails(429, retry_after=60), fails(429, retry_after=0.05), says(ask("a")))
    assert world.run().outcome == "waiting"
    assert world.store.task("t-1").reason_code == "planner_rate_limited"
    assert world.run_until_it_moves_on().outcome == "completed"
    assert models_asked(llm_server) == ["big", "small", "small"]


def test_a_prompt_that_is_too_long_is_trimmed_before_the_next_model_is_asked(
    world: World, llm_server: LlmServer, settings: dict[str, str], plan_with: PlanWith
) -> None:
    plan_with(settings)
    world.add_agent("a", reply({"a": 1}))
    world.take(TaskMessage("t-1", "Do it", ("a",), {f"known_{n}": "x" * 3000 for n in range(20)}))
    too_long = fails(400, code="context_length_exceeded", message="maximum context length")
    llm_server.script(too_long, too_long, says(ask("a")))
    assert world.run().outcome == "completed"
    assert models_asked(llm_server) == ["big", "big", "big"]
    sizes = [len(one["body"]["messages"][1]["content"]) for one in llm_server.requests()]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[2]
    assert all('"missing": ["a"]' in one["body"]["messages"][1]["content"] for one in llm_server.requests())


def test_a_task_keeps_the_prompt_that_it_began_with(
    world: World, llm_server: LlmServer, settings: dict[str, str], plan_with: PlanWith
) -> None:
    plan_with(settings)
    world.add_agent("a", reply({"a": 1}))
    world.submit("a")
    with world.store.engine.begin() as connection:
        connection.exec_driver_sql('UPDATE tasks SET versions = versions || \'{"prompt": "1"}\'')
    llm_server.script(says(ask("a")))
    world.run()
    (entry,) = world.store.history("t-1")
    assert entry.step.decision is not None
    assert entry.step.decision.usage.prompt_version == "1"


def test_the_cheaper_model_goes_on_at_the_threshold(
    world: World, llm_server: LlmServer, settings: dict[str, str], plan_with: PlanWith
) -> None:
    plan_with({**settings, "ORCHESTRATOR_MODEL_FALLBACKS": "", "ORCHESTRATOR_MODEL_CHEAP": "openai:small"})
    world.limits = replace(world.limits, budget_warn=0.05)
    for name in ("a", "b"):
        world.add_agent(name, reply({name: 1}))
    world.take(TaskMessage("t-1", "Do it", ("a", "b"), budget={"tokens": 9000}))
    llm_server.script(says(ask("a")), says(ask("b")))
    assert world.run(1).outcome == "next"
    assert world.run(2).outcome == "completed"
    assert models_asked(llm_server) == ["big", "small"]


def test_hybrid_asks_the_model_only_where_there_is_a_choice(
    world: World, llm_server: LlmServer, settings: dict[str, str], plan_with: PlanWith
) -> None:
    plan_with({**settings, "ORCHESTRATOR_PLANNER": "hybrid"})
    world.add_agent("a", reply({"a": 1}))
    for name in ("b", "b2"):
        world.add_agent(name, reply({"b": name}), provides={"b": "/b"}, requires={"a": "/a"})
    world.submit("a", "b")
    # Two agents give b: that is a choice, though only a can be called as yet.
    llm_server.script(says(ask("a")), says(ask("b2")))
    assert [world.run(step).outcome for step in (1, 2)] == ["next", "completed"]
    first, second = world.store.history("t-1")
    assert first.step.decision is not None and second.step.decision is not None
    assert first.step.decision.why_asked == second.step.decision.why_asked == "b can come from b, b2"
    assert second.step.decision.usage.model == "openai:big"
    del world.specs["b"]
    llm_server.reset()
    world.take(TaskMessage("t-2", "Do it", ("a", "b")))
    assert world.run(1, "t-2").outcome == "next"
    assert world.run(2, "t-2").outcome == "completed"
    assert llm_server.requests() == []
    entries = world.store.history("t-2")
    assert [one.step.decision.usage.model for one in entries if one.step.decision] == ["rules:", "rules:"]
    assert world.store.task("t-2").spent.tokens == 0
