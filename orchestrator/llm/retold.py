"""A decision on record, told once more as a model would tell it: through the tools of its question. Pure.

For tests that replay a task: what reads a model's answer is read by them too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.ids import digest
from orchestrator.flow.decide import CORRECTED
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.answer import Answer, ToolCall, read_answer
from orchestrator.llm.question import question_of
from orchestrator.llm.rules import RulesPlanner
from orchestrator.llm.tools import Toolbox

_SECTION = re.compile(r'<data name="([^"]*)">(.*?)</data>', re.DOTALL)
_DIGEST_CHARS = 16


def retold(decision: Decision, request: PlanRequest) -> Decision:
    """The decision as it comes out of the tools of the question that it answers.

    Raises:
        BadAnswer: the question has no such tool any more, or its arguments do not fit.
    """
    toolbox = Toolbox.of(request.agents)
    return read_answer(Answer(_calls(decision, toolbox), "", "", "", decision.usage), toolbox)


def decided_by_rules(request: PlanRequest) -> Decision:
    """What the rules decide. Raises `NoRoute`."""
    return RulesPlanner().decide(request)


def question_digests(request: PlanRequest) -> dict[str, str]:
    """A digest for each part of a question as a model reads it: ``instructions``, ``tools``, each section, the rest."""
    question = question_of(request)
    parts: dict[str, Any] = {"instructions": question["system"], "tools": question["tools"]}
    parts |= {f"section {name}": text for name, text in _SECTION.findall(question["user"])}
    parts["text between the sections"] = _SECTION.sub("", question["user"])
    return {name: digest(part)[:_DIGEST_CHARS] for name, part in parts.items()}


def _calls(decision: Decision, toolbox: Toolbox) -> list[ToolCall]:
    match decision.kind:
        case DecisionKind.CALL:
            tools = {agent.name: tool for tool, agent in toolbox.agents.items()}
            return [
                ToolCall(
                    tools.get(call.agent, call.agent),
                    {"reason": decision.reason, "task": call.task, "input": dict(call.arguments)},
                )
                for call in decision.calls
            ]
        case DecisionKind.RECORD:
            fields = [
                _given(
                    field=one.field, delegation=one.delegation, pointer=one.pointer, value=one.value, quote=one.quote
                )
                for one in decision.records
            ]
            return [ToolCall("record", {"fields": fields, "reason": decision.reason})]
        case _:
            details = {name: value for name, value in decision.details.items() if name != CORRECTED}
            return [ToolCall(decision.kind.value, {**_given(**details), "reason": decision.reason})]


def _given(**parts: Any) -> Mapping[str, Any]:
    return {name: value for name, value in parts.items() if value is not None}
