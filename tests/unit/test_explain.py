"""An explanation says of each step what was known, what could be chosen, what was chosen, why, and what came back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.cli.output import Output, json_text
from orchestrator.cli.task.explain_text import choice_words, explanation_json, usage_words, write_explanation
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.asked import Asked, Offer, agent_of, agent_to_json
from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Step, StepState, Tried
from orchestrator.domain.task import Task, TaskState
from orchestrator.flow.explain import Explanation, explain
from orchestrator.flow.past import Past
from tests.support.journal import Journal, control

START = datetime(2026, 11, 2, 10, tzinfo=UTC)
SCORER = AgentSpec("scorer", "Scores.", "http://secret.test/", provides={"score": "/score"}, requires={"c": "/company"})
APPROVED = EventType("approved", "Approved.", fills={"approval": "/approval"})
OFFER = Offer((SCORER,), (APPROVED,))
PAID = Usage("openai:gpt-test", 1020, 45, 0.00042, 1.25, "1", answers=2)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_past(**more: Any) -> Past:
    """A task that scored a company, then waited for an approval that came, and then failed."""
    task = Task("T 1", "Score Acme", ("score", "approval"), TaskState.FAILED, 3, at(0), at(9), reason="no way")
    given = Change("company", "Acme", Origin("message", "event_data", at(0)))
    key = "T%201:1:0:abc"
    scored = Change("score", 80, Origin("agent", "scorer", at(3), step=1, delegation=key, pointer="/score"))
    approved = Change("approval", "yes", Origin("event", "approved", at(6)))
    delegation = Delegation(
        "T 1", 1, 0, "scorer", {"c": "Acme"}, "Score it", key, DelegationState.SUCCEEDED, attempts=2, sent_at=at(2),
        finished_at=at(3), reply={"score": 80},
    )  # fmt: skip
    call = Decision(
        DecisionKind.CALL, "the score is missing", PAID, calls=(AgentCall("scorer", {"c": "Acme"}, "Score it"),)
    )
    wait = Decision(
        DecisionKind.WAIT_FOR_EVENT,
        "only an event brings it",
        Usage("rules:", prompt_version="rules-1"),
        details={"event_type": "approved", "timeout_seconds": 90},
    )
    asked = Asked(1, 0, (), OFFER.digest, complaints=("there is no tool 'x'",))
    third = Asked(2, 1, (1, 2), OFFER.digest)
    steps = [
        Step("T 1", 1, StepState.FINISHED, call, 1, 1, 2, at(1), at(2), at(3), asked=asked),
        Step("T 1", 2, StepState.FINISHED, wait, 1, 2, 2, at(3), at(3), at(3), asked=Asked(2, 0, (1,), OFFER.digest)),
        Step("T 1", 3, StepState.FAILED, None, 1, 2, 3, at(6), None, at(9), "no_route", "no way", asked=third),
    ]  # fmt: skip
    history = [HistoryEntry(steps[0], (delegation,)), *(HistoryEntry(step, ()) for step in steps[1:])]
    versions = [(1, at(0), [given]), (2, at(3), [scored]), (3, at(9), [approved])]
    return Past(task, history, versions, more.get("offers", {OFFER.digest: OFFER}))


def text_of(capsys: pytest.CaptureFixture[str], explanation: Explanation, **options: Any) -> str:
    write_explanation(Output(), explanation, explanation.steps, options.pop("prompts", {}), in_full=False, **options)
    return capsys.readouterr().out


def test_a_task_is_explained_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(capsys, explain(a_past()))
    first, second, third = text.split("\nStep ")[1:]
    assert "Wanted           score, approval" in text
    assert "2 decisions, 3 answers, 1,020 tokens in, 45 out, 0.0004 USD, in 1.2 s" in text
    for expected in (
        "1: scorer was asked",
        "New              company = Acme  (the task's message)",
        "Missing          score, approval",
        "Could choose     scorer; to wait for an event (approved), to ask a person, to give up",
        "Sent back        there is no tool 'x'",
        "Choice           ask scorer: “Score it”, with c = Acme",
        "Why              the score is missing",
        "Chosen by        openai:gpt-test (prompt 1) in 1.2 s: 1,020 tokens in, 45 out, 0.0004 USD, for 2 answers",
        'Came back        1.0 scorer after 1.0 s, 2 attempts: {"score": 80}',
        "Learned          score = 80",
    ):
        assert expected in first
    assert "2: waited for an event" in second
    assert "New              score = 80  (agent scorer, step 1)" in second
    assert "wait for the event approved, 1 min 30 s at most" in second
    assert "Chosen by        rules: (prompt rules-1), no tokens" in second
    assert "3: no choice could be made" in third
    assert "New              approval = yes  (event approved)" in third
    assert "Missing          nothing" in third
    assert "Went wrong       no way [no_route]" in third


def test_what_was_in_vain_what_people_said_and_which_event_came_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal("terms", agents=[SCORER], events=[APPROVED])
    journal.step(control("wait_for_event", event_type="approved"))
    journal.event("approved", ends_wait=True, approval="yes")
    journal.step(control("ask_human", question="Which terms?", field="terms"), answer="30 days")
    vain = (
        Tried("openai:big", "planner_rate_limited", "openai:big limits our rate"),
        Tried("openai:small", "bad_decision", "it calls no tool", 700, 0.25),
    )
    journal.step(None, error=("bad_decision", "no answer could be used"), tried=vain)
    text = text_of(capsys, explain(journal.past("failed", "bad_decision")))
    assert 'Came back        the event approved: {"approval": "yes"}' in text
    assert "Was asked        a person: “Which terms?”; ann answered: 30 days" in text
    assert "In vain          openai:big limits our rate [planner_rate_limited]\n" in text
    assert "In vain          openai:small: it calls no tool [bad_decision], 700 tokens, 0.2500 USD" in text
    assert "2 decisions, 3 answers, 2,000 tokens in, 100 out, 700 in vain, 1.2500 USD" in text


def test_what_is_not_on_record_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(capsys, explain(a_past(offers={})))
    assert "Could choose     not on record" in text
    assert "company = Acme" in text


def test_an_explanation_for_programs() -> None:
    explanation = explain(a_past())
    document = json.loads(json_text(explanation_json(explanation, explanation.steps, {1: {"system": "…"}})))
    first, _, third = document["steps"]
    assert document["spent"]["cost"] == pytest.approx(0.00042)
    assert document["spent"]["unpriced"] == 0
    assert first["choice"] == "ask scorer: “Score it”, with c = Acme"
    assert first["prompt"] == {"system": "…"}
    assert first["question"]["exact"] is True
    assert [agent["name"] for agent in first["question"]["agents"]] == ["scorer"]
    assert first["question"]["complaints"] == ["there is no tool 'x'"]
    assert [change["field"] for change in first["learned"]] == ["score"]
    assert third["choice"] is None
    assert third["question"]["steps_shown"] == [1, 2]
    assert "secret.test" not in json_text(document), "an agent's address is nothing that a planner knows"


def test_hostile_text_cannot_repaint_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    past = a_past()
    changes = [Change("evil\x1b[2J", "\u202egnp.exe", Origin("message", "event_data", at(0)))]
    hostile = Past(past.task, past.history, [(1, at(0), changes)], {OFFER.digest: OFFER})
    text = text_of(capsys, explain(hostile))
    assert "\x1b" not in text
    assert "\u202e" not in text


def made(kind: DecisionKind, **more: Any) -> Decision:
    return Decision(kind, "because", PAID, **more)


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (
            made(DecisionKind.CALL, calls=(AgentCall("a", {}), AgentCall("b", {"n": 1}, "Do"))),
            "ask a; ask b: “Do”, with n = 1",
        ),
        (
            made(DecisionKind.RECORD, records=(FieldRecord("f", "1.0", pointer="/x/y"),)),
            "take f from reply 1.0, the place /x/y",
        ),
        (
            made(DecisionKind.RECORD, records=(FieldRecord("f", "1.0", value=5, quote="5 EUR"),)),
            "take f from reply 1.0, the words “5 EUR”",
        ),
        (made(DecisionKind.FINISH), "finish: the task is done"),
        (made(DecisionKind.WAIT_FOR_EVENT), "wait for the event (of any type)"),
        (made(DecisionKind.ASK_HUMAN, details={"question": "Which?"}), "ask a person: “Which?”"),
        (made(DecisionKind.FAIL, details={"code": "gone"}), "give the task up (gone)"),
    ],
)
def test_every_kind_of_choice_has_its_words(decision: Decision, words: str) -> None:
    assert choice_words(decision) == words


def test_a_price_that_is_not_known_is_said() -> None:
    assert usage_words(Usage("m", 10, 2, None, 1.0)) == "m in 1.0 s: 10 tokens in, 2 out, price not known"


def test_an_agent_on_offer_is_kept_without_its_address_and_comes_back_the_same() -> None:
    entry = agent_to_json(SCORER)
    assert "secret.test" not in json.dumps(entry)
    assert agent_to_json(agent_of(json.loads(json.dumps(entry)))) == entry
    entries = json.loads(json.dumps(OFFER.entries()))
    assert Offer.from_json(entries[OFFER.digest], entries).digest == OFFER.digest


@pytest.mark.parametrize("steps", [(), (1,), (1, 2, 3), (1, 2, 5, 7, 8)])
def test_a_question_reads_back_as_it_was_written(steps: tuple[int, ...]) -> None:
    asked = Asked(3, 2, steps, "abc", wait_timed_out=True, complaints=("no",))
    assert Asked.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_runs_of_steps_do_not_grow_with_their_number() -> None:
    assert Asked(1, 0, tuple(range(1, 500)), "abc").to_json()["steps"] == [[1, 499]]
