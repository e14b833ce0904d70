"""Budgets with a model behind real HTTP and a real store: reserved before each call, settled after, never exceeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.task import TaskState
from orchestrator.domain.value import replace
from orchestrator.flow.ports import Planner, PlanRequest
from orchestrator.flow.step import StepResult
from orchestrator.llm import make_planner
from orchestrator.settings import read_settings
from tests.support.agents import reply
from tests.support.llm import LlmServer, fails, says, tool
from tests.support.stack import wait_for
from tests.support.step_world import World

PRICES = 'models: {"openai:gpt-test": {prompt: 10, answer: 100}}'


class Thinking:
    """A world whose planner is a model over HTTP."""

    def __init__(self, world: World, planner: Planner, llm: LlmServer) -> None:
        self.world, self.llm = world, llm

        def decide(request: PlanRequest) -> Any:
            self.world.asked.append(request)
            return planner.decide(request)

        world.decide = decide  # type: ignore[method-assign]  # the port that the test plays

    def task(self, *required: str, task_id: str = "t-1", **budget: Any) -> None:
        self.world.take(TaskMessage(task_id, "Do it", required, {}, budget=budget))

    def most_of_one_question(self, *required: str) -> Spent:
        """What is reserved for the first question of such a task: one whose reply was lost has cost just that."""
        self.task(*required, task_id="t-0")
        self.llm.raw({"body": "{"})
        assert self.world.run(1, "t-0").outcome == "waiting"
        return self.world.store.task("t-0").spent


MakeThinking = Callable[..., Thinking]


@pytest.fixture
def thinking(
    world: World, llm_server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeThinking]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with ExitStack() as made:

        def make(**settings: str) -> Thinking:
            base = {
                "DATABASE_URL": "postgresql://h/d",
                "OPENAI_API_KEY": "sk-test-12345",
                "OPENAI_BASE_URL": llm_server.api_url,
                "ORCHESTRATOR_MODEL": "openai:gpt-test",
                "ORCHESTRATOR_MODEL_MAX_TOKENS": "600",
                "ORCHESTRATOR_PRICES": str(prices),
            }
            planner: Any = make_planner(read_settings(base | settings, None))
            made.callback(planner.close)
            return Thinking(world, planner, llm_server)

        yield make


def ask(name: str) -> dict[str, Any]:
    return tool(name, reason=f"{name} is missing", task=name, input={})


def test_tokens_run_out_in_the_middle_and_a_raised_budget_goes_on(thinking: MakeThinking) -> None:
    one = thinking()
    world, llm = one.world, one.llm
    for name in ("a", "b"):
        world.add_agent(name, reply({name: 1}))
    enough_for_one = one.most_of_one_question("a", "b").tokens
    one.task("a", "b", tokens=enough_for_one)
    llm.script(says(ask("a")), says(ask("b")))
    assert world.run(1).outcome == "next"
    spent = world.store.task("t-1").spent
    assert 0 < spent.tokens < enough_for_one
    assert spent.reserved_tokens == 0
    assert (world.run(2).outcome, len(llm.requests())) == ("failed", 1)
    task = world.store.task("t-1")
    assert task.reason_code == "budget_tokens"
    assert "--raise-budget tokens=N" in (task.reason or "")
    assert task.spent.tokens == spent.tokens, "what could not be asked cost nothing"
    world.store.retry("t-1", who="ann", why="worth it", raise_budget={"tokens": 50_000})
    assert world.run(2).outcome == "completed"
    assert world.store.task("t-1").spent.tokens <= enough_for_one + 50_000


def test_the_answer_gets_what_room_is_left(thinking: MakeThinking) -> None:
    one = thinking(ORCHESTRATOR_MODEL_MAX_TOKENS="100000")
    one.world.add_agent("a", reply({"a": 1}))
    one.task("a", tokens=6000)
    one.llm.script(says(ask("a")))
    assert one.world.run(1).outcome == "completed"
    (seen,) = one.llm.requests()
    assert 512 <= seen["body"]["max_completion_tokens"] < 6000


def test_money_is_bounded_by_the_price_table(thinking: MakeThinking) -> None:
    one = thinking()
    world = one.world
    for name in ("a", "b"):
        world.add_agent(name, reply({name: 1}))
    enough_for_one = one.most_of_one_question("a", "b").money
    one.task("a", "b", money=float(enough_for_one))
    one.llm.script(says(ask("a")), says(ask("b")))
    assert world.run(1).outcome == "next"
    (entry,) = world.store.history("t-1")
    assert entry.step.decision is not None
    usage = entry.step.decision.usage
    assert usage.cost == pytest.approx((usage.tokens_in * 10 + usage.tokens_out * 100) / 1e6)
    assert world.store.task("t-1").spent.money == Decimal(str(usage.cost))
    assert world.run(2).detail.startswith("budget_money: ")
    assert world.store.task("t-1").spent.money <= enough_for_one


def test_a_model_without_a_price_is_not_asked_where_money_is_bounded(thinking: MakeThinking) -> None:
    one = thinking(ORCHESTRATOR_MODEL="openai:gpt-unpriced")
    one.world.add_agent("a", reply({"a": 1}))
    one.task("a", money=5)
    assert "the price of openai:gpt-unpriced is not known" in one.world.run(1).detail
    assert one.llm.requests() == []


def test_bad_answers_are_paid_for_and_bounded_too(thinking: MakeThinking) -> None:
    one = thinking()
    one.world.add_agent("a", reply({"a": 1}))
    one.task("a", tokens=4600)
    one.llm.script(*(says(text="hm") for _ in range(3)))
    assert one.world.run(1).detail.startswith(("budget_tokens: ", "bad_decision: "))
    task = one.world.store.task("t-1")
    (entry,) = one.world.store.history("t-1")
    assert task.spent.tokens == sum(tried.tokens for tried in entry.step.tried) > 0
    assert task.spent.tokens <= 4600


@pytest.mark.parametrize(
    ("failure", "costs"),
    [(fails(429, retry_after=0.01), False), (fails(500), False), ({"body": "{"}, True), ({"body": "{}"}, True)],
    ids=["429", "500", "half an answer", "no answer"],
)
def test_a_refused_call_costs_nothing_and_one_of_unknown_outcome_what_was_reserved(
    thinking: MakeThinking, failure: dict[str, Any], costs: bool
) -> None:
    one = thinking()
    one.world.add_agent("a", reply({"a": 1}))
    one.task("a")
    (one.llm.raw if "body" in failure else one.llm.script)(failure)
    assert one.world.run(1).outcome == "waiting"
    spent = one.world.store.task("t-1").spent
    assert (spent.tokens > 1000) is costs
    assert spent.reserved_tokens == 0


def test_a_threshold_is_told_in_updates(thinking: MakeThinking) -> None:
    one = thinking()
    world = one.world
    world.limits = replace(world.limits, budget_warn=0.1)
    world.add_agent("a", reply({"a": 1}))
    one.task("a", "b", tokens=6000)
    one.llm.script(says(ask("a")))
    world.run(1)
    (warning,) = world.store.updates("t-1")[-1].body["budget_warnings"]
    assert warning["what"] == "tokens"
    assert warning["limit"] == 6000


def test_calls_of_agents_are_bounded_also_side_by_side(thinking: MakeThinking) -> None:
    one = thinking()
    world = one.world
    for name in ("a", "b", "c"):
        world.add_agent(name, reply({name: 1}))
    one.task("a", "b", "c", delegations=2)
    one.llm.script(says(ask("a"), ask("b"), ask("c")), says(ask("a"), ask("b")), says(ask("c")))
    assert world.run(1).outcome == "next"
    assert "at most 2" in one.llm.requests()[1]["body"]["messages"][1]["content"]
    assert world.run(2).detail.startswith("budget_delegations: ")
    posts = [path for path in ("/a", "/b", "/c") if world.agent.ledger().posts(path)]
    assert posts == ["/a", "/b"]


def test_time_is_bounded_also_while_the_task_waits(thinking: MakeThinking) -> None:
    one = thinking()
    one.task("a", seconds=3)
    one.llm.script(says(tool("wait_for_event", event_type="never", reason="it must come")))
    first = one.world.run(1)
    assert first.outcome == "waiting"
    last = wait_for(lambda: (r := one.world.run(2)).outcome != "skipped" and r, what="the task's time is over")
    assert isinstance(last, StepResult) and last.detail.startswith("budget_time: ")


def test_a_decision_repeated_without_effect_is_no_progress(thinking: MakeThinking) -> None:
    one = thinking()
    world = one.world
    world.add_agent("a", reply({"other": 1}), provides={}, side_effects=False)
    one.task("a")
    one.llm.script(*(says(ask("a")) for _ in range(3)))
    assert [world.run(step).outcome for step in (1, 2, 3)] == ["next", "next", "failed"]
    task = world.store.task("t-1")
    assert (task.state, task.reason_code) == (TaskState.FAILED, "no_progress")
    assert len(world.agent.ledger().posts("/a")) == 2


def test_steps_without_a_new_field_are_no_progress(thinking: MakeThinking) -> None:
    one = thinking()
    world = one.world
    world.limits = replace(world.limits, idle_steps=2, repeats=0)
    world.add_agent("a", reply({"other": 1}), provides={}, side_effects=False)
    one.task("a")
    one.llm.script(*(says(ask("a")) for _ in range(4)))
    assert [world.run(step).outcome for step in (1, 2, 3)] == ["next", "next", "failed"]
    assert world.store.task("t-1").reason_code == "no_progress"
    assert len(one.llm.requests()) == 2
    world.store.retry("t-1", who="ann", why="two more")
    assert world.run(3).outcome == "next"


def test_the_installations_bounds_hold_where_the_message_names_none(thinking: MakeThinking) -> None:
    one = thinking()
    one.world.limits = replace(one.world.limits, budget=Budget(tokens=1000))
    one.world.add_agent("a", reply({"a": 1}))
    one.task("a", tokens=10_000_000)
    assert one.world.run(1).detail.startswith("budget_tokens: ")
    assert one.llm.requests() == []
