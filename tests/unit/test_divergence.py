"""Two choices are the same where they lead to the same calls, values, waits and questions; words make no difference."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.decision import AgentCall, Decision, FieldRecord
from orchestrator.domain.value import replace
from orchestrator.flow.divergence import Choice, NoChoice, compare
from tests.support.journal import Journal, agent, calls, control, records

LETTER = {"text": "The limit is 5000 EUR.", "limit": 5000}


def history() -> Any:
    journal = Journal("limit", agents=[agent("letter")])
    journal.step(calls("letter"), replies=[LETTER])
    return journal.history


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (calls("a", "b"), calls("b", "a")),
        (calls(("a", {"x": 1, "y": [True]})), calls(("a", {"y": [True], "x": 1.0}), reason="another reason")),
        (control("finish"), control("finish")),
        (
            records(FieldRecord("limit", "1.0", pointer="/limit")),
            records(FieldRecord("limit", "1.0", value=5000, quote="The limit is 5000 EUR.")),
        ),
        (control("wait_for_event", event_type="x"), control("wait_for_event", event_type="x", match=None)),
        (
            control("ask_human", question="Which?", fields=["b", "a"]),
            control("ask_human", question="Which one?", fields=["a", "b"]),
        ),
        (NoChoice("bad_decision", "no tool"), NoChoice("bad_decision", "other words")),
    ],
    ids=["order", "arguments", "finish", "how it was recorded", "wait", "question", "neither"],
)
def test_the_same_choice(then: Choice, now: Choice) -> None:
    assert compare(then, now, history()).same
    assert compare(now, then, history()).same


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        (calls("a"), calls("b"), ("then asks a, now does not", "now asks b, then did not")),
        (calls("a"), calls("a", ("b", {"x": 1})), ("now asks b with x = 1, then did not",)),
        (calls(("a", {"x": 1})), calls(("a", {"x": 2})), ("a: x was 1, now it is 2",)),
        (calls(("a", {"x": True})), calls(("a", {"x": 1})), ("a: x was true, now it is 1",)),
        (calls(("a", {"x": 1})), calls("a"), ("a: x was 1, now it is left out",)),
        (calls("a"), control("finish"), ("then asks a, now finishes",)),
        (
            records(FieldRecord("limit", "1.0", pointer="/limit")),
            records(FieldRecord("limit", "1.0", pointer="/text")),
            ("limit was 5000, now it is The limit is 5000 EUR.",),
        ),
        (
            control("wait_for_event", event_type="x"),
            control("wait_for_event", event_type="x", match={"/id": 7}),
            ('match is {"/id":7}, then it was left out',),
        ),
        (
            control("ask_human", question="?", field="a"),
            control("ask_human", question="?", field="b"),
            ('fields was ["a"], now it is ["b"]',),
        ),
        (
            NoChoice("no_route", "none"),
            control("fail", code="gone"),
            ("then no usable choice (no_route), now gives up",),
        ),
        (calls("a"), NoChoice("bad_decision", "no"), ("then asks a, now no usable choice (bad_decision)",)),
    ],
)
def test_another_choice_says_what_differs(then: Choice, now: Choice, told: tuple[str, ...]) -> None:
    assert compare(then, now, history()).differences == told


def worded(decision: Decision, task: str) -> Decision:
    return replace(decision, calls=tuple(AgentCall(one.agent, one.arguments, task) for one in decision.calls))


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        (worded(calls("a"), "Do"), worded(calls("a"), "Do it"), ("a is told “Do it”, then “Do”",)),
        (
            control("wait_for_event", event_type="x", timeout_seconds=5),
            control("wait_for_event", event_type="x"),
            ("timeout_seconds was 5, now it is left out",),
        ),
        (control("fail", code="a"), control("fail", code="b"), ("code was a, now it is b",)),
        (NoChoice("no_route", ""), NoChoice("bad_decision", ""), ("then no_route, now bad_decision",)),
    ],
)
def test_what_is_worded_otherwise_is_no_difference(then: Choice, now: Choice, told: tuple[str, ...]) -> None:
    comparison = compare(then, now, history())
    assert comparison.same
    assert comparison.wording == told
