"""From an answer to a proposed decision: what is none is told so, in words that help the model."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.errors import BadAnswer, PlannerRefused
from orchestrator.llm.answer import Answer, ToolCall, read_answer
from orchestrator.llm.tools import Toolbox

BOX = Toolbox.of([AgentSpec("score", "", "http://a.test/"), AgentSpec("crm.look up", "", "http://a.test/")])
CRM = next(tool for tool, agent in BOX.agents.items() if agent.name == "crm.look up")
USAGE = Usage("test:m", 10, 5)


def read(*calls: ToolCall, text: str = "", finish_reason: str = "tool_calls", refusal: str = "") -> Decision:
    return read_answer(Answer(calls, text, finish_reason, refusal, USAGE), BOX)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def test_agent_calls_become_delegations_under_the_agents_own_names() -> None:
    decision = read(
        call("score", input={"n": 1}, task="Score it", reason="score is missing."),
        call(CRM, input={"q": "x"}, task="Look", reason="name is missing."),
    )
    assert decision.kind is DecisionKind.CALL
    assert decision.calls == (AgentCall("score", {"n": 1}, "Score it"), AgentCall("crm.look up", {"q": "x"}, "Look"))
    assert decision.reason == "score is missing. name is missing."
    assert decision.usage == USAGE


def test_arguments_beside_task_and_reason_are_taken_where_input_was_left_out() -> None:
    assert read(call("score", n=1, task="t", reason="r")).calls[0].arguments == {"n": 1}
    assert read(call("score", input="text", reason="r")).calls[0].arguments == {"input": "text"}
    assert read(call("score", reason="r")).calls[0].arguments == {}


def test_the_same_call_twice_is_one_delegation() -> None:
    decision = read(call("score", input={"n": 1}), call("score", input={"n": 1}, task="again"), call("score", input={}))
    assert [one.arguments for one in decision.calls] == [{"n": 1}, {}]


def test_without_a_reason_the_text_counts_and_without_text_the_lack_is_told() -> None:
    assert read(call("score", input={}), text="I need the score.").reason == "I need the score."
    assert read(call("score", input={})).reason == "The model gave no reason."


@pytest.mark.parametrize(
    ("tool", "arguments", "details"),
    [
        ("finish", {}, {}),
        (
            "wait_for_event",
            {"event_type": "approved", "timeout_seconds": 60},
            {"event_type": "approved", "timeout_seconds": 60},
        ),
        ("wait_for_event", {"event_type": None}, {}),
        ("ask_human", {"question": "Who?"}, {"question": "Who?"}),
        ("fail", {"code": "unknown_supplier"}, {"code": "unknown_supplier"}),
    ],
)
def test_control_tools_become_decisions(tool: str, arguments: dict[str, Any], details: dict[str, Any]) -> None:
    decision = read(call(tool, reason="because", **arguments))
    assert (decision.kind.value, decision.reason, decision.details) == (tool, "because", details)


def test_several_records_are_one_decision() -> None:
    decision = read(
        call("record", fields=[{"field": "a", "delegation": "1.0", "pointer": "/a", "quote": None}], reason="r"),
        call("record", fields=[{"field": "b", "delegation": "1.0", "value": 7, "quote": "it is 7"}], reason="s"),
    )
    assert decision.kind is DecisionKind.RECORD
    assert decision.records == (
        FieldRecord("a", "1.0", pointer="/a"),
        FieldRecord("b", "1.0", value=7, quote="it is 7"),
    )
    assert decision.reason == "r s"


@pytest.mark.parametrize(
    ("calls", "complaint"),
    [
        ([], "calls no tool"),
        ([call("transfer", input={})], "there is no tool 'transfer'; there are: score"),
        ([ToolCall("score", {}, "cut")], "arguments of score are not valid JSON: cut"),
        ([call("finish", reason="r"), call("score", input={})], "finish stands beside a call of score"),
        ([call("finish", reason="r"), call("fail", reason="r")], "several control tools at once"),
        ([call("ask_human", question="a", reason="r")] * 2, "several control tools at once"),
        ([call("ask_human", reason="r")], "'question' is a required property"),
        ([call("record", fields=[], reason="r")], "record do not fit"),
        ([call("record", fields=[{"field": "a", "delegation": "1.0"}], reason="r")], "needs a pointer, or value"),
        ([call("record", fields=[{"field": "a", "delegation": "1.0", "value": 1}], reason="r")], "needs a pointer"),
        ([call("wait_for_event", timeout_seconds="soon", reason="r")], "wait_for_event do not fit"),
    ],
)
def test_what_is_no_decision_is_a_bad_answer_that_tells_why_and_what_it_cost(
    calls: list[ToolCall], complaint: str
) -> None:
    with pytest.raises(BadAnswer, match=complaint) as raised:
        read(*calls)
    assert raised.value.usage == USAGE


def test_plain_text_is_quoted_back() -> None:
    with pytest.raises(BadAnswer, match="it said: Shall I go on"):
        read(text="Shall I go on?", finish_reason="stop")


@pytest.mark.parametrize("finish_reason", ["length", "max_tokens", "max_output_tokens"])
def test_a_truncated_answer_is_not_acted_on_even_where_its_call_can_be_read(finish_reason: str) -> None:
    with pytest.raises(BadAnswer, match="cut off after 5 tokens"):
        read(call("score", input={}), finish_reason=finish_reason)


@pytest.mark.parametrize(("finish_reason", "refusal"), [("content_filter", ""), ("safety", ""), ("stop", "I won't.")])
def test_a_filtered_answer_or_a_refusal_is_final(finish_reason: str, refusal: str) -> None:
    with pytest.raises(PlannerRefused, match="test:m declined to answer") as raised:
        read(finish_reason=finish_reason, refusal=refusal)
    assert "then retry the task" in str(raised.value.hint)
