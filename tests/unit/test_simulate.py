"""A simulation puts the questions of then, and goes on with the answers on record only as far as these go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.domain.budget import Budget
from orchestrator.domain.decision import Decision, FieldRecord, Usage
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import Tried
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import PartialFailure, TaskState
from orchestrator.domain.value import replace
from orchestrator.errors import BadAnswer, PlannerRefused, PlannerUnavailable
from orchestrator.flow.divergence import NoChoice
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.past import Past
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.simulate import Simulation, Verdict, simulate
from orchestrator.flow.trial import Trial
from tests.support.journal import Journal, agent, calls, control, records

NOW = Usage("openai:now", 400, 20, 0.1, 1.0, "2")
APPROVED = EventType("approved", "Approved.", fills={"approval": "/approval/by"})
AGENTS = [agent("a", "a"), agent("b", "b", needs=["a"]), agent("both", "a", "b"), agent("letter")]
Answer = Decision | Exception | Callable[[PlanRequest], Decision]


class Scripted:
    """A planner that says what it is told to, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[PlanRequest] = []

    def decide(self, request: PlanRequest) -> Decision:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        decision = answer if isinstance(answer, Decision) else answer(request)
        return replace(decision, usage=NOW)


def run(past: Past, planner: Scripted, **limits: Any) -> Simulation:
    trial = Trial("openai:now", planner, bad_answers=2, retry=RetryPolicy(2, 0.0, 0.0), pause=lambda _: None)
    return simulate(past, trial.ask, StepLimits(**limits))


def one_after_another() -> Journal:
    """a, then b with it."""
    journal = Journal("a", "b", agents=AGENTS, events=[APPROVED], company="Acme")
    journal.step(calls("a"), replies=[{"a": 1}])
    journal.step(calls(("b", {"a": 1})), replies=[{"b": 2}])
    return journal


def test_the_same_choices_end_as_the_task_did_and_both_costs_are_told() -> None:
    planner = Scripted(calls("a", reason="other words"), calls("b"))
    found = run(one_after_another().past(), planner)
    assert found.verdict is Verdict.SAME
    assert found.difference is None
    assert found.ending is not None and found.ending.state is TaskState.COMPLETED
    assert (found.then.tokens, found.now.tokens) == (2100, 840)
    assert found.then.cost == pytest.approx(1.0)
    assert found.now.cost == pytest.approx(0.2)
    # The argument that the context decides was completed by code, as for a worker.
    assert found.steps[1].now is not None and found.steps[1].now.decision is not None
    assert found.steps[1].now.decision.calls[0].arguments == {"a": 1}
    assert [one.step for one in planner.asked] == [1, 2]
    assert planner.asked[1].history[0].delegations[0].reply == {"a": 1}


def test_the_prompt_is_the_one_of_then_and_complaints_are_not_put_again() -> None:
    journal = one_after_another()
    first = journal.history[0]
    assert first.step.asked is not None
    journal.history[0] = replace(
        first, step=replace(first.step, asked=replace(first.step.asked, complaints=("call a tool",)))
    )
    planner = Scripted(calls("a"), calls("b"))
    found = run(journal.past(), planner)
    assert planner.asked[0].complaints == ()
    assert planner.asked[0].prompt_version == "1"
    assert found.steps[0].note == "then with prompt 1, now with prompt 2"


def test_after_a_difference_it_goes_on_with_the_replies_on_record_and_says_what_is_unknown() -> None:
    journal = Journal("a", "b", agents=AGENTS)
    journal.step(calls("letter"), replies=[{"text": "no use"}])
    journal.step(calls("a"), replies=[{"a": 1}])
    journal.step(calls(("b", {"a": 1})), replies=[{"b": 2}])
    found = run(journal.past(), Scripted(calls("a"), calls("b")))
    assert found.verdict is Verdict.OTHER
    assert found.difference is found.steps[0]
    assert found.ending is not None and found.ending.state is TaskState.COMPLETED
    assert [one.sources for one in found.steps] == [("reply 2.0",), ("reply 3.0",)]
    assert (found.steps_then, len(found.steps)) == (3, 2)
    assert (found.then_compared.decisions, found.now_compared.decisions) == (1, 1)

    found = run(journal.past(), Scripted(calls("both")))
    assert found.ending is None
    assert found.unknown == "step 1: no reply of both to these arguments is on record"
    # Each reply is there once: what a second call would bring nobody knows.
    found = run(journal.past(), Scripted(calls("letter"), calls("letter")))
    assert found.unknown == "step 2: no reply of letter to these arguments is on record"


def test_several_at_once_are_covered_by_replies_to_calls_made_one_after_another() -> None:
    journal = Journal("a", "c", agents=[agent("a", "a"), agent("c", "c")])
    journal.step(calls("a"), replies=[{"a": 1}])
    journal.step(calls("c"), replies=[{"c": 3}])
    found = run(journal.past(), Scripted(calls("c", "a")))
    assert found.difference is not None and found.difference.comparison is not None
    assert found.difference.comparison.differences == ("now asks c, then did not",)
    assert found.steps[0].sources == ("reply 2.0", "reply 1.0")
    assert found.ending is not None and found.ending.state is TaskState.COMPLETED


@pytest.mark.parametrize(
    ("policy", "state"), [(PartialFailure.ALL, TaskState.FAILED), (PartialFailure.COLLECT, TaskState.COMPLETED)]
)
def test_a_failed_call_on_record_means_what_it_means_for_a_step(policy: PartialFailure, state: TaskState) -> None:
    journal = Journal("a", agents=[agent("a", "a"), agent("c", "c")])
    journal.step(calls("a"), replies=[{"a": ""}])
    journal.step(calls("c"), replies=[RuntimeError("it broke")])
    journal.step(calls(("a", {"n": 2})), replies=[{"a": 1}])
    found = run(journal.past(partial_failure=policy), Scripted(calls("c"), *[calls(("a", {"n": 2}))]))
    assert found.ending is not None and found.ending.state is state
    assert found.ending.code == ("agent_failed" if state is TaskState.FAILED else "")


def test_events_and_answers_on_record_end_waits_and_questions() -> None:
    journal = Journal("approval", "limit", agents=AGENTS, events=[APPROVED])
    wait = control("wait_for_event", event_type="approved")
    journal.step(wait)
    journal.event("approved", ends_wait=True, approval={"by": "ann"})
    journal.step(control("ask_human", question="How much?", field="limit"), answer=5000)
    past = journal.past()
    assert run(past, Scripted(wait, control("ask_human", question="How high?", field="limit"))).verdict is Verdict.SAME

    ask = control("ask_human", question="What is the limit?", field="limit", choices=["1", "2"])
    found = run(past, Scripted(control("ask_human", question="What is the limit?", field="limit"), wait))
    assert found.ending is not None and found.ending.state is TaskState.COMPLETED
    assert [one.sources for one in found.steps] == [("answer to question 2",), ("event approved",)]
    found = run(past, Scripted(ask))
    assert found.unknown == "step 1: no answer of a person for limit that fits is on record"
    other = control("wait_for_event", event_type="approved", match={"/approval/by": "bob"})
    found = run(past, Scripted(other))
    assert found.unknown.startswith("step 1: the event approved with /approval/by = 'bob' is not on record")


def test_an_event_that_ended_no_wait_is_put_together_from_what_it_filled() -> None:
    journal = Journal("approval", "a", agents=AGENTS, events=[APPROVED])
    journal.step(calls("letter"), replies=[{"text": "-"}])
    journal.event("approved", approval={"by": "ann"})
    journal.step(calls("a"), replies=[{"a": 1}])
    found = run(journal.past(), Scripted(control("wait_for_event", match={"/approval/by": "ann"}), calls("a")))
    assert found.ending is not None and found.ending.state is TaskState.COMPLETED
    assert found.steps[0].sources == ("event approved",)


def test_what_was_recorded_from_a_reply_is_checked_against_it() -> None:
    journal = Journal("limit", agents=AGENTS)
    journal.step(calls("letter"), replies=[{"text": "A limit of 5000."}])
    journal.step(records(FieldRecord("limit", "1.0", value=5000, quote="A limit of 5000.")))
    invented = records(FieldRecord("limit", "1.0", value=9, quote="A limit of 9."))
    true = records(FieldRecord("limit", "1.0", value=5000, quote="limit of 5000"))
    found = run(journal.past(), Scripted(calls("letter"), invented, true))
    assert found.verdict is Verdict.SAME
    assert found.steps[1].now is not None
    assert "passage quoted does not stand in reply" in found.steps[1].now.complaints[0]
    found = run(journal.past(), Scripted(calls("letter"), invented, invented))
    assert found.verdict is Verdict.OTHER
    assert found.ending is not None and found.ending.code == "bad_decision"
    assert (found.now.decisions, found.now.tokens_in_vain) == (1, 840)


def test_a_task_that_failed_without_a_choice_may_have_one_now() -> None:
    journal = Journal("a", agents=AGENTS)
    in_vain = Tried("openai:then", "bad_decision", "no tool", 700, 0.2)
    journal.step(None, error=("bad_decision", "3 answers could not be used"), tried=(in_vain,))
    found = run(journal.past("failed", "bad_decision"), Scripted(calls("a")))
    assert found.difference is not None and found.difference.comparison is not None
    assert found.difference.comparison.differences == ("then no usable choice (bad_decision), now asks a",)
    assert (found.then.tokens_in_vain, found.then.cost) == (700, 0.2)
    again = run(journal.past("failed", "bad_decision"), Scripted(BadAnswer("no"), BadAnswer("no")))
    assert again.verdict is Verdict.SAME


def test_steps_that_nobody_was_asked_for_are_taken_as_they_are() -> None:
    journal = Journal("a", "b", agents=AGENTS)
    journal.step(calls("a"), replies=[{"a": 1}])
    by_hand = calls(("b", {"a": 9}), usage=Usage("by hand", answers=0))
    journal.step(by_hand, replies=[{"b": 2}], asked=False)
    found = run(journal.past(), Scripted(calls("a")))
    assert found.verdict is Verdict.SAME
    assert found.steps[1].note == "a person decided"


def test_what_is_not_on_record_is_said_and_not_guessed() -> None:
    journal = one_after_another()
    last = journal.history[1]
    journal.history[1] = replace(last, step=replace(last.step, asked=None))
    found = run(journal.past(), Scripted(calls("a")))
    assert found.verdict is Verdict.NOT_ON_RECORD
    assert found.unknown.startswith("what step 2 was asked is not on record")
    assert found.ending is None
    gone = one_after_another().past()
    gone.offers = {}
    assert run(gone, Scripted()).verdict is Verdict.NOT_ON_RECORD


def test_running_in_circles_and_running_out_of_steps_end_a_simulation() -> None:
    journal = Journal("x", agents=AGENTS)
    for _ in range(4):
        journal.step(calls("letter"), replies=[{"text": "-"}])
    journal.step(control("fail", code="gone"))
    found = run(journal.past("failed", "gone"), Scripted(*[calls("letter")] * 9), repeats=3)
    assert found.difference is not None and found.difference.number == 3
    assert isinstance(found.difference.now and found.difference.now.choice, NoChoice)
    assert found.ending is not None and found.ending.code == "no_progress"
    found = run(
        journal.past("failed", "gone"),
        Scripted(calls("letter", ("a", {})), calls(("letter", {"n": 1}))),
        repeats=0,
        budget=Budget(steps=1),
    )
    assert found.unknown or (found.ending is not None and found.ending.code == "budget_steps")


def test_a_provider_that_is_away_is_asked_again_and_one_that_refuses_all_ends_it() -> None:
    past = one_after_another().past()
    busy = PlannerUnavailable("busy", retry_after=0.5)
    assert run(past, Scripted(busy, calls("a"), calls("b"))).verdict is Verdict.SAME
    with pytest.raises(PlannerUnavailable):
        run(past, Scripted(busy, busy))
    with pytest.raises(PlannerUnavailable):
        run(past, Scripted(PlannerUnavailable("much later", retry_after=7200)))
    with pytest.raises(PlannerRefused):
        run(past, Scripted(PlannerRefused("no key")))
    declined = PlannerRefused("declined")
    declined.code = "planner_declined"
    found = run(past, Scripted(declined))
    assert found.ending is not None and found.ending.code == "planner_declined"


def test_a_registry_larger_than_a_prompt_is_narrowed_as_a_worker_does() -> None:
    many = [agent(f"other_{number}", f"x{number}") for number in range(200)]
    journal = Journal("a", agents=[*many, agent("a", "a")])
    journal.step(calls("a"), replies=[{"a": 1}])
    planner = Scripted(calls("a"))
    assert run(journal.past(), planner, prompt_agents=60).verdict is Verdict.SAME
    assert len(planner.asked[0].agents) == 60
    assert "a" in [one.name for one in planner.asked[0].agents]
