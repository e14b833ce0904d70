"""The prompt of one decision: pure text from a `PlanRequest`, nothing else.

Instructions are ours and stand in the system message. Everything from outside (the task's description, events, replies,
even field names) stands in the user message, as JSON inside ``<data name="…">…</data>``. JSON's own escapes take
the place of ``<``, ``>`` and ``&`` in it, so no value can close its section or open another. Each section has a bound:
what is too long is cut, with a mark that says how much.

The instructions are files with a version (`orchestrator.llm.prompts`), which is kept with each decision.

Where a prompt is too long for a model it is made smaller by a scale: old replies, collected values, event types and the
description are cut to a share of their room. Never cut are the names of the required and the missing fields, and every
required field that has a value keeps its place among the collected data, with the value's beginning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.domain.context import Context, Origin
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.event_type import EventType, fields_of
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.question import Question
from orchestrator.domain.value import Value
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.data_text import as_json, fit, section, wrap
from orchestrator.llm.prompts import NEWEST, Instructions, instructions, usable

DESCRIPTION_CHARS = 20_000
DATA_CHARS = 60_000
HISTORY_CHARS = 60_000
EVENT_TYPES_CHARS = 15_000
COMPLAINTS_CHARS = 6_000
SCHEMAS_CHARS = 10_000

_STEPS_SHOWN = 60
_ENTRY_CHARS = 20_000
_LEAST_ENTRY_CHARS = 600
_LEAST_VALUE_CHARS = 120


class Prompt(Value, frozen=True):
    """The two messages of one decision."""

    system: str
    user: str
    version: str = NEWEST


def build_prompt(request: PlanRequest, scale: float = 1.0, own: Instructions | None = None) -> Prompt:
    """The prompt for the next decision.

    Args:
        request: what is asked.
        scale: the share (up to 1) of their room that sections get.
        own: other instructions than those of the version that the request names.
    """

    def room(characters: int) -> int:
        return max(_LEAST_ENTRY_CHARS, int(characters * scale))

    context = request.context
    if own is None:
        version = usable(request.prompt_version)
        own = Instructions(version, instructions(version))
    sections = [
        section("task", {"description": request.description}, room(DESCRIPTION_CHARS)),
        wrap("fields", as_json(_fields(context))),
        wrap("collected_data", _collected_text(request, room(DATA_CHARS))),
        "Steps so far, oldest first. `ref` names a delegation for `record`.\n"
        + _history(request.history, room(HISTORY_CHARS)),
    ]
    if request.event_types:
        sections.append(section("event_types", _event_types(request.event_types), room(EVENT_TYPES_CHARS)))
    if request.complaints:
        sections.append(
            "Your earlier answers to this very question could not be used. What was wrong with them:\n"
            + section("complaints", list(request.complaints), COMPLAINTS_CHARS)
        )
    sections.append(_question(request))
    return Prompt(own.text, "\n\n".join(sections), own.version)


def _fields(context: Context) -> dict[str, Any]:
    """Required and missing names in full; schemas and problems where there are any."""
    shown: dict[str, Any] = {"required": list(context.required_fields), "missing": list(context.missing_fields)}
    if context.field_schemas:
        schemas = as_json(context.field_schemas)
        shown["schemas"] = context.field_schemas if len(schemas) <= SCHEMAS_CHARS else fit(schemas, SCHEMAS_CHARS)
    if problems := context.field_problems:
        shown["problems"] = dict(problems)
    return shown


def _question(request: PlanRequest) -> str:
    lines = []
    if request.wait_timed_out:
        lines.append("The last wait ended by its time-out: what it was for did not come. Take another way, or fail.")
    if not request.context.required_fields:
        lines.append("This task requires no field: it ends only when you call `finish`.")
    elif not request.context.missing_fields:
        lines.append("No required field is missing.")
    lines.append(f"Decide step {request.step}.")
    return "\n".join(lines)


def _collected_text(request: PlanRequest, room: int) -> str:
    """What is known, as JSON: whole where it fits; else each required field first, cut to its share of the room."""
    context = request.context
    known = {
        name: {"value": value, "from": _origin(context.origins.get(name))}
        for name, value in context.collected_data.items()
    }
    whole = as_json(known)
    required = [name for name in context.required_fields if name in known]
    if len(whole) <= room or not required:
        return whole if len(whole) <= room else fit(known, room)
    share = max(_LEAST_VALUE_CHARS, room // 2 // len(required))
    parts = [f"{as_json(name)}: {fit(known[name], share)}" for name in required]
    others = {name: value for name, value in known.items() if name not in required}
    left = max(_LEAST_ENTRY_CHARS, room - sum(map(len, parts)))
    rest = fit(others, left) if others else "{}"
    inner = rest[1:-1] if rest.startswith("{") else f'"…": {rest}'
    return "{" + ", ".join([*parts, *([inner] if inner else [])]) + "}"


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return "unknown"
    step = f", step {origin.step}" if origin.step is not None else ""
    return f"{origin.kind} {origin.name}{step}"


def _event_types(event_types: Sequence[EventType]) -> list[dict[str, Any]]:
    return [
        {
            "event_type": kind.name,
            "description": kind.description,
            "fills": fills_of(kind),
            **({"match": dict(kind.match)} if kind.match else {}),
        }
        for kind in event_types
    ]


def fills_of(kind: EventType) -> list[str]:
    """The fields that an event of this type can fill, as far as its entry says."""
    return list(fields_of(kind))


def _history(history: Sequence[HistoryEntry], room: int) -> str:
    """The present course's steps; the newest get the most room."""
    entries = [entry for entry in history if not entry.step.superseded]
    left_out = max(0, len(entries) - _STEPS_SHOWN)
    shown: list[str] = []
    for entry in reversed(entries[left_out:]):
        text = fit(_entry(entry), max(_LEAST_ENTRY_CHARS, min(_ENTRY_CHARS, room // 2)))
        room = max(0, room - len(text))
        shown.append(text)
    lines = [*([json.dumps(f"… {left_out} earlier steps left out")] if left_out else []), *reversed(shown)]
    return wrap("history", "[" + ",\n".join(lines) + "]")


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    step, decision = entry.step, entry.step.decision
    shown: dict[str, Any] = {"step": step.number}
    if decision is not None:
        shown |= {"decision": decision.kind.value, "reason": decision.reason}
        if decision.details:
            shown["details"] = dict(decision.details)
        if decision.records:
            shown["recorded"] = [record.field for record in decision.records]
    if entry.ended_by is not None:
        shown["ended_by_event"] = {"event_type": entry.ended_by.event_type, "event_data": entry.ended_by.event_data}
    if entry.questions:
        shown["asked"] = [_question_asked(one) for one in entry.questions]
    if step.error:
        shown["error"] = f"{step.error_code}: {step.error}"
    if entry.delegations:
        shown["delegations"] = [_delegation(one) for one in entry.delegations]
    return shown


def _question_asked(one: Question) -> dict[str, Any]:
    if one.answered_by is None:
        return {"question": one.text, "answer": None}
    return {"question": one.text, "answer": one.answer, "by": one.answered_by, **({"why": one.why} if one.why else {})}


def _delegation(one: Delegation) -> dict[str, Any]:
    shown = {"ref": one.ref, "agent": one.agent, "state": one.state.value, "arguments": one.arguments}
    if one.reply is not None:
        shown["reply"] = one.reply
    if one.error:
        shown["error"] = f"{one.error_code}: {one.error}"
    return shown
