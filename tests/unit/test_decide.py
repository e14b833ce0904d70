"""The planner's word is checked in code: arguments, names, claims and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.value import replace
from orchestrator.errors import BadAnswer
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.decide import check, decide
from orchestrator.flow.ports import PlanRequest

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SCORE = AgentSpec(
    "score",
    "Scores.",
    "http://score.test/",
    input_schema={
        "type": "object",
        "properties": {"name": {"type": "string"}, "depth": {"type": "integer"}},
        "required": ["name"],
        "additionalProperties": False,
    },
    requires={"name": "/legal_name"},
    provides={"score": "/score"},
)
USAGE = Usage("test")


def request(data: Mapping[str, Any] | None = None, history: Sequence[HistoryEntry] = ()) -> PlanRequest:
    return PlanRequest("t", 2, "Score them", Context(1, ("score",), data or {}), [SCORE], [], history)


def call(agent: str = "score", **arguments: Any) -> Decision:
    return Decision(DecisionKind.CALL, "because", USAGE, calls=(AgentCall(agent, arguments),))


def replied(reply: Any, state: DelegationState = DelegationState.SUCCEEDED, superseded: bool = False) -> HistoryEntry:
    step = Step("t", 1, StepState.FINISHED, None, 1, 1, superseded=superseded)
    return HistoryEntry(step, (Delegation("t", 1, 0, "score", {}, "", "key", state, reply=reply),))


def test_arguments_that_the_model_left_out_come_from_the_context() -> None:
    checked = check(call(depth=2), request({"legal_name": "Acme"}))
    assert checked.calls[0].arguments == {"name": "Acme", "depth": 2}


@pytest.mark.parametrize(
    ("decision", "data", "complaint"),
    [
        (call("transfer_money"), {"legal_name": "A"}, "there is no agent 'transfer_money'"),
        (call(), {}, "needs 'legal_name'"),
        (call(depth="deep"), {"legal_name": "A"}, "'deep' is not of type 'integer'"),
        (call(extra=1), {"legal_name": "A"}, "Additional properties"),
        (Decision(DecisionKind.CALL, "", USAGE), {}, "calls no agent"),
        (Decision(DecisionKind.FINISH, "done", USAGE), {}, "still missing: score"),
        (Decision(DecisionKind.ASK_HUMAN, "", USAGE, details={"question": " "}), {}, "needs a question"),
        (Decision(DecisionKind.WAIT_FOR_EVENT, "", USAGE, details={"timeout_seconds": -1}), {}, "timeout_seconds"),
        (Decision(DecisionKind.RECORD, "", USAGE), {}, "names no field"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(decision: Decision, data: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadAnswer, match=complaint):
        check(decision, request(data))


def test_finish_is_allowed_once_nothing_is_missing() -> None:
    decision = Decision(DecisionKind.FINISH, "done", USAGE)
    assert check(decision, request({"score": 7})) is decision


@pytest.mark.parametrize(
    ("record", "reply", "value"),
    [
        (FieldRecord("score", "1.0", pointer="/deep/0/value"), {"deep": [{"value": 7}]}, 7),
        (FieldRecord("score", "1.0", value=712, quote="a score of 712"), {"text": "We found a  score\nof 712."}, 712),
        (FieldRecord("ref", "1.0", value="AB-1", quote="reference AB-1"), {"text": "reference AB-1 given"}, "AB-1"),
    ],
)
def test_a_field_is_recorded_from_the_reply_that_bears_it_out(record: FieldRecord, reply: Any, value: Any) -> None:
    (change,) = recorded_changes([record], [replied(reply)], NOW)
    assert (change.field, change.value) == (record.field, value)
    assert (change.origin.kind, change.origin.name, change.origin.delegation) == ("agent", "score", "key")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (FieldRecord("score", "9.9", pointer="/score"), "no reply has the reference '9.9'"),
        (FieldRecord("score", "1.0", pointer="/nothing"), "nothing at"),
        (FieldRecord("score", "1.0", pointer="/empty"), "is empty"),
        (FieldRecord("score", "1.0", value=999), "needs a pointer, or a plain value with the passage"),
        (FieldRecord("score", "1.0", value=999, quote="the score is 999"), "does not stand in reply"),
        (FieldRecord("score", "1.0", value=999, quote="score: 4123"), "does not stand in the passage"),
        (FieldRecord("score", "1.0", value=12, quote="score: 4123"), "does not stand in the passage"),
        (FieldRecord("score", "1.0", value={"a": 1}, quote="score: 4123"), "needs a pointer"),
        (FieldRecord("score", "1.0", value="score", quote="score_key"), "does not stand in reply"),
    ],
)
def test_a_models_claim_alone_never_fills_a_field(record: FieldRecord, complaint: str) -> None:
    history = [replied({"text": "score: 4123", "empty": "", "score_key": 1})]
    with pytest.raises(BadAnswer, match=complaint):
        recorded_changes([record], history, NOW)


@pytest.mark.parametrize("entry", [replied({"s": 1}, DelegationState.FAILED), replied({"s": 1}, superseded=True)])
def test_only_replies_of_the_tasks_present_course_count(entry: HistoryEntry) -> None:
    with pytest.raises(BadAnswer, match="no reply has the reference"):
        recorded_changes([FieldRecord("score", "1.0", pointer="/s")], [entry], NOW)


class Answers:
    """A planner that gives the answers of a list, one after another."""

    def __init__(self, *answers: Decision | BadAnswer) -> None:
        self.answers = list(answers)
        self.complaints: list[tuple[str, ...]] = []

    def decide(self, request: PlanRequest) -> Decision:
        self.complaints.append(tuple(request.complaints))
        answer = self.answers.pop(0)
        if isinstance(answer, BadAnswer):
            raise answer
        return answer


def test_a_bad_answer_goes_back_with_the_complaint() -> None:
    planner = Answers(BadAnswer("empty answer"), call("nobody"), call())
    decision = decide(planner, request({"legal_name": "A"}), bad_answers=3)
    assert decision.usage == replace(USAGE, answers=3)
    assert planner.complaints[1] == ("empty answer",)
    assert "no agent 'nobody'" in planner.complaints[2][1]


def test_bad_answers_are_bounded() -> None:
    planner = Answers(call("a"), call("b"), call())
    with pytest.raises(BadAnswer, match=r"2 answers of the planner could not be used; the last: .*'b'"):
        decide(planner, request({"legal_name": "A"}), bad_answers=2)


def test_bad_answers_are_paid_for_too() -> None:
    error = BadAnswer("empty answer")
    error.usage = Usage("test", tokens_in=100, tokens_out=5, seconds=1.0)
    good = replace(call(), usage=Usage("test", tokens_in=120, tokens_out=7, seconds=2.0))
    decision = decide(Answers(error, good), request({"legal_name": "A"}), bad_answers=3)
    assert decision.usage == Usage("test", tokens_in=220, tokens_out=12, seconds=3.0, answers=2)


@pytest.mark.parametrize(
    ("value", "quote", "holds"),
    [
        (12, "we found 12.", True),
        (12, "a share of 12%", True),
        (12, "12.5", False),
        (12, "1,12", False),
        (1, "1,000 EUR", False),
        (700, "-700", False),
        (-700, "-700", True),
        (10, "5-10", True),
        ("712", "INV-712", True),
        ("Cafe", "Cafe\u0301", False),
        (12, "12\u200b34", False),
        ("AG", "(AG)", True),
        ("AG", "AGs", False),
    ],
)
def test_a_quoted_value_stands_as_a_whole(value: Any, quote: str, holds: bool) -> None:
    record = FieldRecord("score", "1.0", value=value, quote=quote)
    if holds:
        assert recorded_changes([record], [replied({"text": quote})], NOW)[0].value == value
    else:
        with pytest.raises(BadAnswer, match="does not stand in the passage"):
            recorded_changes([record], [replied({"text": quote})], NOW)


@pytest.mark.parametrize(
    ("code", "kept"),
    [("supplier_unknown", "supplier_unknown"), ("supplier unknown!", "supplier_unknown"), ("poison", None),
     ("budget_tokens", None), ("", None), ("x" * 200, "x" * 64), ("no_route", "no_route")],
)  # fmt: skip
def test_a_planner_that_gives_up_speaks_for_itself_only(code: str, kept: str | None) -> None:
    decision = check(Decision(DecisionKind.FAIL, "no way", USAGE, details={"code": code}), request())
    assert decision.details.get("code") == kept


def unfit(**details: Any) -> Decision:
    return Decision(DecisionKind.ASK_HUMAN, "r", USAGE, details={"question": "Which?", **details})


@pytest.mark.parametrize(
    ("decision", "complaint"),
    [
        (call(number="a\x00b"), "holds NUL characters or half surrogate pairs"),
        (call(number={"deep\ud800": 1}), "holds NUL characters or half surrogate pairs"),
        (call(number=float("nan")), "holds a number beyond all bounds"),
        (call(number=[float("inf")]), "holds a number beyond all bounds"),
        (unfit(choices=["a", "b\x00"]), "holds NUL characters or half surrogate pairs"),
        (
            Decision(DecisionKind.RECORD, "r", USAGE, records=(FieldRecord("a", "1.0", pointer="/\x00"),)),
            "holds NUL characters or half surrogate pairs",
        ),
    ],
)
def test_what_postgresql_cannot_keep_is_sent_back(decision: Decision, complaint: str) -> None:
    with pytest.raises(BadAnswer, match=complaint):
        check(decision, request({"number": "HRB 1"}))


def test_arguments_nested_without_end_are_sent_back() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(BadAnswer, match="is nested too deeply"):
        check(call(number=deep), request({"number": "HRB 1"}))


def test_words_that_cannot_be_kept_are_kept_as_far_as_they_can() -> None:
    worded = Decision(
        DecisionKind.CALL, "be\x00cause\ud800 it is \U0001f600", USAGE, calls=(AgentCall("score", {}, "Do\x00 it"),)
    )
    checked = check(worded, request({"number": "HRB 1", "legal_name": "Acme"}))
    assert checked.reason == "be\ufffdcause\ufffd it is \U0001f600"
    assert checked.calls[0].task == "Do\ufffd it"
