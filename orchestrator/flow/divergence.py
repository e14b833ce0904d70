"""Whether two choices for one question are the same choice, and what differs where they are not. Pure.

The same choice is one that leads to the same calls, values, waits or questions. How it is worded (reasons, an agent's
``task``, the text of a question, the code of a failure) and how long it would wait are told, and make no other choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.decision import AgentCall, Decision, DecisionKind
from orchestrator.domain.ids import canonical_json
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.value import Value
from orchestrator.errors import BadAnswer
from orchestrator.flow.claims import recorded_changes

_VALUE_CHARS = 120


class NoChoice(Value, frozen=True):
    """A question to which no usable answer came."""

    code: str
    """``bad_decision``, ``planner_refused``, ``no_route``, ``no_progress``…"""
    why: str


Choice = Decision | NoChoice


class Comparison(Value, frozen=True):
    """Two choices side by side."""

    differences: tuple[str, ...] = ()
    """What makes them two choices; none: they are the same."""
    wording: tuple[str, ...] = ()
    """What differs besides, though it makes no other choice."""

    @property
    def same(self) -> bool:
        """Whether it is the same choice."""
        return not self.differences


def compare(then: Choice, now: Choice, history: Sequence[HistoryEntry]) -> Comparison:
    """Compare two choices for a question; ``history`` is what the question told of earlier steps."""
    if isinstance(then, NoChoice) or isinstance(now, NoChoice):
        if isinstance(then, NoChoice) and isinstance(now, NoChoice):
            other = () if then.code == now.code else (f"then {then.code}, now {now.code}",)
            return Comparison(wording=other)
        return Comparison((f"then {verb(then)}, now {verb(now)}",))
    if then.kind is not now.kind:
        return Comparison((f"then {verb(then)}, now {verb(now)}",))
    match then.kind:
        case DecisionKind.CALL:
            return _calls(then.calls, now.calls)
        case DecisionKind.RECORD:
            return Comparison(_values(_recorded(then, history), _recorded(now, history)))
        case DecisionKind.WAIT_FOR_EVENT:
            told = ("event_type", "match")
            times = ("timeout_seconds", "on_timeout", "timeout_code")
            return Comparison(_details(then, now, told), _details(then, now, times))
        case DecisionKind.ASK_HUMAN:
            return _questions(then, now)
        case DecisionKind.FAIL:
            return Comparison(wording=_details(then, now, ("code",)))
        case DecisionKind.FINISH:
            return Comparison()


def verb(choice: Choice) -> str:
    """A choice in a few words, as the end of a sentence that begins with when: ``then …``."""
    if isinstance(choice, NoChoice):
        return f"no usable choice ({choice.code})"
    match choice.kind:
        case DecisionKind.CALL:
            return f"asks {', '.join(call.agent for call in choice.calls)}"
        case DecisionKind.RECORD:
            return f"takes {', '.join(record.field for record in choice.records)} from earlier replies"
        case DecisionKind.FINISH:
            return "finishes"
        case DecisionKind.WAIT_FOR_EVENT:
            return f"waits for the event {choice.details.get('event_type') or '(of any type)'}"
        case DecisionKind.ASK_HUMAN:
            return "asks a person"
        case DecisionKind.FAIL:
            return "gives up"


def _calls(then: Sequence[AgentCall], now: Sequence[AgentCall]) -> Comparison:
    """Calls of one decision run side by side: their order means nothing."""
    only_now = list(now)
    only_then: list[AgentCall] = []
    wording: list[str] = []
    for call in then:
        same = next((one for one in only_now if _same_call(one, call)), None)
        if same is None:
            only_then.append(call)
            continue
        only_now.remove(same)
        if same.task != call.task:
            wording.append(f"{call.agent} is told “{_short(same.task)}”, then “{_short(call.task)}”")
    differences: list[str] = []
    for call in list(only_then):
        other = next((one for one in only_now if one.agent == call.agent), None)
        if other is not None:
            only_then.remove(call)
            only_now.remove(other)
            differences += (f"{call.agent}: {told}" for told in _values(call.arguments, other.arguments))
    differences += (f"then asks {call.agent}{_with(call.arguments)}, now does not" for call in only_then)
    differences += (f"now asks {call.agent}{_with(call.arguments)}, then did not" for call in only_now)
    return Comparison(tuple(differences), tuple(wording))


def _same_call(one: AgentCall, other: AgentCall) -> bool:
    return one.agent == other.agent and same_json(dict(one.arguments), dict(other.arguments))


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where true is not 1 and 1 is 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_json(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _values(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    told = []
    for name in dict.fromkeys([*then, *now]):
        if name not in now:
            told.append(f"{name} was {_short(then[name])}, now it is left out")
        elif name not in then:
            told.append(f"{name} is {_short(now[name])}, then it was left out")
        elif not same_json(then[name], now[name]):
            told.append(f"{name} was {_short(then[name])}, now it is {_short(now[name])}")
    return tuple(told)


def _recorded(decision: Decision, history: Sequence[HistoryEntry]) -> dict[str, Any]:
    """Field → value: by which pointer or passage it was taken makes no difference."""
    try:
        changes = recorded_changes(decision.records, history, datetime.min)
    except BadAnswer:  # a reply that the journal does not have any more
        return {record.field: record.value or record.pointer for record in decision.records}
    return {change.field: change.value for change in changes}


def _details(then: Decision, now: Decision, names: Sequence[str]) -> tuple[str, ...]:
    def given(decision: Decision) -> dict[str, Any]:
        return {name: value for name in names if (value := decision.details.get(name)) not in (None, {}, [])}

    return _values(given(then), given(now))


def _questions(then: Decision, now: Decision) -> Comparison:
    def fields(decision: Decision) -> dict[str, Any]:
        single = decision.details.get("field")
        return {"fields": sorted([single] if single is not None else decision.details.get("fields") or [])}

    differences = (*_values(fields(then), fields(now)), *_details(then, now, ("choices", "schema")))
    return Comparison(differences, _details(then, now, ("question", "who", "timeout_seconds", "on_timeout")))


def _with(arguments: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"{name} = {_short(value)}" for name, value in arguments.items())
    return f" with {pairs}" if pairs else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"
