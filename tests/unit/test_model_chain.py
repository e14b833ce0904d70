"""Which model is asked, which is left in peace, and where rules decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.errors import BadAnswer, BudgetExhausted, NoRoute, PlannerRefused, PlannerUnavailable
from orchestrator.flow.planning import PlanRequest, Unbounded
from orchestrator.llm.breaker import FAILURES, MOST_SECONDS, OPEN_SECONDS, Breakers
from orchestrator.llm.hybrid import HybridPlanner, why_a_model
from orchestrator.llm.model_chain import Candidate, ModelChain


class Scripted:
    """A planner that gives these answers; the last one again and again."""

    def __init__(self, name: str, *answers: Exception | None) -> None:
        self.name = name
        self.answers = list(answers) or [None]
        self.asked = 0

    def decide(self, request: PlanRequest) -> Decision:  # noqa: ARG002 - the port has it
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        return Decision(DecisionKind.FAIL, "decided", Usage(self.name))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Low(Unbounded):
    low = True


def request(**parts: Any) -> PlanRequest:
    return PlanRequest("T-1", 1, "Do it", Context(1, ("a",)), [], [], [], **parts)


def chain(*planners: Scripted, cheap: Scripted | None = None, clock: Clock | None = None) -> ModelChain:
    candidates = [Candidate(one.name, one) for one in planners]
    breakers = Breakers(clock or Clock())
    return ModelChain(candidates, None if cheap is None else Candidate(cheap.name, cheap), breakers)


def refused(code: str) -> PlannerRefused:
    error = PlannerRefused(code)
    error.code = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        PlannerUnavailable("429", retry_after=3),
        PlannerUnavailable("500"),
        refused("planner_quota"),
        refused("planner_context_too_long"),
        refused("planner_declined"),
        refused("planner_refused"),
    ],
    ids=["rate limit", "away", "quota", "too long", "declined", "refused"],
)
def test_the_next_model_is_asked_and_the_journal_says_why(error: Exception) -> None:
    first, second = Scripted("openai:a", error), Scripted("anthropic:b")
    asked = request()
    assert chain(first, second).decide(asked).usage.model == "anthropic:b"
    (tried,) = asked.tried
    assert (tried.model, tried.code) == ("openai:a", getattr(error, "code", ""))


def test_a_bad_answer_stays_with_its_model() -> None:
    second = Scripted("anthropic:b")
    with pytest.raises(BadAnswer):
        chain(Scripted("openai:a", BadAnswer("no tool")), second).decide(request())
    assert second.asked == 0


def test_where_none_is_left_the_first_that_comes_back_says_when_to_ask_again() -> None:
    models = chain(
        Scripted("openai:a", PlannerUnavailable("429", retry_after=60)),
        Scripted("anthropic:b", PlannerUnavailable("429", retry_after=5)),
        Scripted("groq:c", refused("planner_quota")),
    )
    with pytest.raises(PlannerUnavailable) as raised:
        models.decide(request())
    assert raised.value.retry_after == 5


def test_where_all_refuse_the_step_fails() -> None:
    with pytest.raises(PlannerRefused, match="planner_declined"):
        chain(Scripted("openai:a", refused("planner_quota")), Scripted("b:b", refused("planner_declined"))).decide(
            request()
        )


def test_rules_without_a_way_do_not_hide_that_the_models_are_away() -> None:
    with pytest.raises(PlannerUnavailable):
        chain(Scripted("openai:a", PlannerUnavailable("500")), Scripted("rules:", NoRoute("no way"))).decide(request())


def test_a_provider_that_keeps_failing_is_left_in_peace_and_tried_again_later() -> None:
    clock = Clock()
    first, second = Scripted("openai:a", PlannerUnavailable("500")), Scripted("anthropic:b")
    models = chain(first, second, clock=clock)
    for _ in range(FAILURES + 3):
        models.decide(request())
    assert first.asked == FAILURES
    asked = request()
    models.decide(asked)
    assert "left in peace" in asked.tried[0].error
    clock.now += OPEN_SECONDS + 1
    first.answers = [None]
    assert models.decide(request()).usage.model == "openai:a"
    assert models.decide(request()).usage.model == "openai:a"


def test_a_rate_limit_pauses_its_model_and_not_its_provider() -> None:
    clock = Clock()
    first, second = Scripted("openai:a", PlannerUnavailable("429", retry_after=20), None), Scripted("openai:b")
    models = chain(first, second, clock=clock)
    assert [models.decide(request()).usage.model for _ in range(3)] == ["openai:b"] * 3
    assert first.asked == 1
    clock.now += 21
    assert models.decide(request()).usage.model == "openai:a"


def test_where_all_are_in_peace_one_finds_out() -> None:
    clock = Clock()
    only = Scripted("openai:a", PlannerUnavailable("429", retry_after=20), None)
    models = chain(only, clock=clock)
    with pytest.raises(PlannerUnavailable):
        models.decide(request())
    assert models.decide(request()).usage.model == "openai:a"


def test_no_provider_pauses_us_for_ever() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.pause("a", 1e9)
    assert breakers.closed_in("a") == MOST_SECONDS


def test_the_cheaper_model_goes_on_where_the_budget_runs_low() -> None:
    dear, cheap = Scripted("openai:a"), Scripted("openai:cheap")
    models = chain(dear, cheap=cheap)
    assert models.decide(request()).usage.model == "openai:a"
    assert models.decide(request(purse=Low())).usage.model == "openai:cheap"


def test_the_cheaper_model_is_asked_where_the_other_is_too_dear_all_at_once() -> None:
    dear = Scripted("openai:a", BudgetExhausted("too dear", reason="budget_money"))
    assert chain(dear, cheap=Scripted("openai:cheap")).decide(request()).usage.model == "openai:cheap"
    poor = Scripted("openai:cheap", BudgetExhausted("too dear too", reason="budget_money"))
    with pytest.raises(BudgetExhausted):
        chain(dear, cheap=poor).decide(request())


# -- hybrid


def agent(name: str, provides: str, needs: str = "", **schema: Any) -> AgentSpec:
    return AgentSpec(
        name,
        "",
        "http://a.test/",
        input_schema={"type": "object", **schema},
        provides={word: f"/{word}" for word in provides.split()},
        requires={word: f"/{word}" for word in needs.split()},
    )


REGISTER, SCORE = agent("register", "number", "company"), agent("score", "score", "number")
APPROVED = EventType("approved", fills={"approval": "/approval"})


def asked(
    required: str,
    agents: Sequence[AgentSpec] = (REGISTER, SCORE),
    events: Sequence[EventType] = (),
    history: Sequence[HistoryEntry] = (),
    **data: Any,
) -> PlanRequest:
    return PlanRequest("T-1", 2, "Do it", Context(1, tuple(required.split()), data), agents, events, history)


def past(name: str, state: DelegationState) -> HistoryEntry:
    decision = Decision(DecisionKind.CALL, "r", Usage("rules:"), calls=(AgentCall(name, {}),))
    delegation = Delegation("T-1", 1, 0, name, {}, "", "k", state)
    return HistoryEntry(Step("T-1", 1, StepState.FINISHED, decision, 1, 1), (delegation,))


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (asked("score", company="N"), None),
        (asked("score approval", events=[APPROVED], company="N"), None),
        (asked("approval", events=[APPROVED]), None),
        (asked("score", [REGISTER, SCORE, agent("other", "score")], company="N"), "score can come from score, other"),
        (asked("number", events=[EventType("e", fills={"number": "/n"})], company="N"), "register, event e"),
        (asked("score"), "no agent provides company"),
        (asked("text", [agent("draft", "text", required=["wording"])]), "no agent provides wording"),
        (asked(""), "requires no field"),
        (asked("score", history=[past("register", DelegationState.FAILED)], company="N"), "a call of register failed"),
        (asked("score", history=[past("score", DelegationState.SUCCEEDED)], company="N", number="1"), "still missing"),
    ],
    ids=[
        *("one way", "agent and event", "event", "two agents", "agent or event", "no way", "free text", "no field"),
        *("failed", "gave nothing"),
    ],
)
def test_a_model_is_asked_only_where_there_is_a_choice(question: PlanRequest, why: str | None) -> None:
    found = why_a_model(question)
    assert (found is None) if why is None else (found is not None and why in found)
    model = Scripted("openai:a")
    decision = HybridPlanner(model).decide(question)
    assert model.asked == (0 if why is None else 1)
    assert decision.usage.model == ("rules:" if why is None else "openai:a")
    assert (why is None) == (decision.why_asked == "")


def test_the_decision_says_who_decided_and_why() -> None:
    decision = HybridPlanner(Scripted("openai:a")).decide(asked("score", company="N"))
    assert [call.agent for call in decision.calls] == ["register"]
    assert decision.reason.endswith("(rules decided: there is no other way)")
    assert decision.usage.tokens_in == 0
    other = HybridPlanner(Scripted("openai:a")).decide(asked(""))
    assert Decision.from_json(other.to_json(), other.usage).why_asked == other.why_asked != ""
