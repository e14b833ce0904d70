"""Cases are read as people write them; a choice scores what it has in common with one that is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.agents.case_file import load_cases
from orchestrator.domain.decision import Decision, FieldRecord, Usage
from orchestrator.errors import CasesError
from orchestrator.flow.divergence import Choice, NoChoice
from orchestrator.flow.judge import Case, Judged, differing, judge, report_of
from orchestrator.flow.trial import Tryout
from orchestrator.llm.rules import RulesPlanner
from orchestrator.wiring_trials import cases, starter_path
from tests.support.journal import calls, control, records

FILE = """
agents:
  - {name: a, description: Gives a., provides: [a], requires: [x]}
  - {name: b, description: Gives b., provides: [b]}
  - {name: letter, description: Gives text.}
events: [{name: approved, description: Approved., fills: {approval: /by}}]
cases:
  - name: one
    description: Do it
    required_fields: {a: {type: integer}, limit: {}}
    known: {x: 1}
    steps:
      - calls: [{agent: b, reply: {b: 2}}, {agent: letter, arguments: {q: 1}, error: it broke}]
      - {waited_for: approved}
      - calls: [{agent: letter, reply: {text: The limit is 5000 EUR.}}]
    wait_timed_out: true
    expect: EXPECT
"""


def case_with(tmp_path: Path, expect: str) -> Case:
    path = tmp_path / "cases.yaml"
    path.write_text(FILE.replace("EXPECT", expect))
    (case,) = load_cases(path)
    return case


def test_a_case_is_the_question_that_a_step_would_ask(tmp_path: Path) -> None:
    request = case_with(tmp_path, "[{none_fits: true}]").request
    assert (request.step, request.description, request.wait_timed_out) == (4, "Do it", True)
    assert dict(request.context.collected_data) == {"b": 2, "x": 1}
    assert request.context.missing_fields == ("a", "limit")
    assert request.context.field_schemas == {"a": {"type": "integer"}}
    assert [(d.ref, d.state.value) for entry in request.history for d in entry.delegations] == [
        ("1.0", "succeeded"),
        ("1.1", "failed"),
        ("3.0", "succeeded"),
    ]
    assert [agent.name for agent in request.agents] == ["a", "b", "letter"]
    assert [kind.name for kind in request.event_types] == ["approved"]


LIMIT = FieldRecord("limit", "3.0", value=5000, quote="The limit is 5000 EUR.")


@pytest.mark.parametrize(
    ("expect", "choice", "score"),
    [
        ("[{call: a}]", calls("a"), 1),
        ("[{call: a}]", calls("b"), 0),
        ("[{call: a}]", calls("a", "b"), 1 / 2),
        ("[{call: {agent: a, arguments: {x: 1}}}]", calls(("a", {"x": 1, "y": 2})), 1),
        ("[{call: {agent: a, arguments: {x: 1}}}]", calls(("a", {"x": True})), 0),
        ("[{calls: [a, b]}]", calls("b", "a"), 1),
        ("[{calls: [a, b]}]", calls("a"), 1 / 2),
        ("[{calls: [a, b]}]", calls("a", "letter"), 1 / 3),
        ("[{calls: [letter, letter]}]", calls("letter", ("letter", {"q": 2})), 1),
        ("[{call: a}, {call: b}]", calls("b"), 1),
        ("[{call: a}]", control("finish"), 0),
        ("[{control: finish}]", control("finish"), 1),
        ("[{control: wait_for_event, with: {event_type: approved}}]", control("wait_for_event", event_type="x"), 0),
        ("[{control: wait_for_event}]", control("wait_for_event", event_type="x"), 1),
        ("[{control: record, with: {limit: 5000}}]", records(LIMIT), 1),
        ("[{control: record, with: {limit: 9}}]", records(LIMIT), 0),
        ("[{none_fits: true}]", control("ask_human", question="?"), 1),
        ("[{none_fits: true}]", control("fail"), 1),
        ("[{none_fits: true}]", NoChoice("no_route", "no way"), 1),
        ("[{none_fits: true}]", NoChoice("bad_decision", "no tool"), 0),
        ("[{none_fits: true}]", control("finish"), 0),
        ("[{none_fits: true}]", calls("a"), 0),
    ],
)
def test_a_score_is_what_a_choice_has_in_common_with_one_that_is_right(
    tmp_path: Path, expect: str, choice: Choice, score: float
) -> None:
    assert case_with(tmp_path, expect).score(choice) == pytest.approx(score)


def tried(case: Case, choice: Choice, tokens: int = 10, seconds: float = 1.0, bad: int = 0) -> Judged:
    usage = Usage("m", tokens, 1, 0.5, seconds)
    return judge(case, Tryout(choice, usage, ("no",) * bad))


def test_a_report_weighs_counts_and_compares(tmp_path: Path) -> None:
    base = case_with(tmp_path, "[{call: a}]")
    named = [Case(name, base.request, base.expected, weight) for name, weight in (("x", 1), ("y", 3), ("z", 1))]
    first = report_of(named, {"x": tried(named[0], calls("b")), "y": tried(named[1], calls("a"), 30, 4.0, bad=2)})
    assert first.score == pytest.approx(3 / 5), "a case that was not asked counts as wrong"
    assert (first.right, first.cases, first.bad_answers) == (1, 3, 2)
    assert (first.tokens_in, first.tokens_out, first.cost, first.seconds) == (40, 2, 1.0, (2.5, 4.0))
    second = report_of(named, {one.name: tried(one, calls("a", reason="other words")) for one in named})
    assert [pair[0].case.name for pair in differing(first, second)] == ["x"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cases": []}, "there is no case in it"),
        ({"cass": []}, "its top level may have the keys agents, agents_file, cases, events, events_file"),
        ({"agents": [{"name": "a"}]}, "agent 'a': description is missing"),
        ({"agents": [{"name": "a", "description": "A.", "provide": ["a"]}]}, "did you mean 'provides'?"),
        ({"cases": [{"name": "one", "description": "d"}]}, "case 'one': expect is missing"),
        ({"cases": [{"name": "one", "description": "d", "expect": [{}]}]}, "has one of `call`, `calls`, `control`"),
        ({"cases": [{"name": "one", "description": "d", "expect": [{"call": "z"}]}]}, "expects a call of 'z', which"),
        (
            {"cases": [{"name": "one", "description": "d", "agents": ["z"], "expect": [{"none_fits": True}]}]},
            "there is no agent z in the file",
        ),
        ({"cases": [{"name": "one", "description": "d", "expect": [{"control": "dance"}]}]}, "case 'one': expect.0"),
        (
            {"cases": [{"name": "one", "description": "d", "expect": [{"control": "fail"}], "steps": [{}]}]},
            "a step has `calls` or `waited_for`",
        ),
        ({"agents_file": "nowhere.yaml"}, "there is no such file"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    document = yaml.safe_load(FILE.replace("EXPECT", "[{call: a}]")) | change
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(Exception, match=r"(?s).*") as raised:
        load_cases(path)
    assert told in str(raised.value)
    assert isinstance(raised.value, CasesError) or "agents_file" in change


def test_the_starter_set_can_be_passed_and_covers_what_it_promises() -> None:
    starter = cases(None)
    assert len(starter) >= 20
    expected = [one for case in starter for one in case.expected]
    assert any(one.none_fits for one in expected)
    assert any(len(one.calls) > 1 for one in expected)
    for case in starter:
        right = [right_choice(case)]
        assert case.score(right[0]) == 1.0, case.name
    rules = {case.name: case.score(by_rules(case)) for case in starter}
    # What rules can see they get right; what has to be read is for a model.
    assert rules["three at once"] == rules["only an event brings it"] == 1.0
    assert rules["no agent and no event gives the field"] == 1.0
    assert rules["a value that stands in an earlier reply"] == 0.0
    assert starter_path().is_file()


def by_rules(case: Case) -> Choice:
    try:
        return RulesPlanner().decide(case.request)
    except Exception as error:  # noqa: BLE001 - only NoRoute is expected, and any other shows as a wrong score
        return NoChoice(getattr(error, "code", "?"), str(error))


def right_choice(case: Case) -> Decision:
    """A choice that is right, made of the case's own words."""
    wanted = case.expected[0]
    if wanted.none_fits:
        return control("fail")
    if wanted.control is None:
        return calls(*((call.agent, call.arguments) for call in wanted.calls))
    if wanted.control.value != "record":
        return control(wanted.control.value, **wanted.details)
    replies = [one for entry in case.request.history for one in entry.delegations]
    return records(*(FieldRecord(name, replies[0].ref, pointer="/signature/name") for name in wanted.details))
