"""A recording takes a task through its course again, and fails where the program would take another."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cli.task.export import pytest_file
from orchestrator.domain.decision import FieldRecord, Usage
from orchestrator.domain.event_type import EventType
from orchestrator.domain.task import PartialFailure
from orchestrator.domain.value import replace
from orchestrator.errors import ConfigurationError
from orchestrator.flow.past import Past
from orchestrator.logs import mask
from orchestrator.testing import replay
from orchestrator.testing.recording import differences, not_checked, recording_of
from tests.support.journal import Journal, agent, calls, control, records

RULES = Usage("rules:", prompt_version="rules-1")
APPROVED = EventType("approved", "Approved.", fills={"approval": "/approval/by"}, timeout_seconds=60)


def a_long_course() -> Journal:
    """A model's calls side by side, a record from text, a wait, a person, and rules at the end."""
    agents = [agent("a", "a"), agent("letter"), agent("b", "b", needs=["a"])]
    journal = Journal("a", "limit", "approval", "terms", "b", agents=agents, events=[APPROVED], company="Acme")
    journal.step(calls("a", "letter"), replies=[{"a": 1}, {"text": "A limit of 5000 EUR."}])
    journal.step(records(FieldRecord("limit", "1.1", value=5000, quote="A limit of 5000 EUR.")))
    journal.step(control("wait_for_event", event_type="approved", timeout_seconds=60))
    journal.event("approved", ends_wait=True, approval={"by": "ann"})
    journal.step(control("ask_human", question="Which terms?", field="terms"), answer="30 days")
    journal.event("approved", approval={"by": "zoe"}, more={"z": 1})
    decision = replace(calls(("b", {"a": 1}), usage=RULES), reason="b is missing")
    journal.step(decision, replies=[{"b": 2}])
    return journal


def recorded(past: Past) -> dict[str, Any]:
    """As it comes out of a file."""
    document: dict[str, Any] = json.loads(json.dumps(recording_of(past, PartialFailure.ALL)))
    return document


def test_a_task_runs_green_as_it_went() -> None:
    recording = recorded(a_long_course().past())
    replay(recording)
    assert set(recording["questions"]) == {"1", "2", "3", "4", "5"}
    assert not_checked(recording) == []
    assert "http://agent.test" not in json.dumps(recording)


Spoil = Callable[[dict[str, Any]], Any]


def entry(recording: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in recording["offers"].values() if (one.get("kind"), one.get("name")) == (kind, name)
    )
    return found


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda r: r["history"][0]["delegations"][0]["reply"].update(a=2),
            "agent a (step 1) would now change: a = 2; on record: a = 1",
        ),
        (
            lambda r: entry(r, "agent", "b")["provides"].update(b="/elsewhere"),
            "agent b (step 5) would now change: nothing; on record: b = 2",
        ),
        (
            lambda r: entry(r, "event_type", "approved")["fills"].update(approval="/who"),
            "event approved would now change: nothing; on record: approval = 'ann'",
        ),
        (
            lambda r: r["history"][3]["questions"][0].update(answer="60 days"),
            "person ann (step 4) would now change: terms = '60 days'; on record: terms = '30 days'",
        ),
        (
            lambda r: r["history"][1]["step"]["decision"]["records"][0].update(quote="A limit of 9000 EUR."),
            "step 2: its decision would now be refused: record 'limit': the passage quoted does not stand in reply 1.1",
        ),
        (
            lambda r: entry(r, "agent", "a").update(input_schema={"type": "object", "required": ["who"]}),
            "step 1: its decision would now be refused: arguments of a do not fit its input_schema",
        ),
        (
            lambda r: entry(r, "agent", "b").update(requires={"a": "/company"}),
            "step 5 would be decided otherwise: b: a was 1, now it is Acme",
        ),
        (
            lambda r: entry(r, "event_type", "approved").update(timeout_seconds=5, on_timeout="fail"),
            None,
        ),
        (lambda r: r["task"].update(description="Do something else"), "another question; what differs: section task"),
        (lambda r: r["questions"]["1"].update(instructions="0"), "another question; what differs: instructions"),
        (
            lambda r: entry(r, "agent", "a").update(description="Gives something else."),
            "step 1 would be asked another question; what differs: tools",
        ),
        (
            lambda r: r.update(field_schemas={"limit": {"type": "string"}}),
            "the value does not fit the field",
        ),
        (
            lambda r: r["task"]["required_fields"].append("more"),
            "the task would not be completed: more",
        ),
        (lambda r: r["task"].update(required_fields=["a"]), "step 2 would not be decided: every required field has a"),
        (
            lambda r: r["history"][0]["delegations"][1].update(state="failed", error_code="agent_failed", error="no"),
            "step 1 would now fail: agent_failed: no",
        ),
    ],
)  # fmt: skip
def test_it_fails_where_the_program_would_go_another_way(spoil: Spoil, told: str | None) -> None:
    recording = recorded(a_long_course().past())
    spoiled = copy.deepcopy(recording)
    spoil(spoiled)
    if told is None:  # what the planner itself said of times outlasts the entry
        replay(spoiled, questions=False)
        return
    with pytest.raises(AssertionError) as raised:
        replay(spoiled)
    assert "task 't-1' would go another way:" in str(raised.value)
    assert told in str(raised.value)


def test_questions_may_be_left_out_of_the_comparison() -> None:
    recording = recorded(a_long_course().past())
    recording["questions"]["1"]["instructions"] = "0"
    replay(recording, questions=False)


def test_failures_reruns_and_what_people_did_replay_too() -> None:
    journal = Journal("a", agents=[agent("a", "a"), agent("x", "x")])
    journal.step(calls("x"), replies=[RuntimeError("it broke")], error=("agent_failed", "it broke"))
    failed = recorded(journal.past("failed", "agent_failed"))
    replay(failed)
    failed["task"]["partial_failure"] = "collect"
    assert any("would not fail any more" in one for one in differences(failed))

    # A person skipped the step: what its call came to does not count.
    journal = Journal("a", agents=[agent("a", "a")])
    journal.step(calls("a"), replies=[RuntimeError("it broke")])
    journal.by_hand("a", 7, step=1)
    replay(recorded(journal.past()))

    journal = Journal("a", agents=[agent("a", "a")])
    journal.step(control("fail", code="gone"))
    replay(recorded(journal.past("failed", "gone")))
    assert "the task would fail as gone; on record: other" in differences(recorded(journal.past("failed", "other")))

    journal = Journal("a", agents=[agent("a", "a")])
    journal.step(None, error=("no_route", "no way"))
    recording = recorded(journal.past("failed", "no_route"))
    assert any("would be decided otherwise: then no usable choice (no_route)" in one for one in differences(recording))

    journal = Journal("a", agents=[agent("a", "a")])
    journal.step(calls("a"), replies=[{"a": 1}], superseded=True)
    journal.step(calls(("a", {"by": "hand"}), usage=Usage("by hand", answers=0)), replies=[{"a": 2}], asked=False)
    replay(recorded(journal.past()))


def test_what_is_not_on_record_is_taken_as_it_is() -> None:
    journal = Journal("a", "b", agents=[agent("a", "a"), agent("b", "b")])
    journal.step(calls("a"), replies=[{"a": 1}], asked=False)
    journal.step(calls("b"), replies=[{"b": 1}])
    recording = recorded(journal.past())
    replay(recording)
    assert not_checked(recording) == [1]


def test_secrets_are_masked_in_the_recording_and_in_its_questions_alike() -> None:
    secret = "sk-recording-secret-1"
    mask.add(secret)
    journal = Journal("a", agents=[agent("a", "a")], note=f"use {secret}")
    journal.step(calls("a"), replies=[{"a": f"{secret}!"}])
    recording = recorded(journal.past())
    assert secret not in json.dumps(recording)
    replay(recording)


@pytest.mark.parametrize("task_id", ["t-1", 'a\\"""{0}\\', "größe 7", "…", "import os"])
def test_whatever_a_task_is_called_its_file_is_a_test(task_id: str) -> None:
    journal = Journal("a", agents=[agent("a", "a")], note='"""\\ {recording} \u2028 \U0001f600')
    journal.step(calls("a"), replies=[{"a": "'''"}], asked=False)
    past = journal.past(task_id=task_id)
    written = pytest_file(past, recording_of(past, PartialFailure.ALL), [1])
    names: dict[str, Any] = {}
    exec(compile(written, "test_it.py", "exec"), names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test()
    assert "the decisions of steps 1." in names["__doc__"]
    names["RECORDING"]["task"]["required_fields"] = ["b"]
    with pytest.raises(AssertionError, match="would not be completed: b"):
        test()


def test_a_form_that_cannot_be_read_says_so() -> None:
    recording = recorded(a_long_course().past())
    with pytest.raises(ConfigurationError, match="has the format 99; this version reads 1"):
        differences(recording | {"format": 99})
    with pytest.raises(ConfigurationError, match="cannot be read: "):
        differences(recording | {"history": [{"step": {"number": "one"}}]})
