"""From the model's answer to a proposed decision, or to what is wrong with it. Pure.

Only the answer's form is judged here: known tools, readable arguments, one kind of thing at a time. Whether the
proposal fits the registry, the schemas and the replies is judged by `orchestrator.flow.decide`. The texts of
`BadAnswer` go back to the model, so they say what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.keepable import keepable_text
from orchestrator.domain.value import Value
from orchestrator.errors import BadAnswer, PlannerRefused
from orchestrator.llm.data_text import visible
from orchestrator.llm.tools import CONTROL_TOOLS, Toolbox
from orchestrator.llm.trouble import DECLINED

_REASON_CHARS = 2_000
_QUOTED_CHARS = 200

_CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"})
_FILTERED = frozenset({"content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"})


class ToolCall(Value, frozen=True):
    """One tool call of the answer; ``problem`` says why its arguments could not be read, where they could not."""

    name: str
    arguments: Mapping[str, Any]
    problem: str | None = None


class Answer(Value, frozen=True):
    """What the model said, whoever made it."""

    calls: Sequence[ToolCall]
    text: str
    finish_reason: str
    """Why it stopped, in the provider's word, in lower case; empty where it said nothing."""
    refusal: str
    usage: Usage


def read_answer(answer: Answer, toolbox: Toolbox) -> Decision:
    """The decision that the answer proposes.

    Raises:
        BadAnswer: the answer is no decision.
        PlannerRefused: the provider's filter, or the model itself, declined to answer.
    """
    try:
        return _read(answer, toolbox)
    except (BadAnswer, PlannerRefused) as error:
        # Bad answers cost money too. What they quote of the model goes into the journal.
        error.usage = answer.usage
        error.args = (keepable_text(str(error)),)
        raise
    except RecursionError:
        deep = BadAnswer("the arguments are nested too deeply")
        deep.usage = answer.usage
        raise deep from None


def _read(answer: Answer, toolbox: Toolbox) -> Decision:
    if answer.finish_reason in _FILTERED or answer.refusal:
        said = answer.refusal[:_QUOTED_CHARS] or answer.finish_reason
        declined = PlannerRefused(
            f"{answer.usage.model} declined to answer: {said}",
            hint="Look at the task's description and data for what the provider's filter may object to, or use another "
            "ORCHESTRATOR_MODEL; then retry the task.",
        )
        declined.code = DECLINED
        raise declined
    if answer.finish_reason in _CUT_OFF:
        raise BadAnswer(
            f"the answer was cut off after {answer.usage.tokens_out} tokens ({answer.finish_reason}): answer shorter",
            hint="Raise ORCHESTRATOR_MODEL_MAX_TOKENS.",
        )
    if not answer.calls:
        said = f"; it said: {answer.text[:_QUOTED_CHARS]}" if answer.text.strip() else ""
        raise BadAnswer(f"the answer calls no tool: answer by calling tools{said}")
    for call in answer.calls:
        _check_call(call, toolbox)
    controls = [call for call in answer.calls if call.name in CONTROL_TOOLS]
    calls = [call for call in answer.calls if call.name in toolbox.agents]
    if controls and calls:
        raise BadAnswer(
            f"control tool {controls[0].name} stands beside a call of {calls[0].name}: call agents or one control tool"
        )
    if len({call.name for call in controls}) > 1 or (len(controls) > 1 and controls[0].name != "record"):
        raise BadAnswer(f"several control tools at once ({', '.join(c.name for c in controls)}): call one of them")
    if calls:
        agent_calls = tuple(_agent_call(call, toolbox) for call in calls)
        return Decision(DecisionKind.CALL, _reason(answer), answer.usage, calls=_without_repeats(agent_calls))
    return _control_decision(controls, answer)


def _check_call(call: ToolCall, toolbox: Toolbox) -> None:
    if call.name not in toolbox.agents and call.name not in CONTROL_TOOLS:
        tools = ", ".join([*toolbox.agents, *CONTROL_TOOLS])
        raise BadAnswer(f"there is no tool {call.name[:_QUOTED_CHARS]!r}; there are: {tools}")
    if call.problem is not None:
        raise BadAnswer(f"the arguments of {call.name} are not valid JSON: {call.problem[:_QUOTED_CHARS]}")
    if call.name in CONTROL_TOOLS and (problem := schema_problem(CONTROL_TOOLS[call.name][1], _given(call))):
        raise BadAnswer(f"the arguments of {call.name} do not fit: {problem}")


def _given(call: ToolCall) -> dict[str, Any]:
    """A control tool's arguments without nulls: models write them for "not given"."""

    def without_nulls(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without_nulls(item) for name, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    given: dict[str, Any] = without_nulls(call.arguments)
    return given


def _agent_call(call: ToolCall, toolbox: Toolbox) -> AgentCall:
    # Some models leave out the layer called ``input`` and put the agent's own arguments beside task and reason.
    given = call.arguments.get("input")
    own = {"task", "reason"} if given is not None else {"task", "reason", "input"}
    beside = {name: value for name, value in call.arguments.items() if name not in own}
    arguments = given if isinstance(given, Mapping) else beside
    task = call.arguments.get("task")
    return AgentCall(toolbox.agents[call.name].name, dict(arguments), task if isinstance(task, str) else "")


def _without_repeats(calls: tuple[AgentCall, ...]) -> tuple[AgentCall, ...]:
    """The same agent with the same arguments once: each delegation has a key of its own, so it would act twice."""
    kept: list[AgentCall] = []
    for call in calls:
        if not any(call.agent == other.agent and call.arguments == other.arguments for other in kept):
            kept.append(call)
    return tuple(kept)


def _control_decision(controls: Sequence[ToolCall], answer: Answer) -> Decision:
    kind = DecisionKind(controls[0].name)
    if kind is DecisionKind.RECORD:
        records = tuple(_field_record(item) for call in controls for item in _given(call)["fields"])
        return Decision(kind, _reason(answer), answer.usage, records=records)
    details = {name: value for name, value in _given(controls[0]).items() if name != "reason"}
    return Decision(kind, _reason(answer), answer.usage, details=details)


def _field_record(item: Mapping[str, Any]) -> FieldRecord:
    if item.get("pointer") is None and (item.get("value") is None or not item.get("quote")):
        raise BadAnswer(f"record {item['field']!r} needs a pointer, or value and quote")
    return FieldRecord(
        field=item["field"],
        delegation=item["delegation"],
        pointer=item.get("pointer"),
        value=item.get("value"),
        quote=item.get("quote"),
    )


def _reason(answer: Answer) -> str:
    reasons = [call.arguments.get("reason") for call in answer.calls]
    said = list(dict.fromkeys(visible(text).strip() for text in reasons if isinstance(text, str) and text.strip()))
    return (" ".join(said) or visible(answer.text).strip() or "The model gave no reason.")[:_REASON_CHARS]
