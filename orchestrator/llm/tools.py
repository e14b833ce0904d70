"""The tools that the model is offered: one for each agent, made from its entry, and the control tools. Pure.

An agent's tool takes ``reason``, ``task`` (what the agent is to do, in words) and ``input``, which has the agent's own
``input_schema``. Keeping that schema whole under ``input`` lets an agent have inputs called ``task`` or ``reason``,
and any schema at all at its top. What an entry says in words stands in it as data, quoted and cut.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.value import Value
from orchestrator.llm.data_text import as_json, cut, fit
from orchestrator.llm.schema_text import shown_schema

_VALID_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DESCRIPTION_CHARS = 1_000
"""Providers refuse longer descriptions of a tool (OpenAI: 1,024)."""
_NAME_CHARS = 100
_AS_DATA = "An agent. What its entry says: <data>{}</data>"

_REASON = {"type": "string", "description": "Why this, and why now: one or two sentences for people."}


def _object(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _timeout(seconds: str, code: str) -> dict[str, Any]:
    return {
        "timeout_seconds": {"type": "number", "description": seconds},
        "on_timeout": {
            "type": "string",
            "enum": ["ask", "fail", "go_on"],
            "description": "What then: ask (default) asks you again and says so; fail ends the task as failed; go_on "
            "asks you as if it had been a pause.",
        },
        "timeout_code": {
            "type": "string",
            "description": f"With on_timeout fail: short stable name of the failure; {code} where not given.",
        },
    }


CONTROL_TOOLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "finish": (
        "End the task as completed. Only where no required field is missing and the description is done.",
        _object({"reason": _REASON}, ["reason"]),
    ),
    "record": (
        "Fill fields from replies that are already there. Give for each field the delegation's reference and either a "
        "pointer, or value and quote.",
        _object(
            {
                "fields": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {
                            "field": {"type": "string", "minLength": 1, "description": "The field to fill."},
                            "delegation": {"type": "string", "description": "`ref` of the delegation, such as 3.0."},
                            "pointer": {
                                "type": "string",
                                "description": "JSON pointer to the value in its reply, such as /result/status.",
                            },
                            "value": {
                                "type": ["string", "number", "boolean"],
                                "description": "The value, where it stands inside a text.",
                            },
                            "quote": {
                                "type": "string",
                                "description": "With value: the passage of the reply that holds it, word for word.",
                            },
                        },
                        ["field", "delegation"],
                    ),
                },
                "reason": _REASON,
            },
            ["fields", "reason"],
        ),
    ),
    "wait_for_event": (
        "Wait until an event for this task comes in. Without event_type and match the next event of any kind ends the "
        "wait; with them also one that came earlier, unless it ended a wait already.",
        _object(
            {
                "event_type": {"type": "string", "minLength": 1, "description": "One of the event types listed."},
                "match": {
                    "type": "object",
                    "description": "JSON pointer into event_data, such as /order/id, to the value that must stand "
                    "there: other events of the type are merged, and the wait goes on.",
                    "additionalProperties": {"type": ["string", "number", "boolean"]},
                },
                **_timeout("Seconds to wait at most.", "wait_timeout"),
                "reason": _REASON,
            },
            ["reason"],
        ),
    ),
    "ask_human": (
        "Ask a person, and wait for the answer. Only for what no agent, reply or event can tell. Give choices, or a "
        "schema, where the answer must have a form; name the field that it fills.",
        _object(
            {
                "question": {"type": "string", "minLength": 1},
                "field": {"type": "string", "minLength": 1, "description": "The field that the answer fills."},
                "fields": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Instead of field: the answer is an object with these fields.",
                },
                "choices": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The answers that are possible, at least two.",
                },
                "schema": {
                    "type": "object",
                    "description": "Instead of choices: JSON Schema of the answer (type, properties, required, enum, "
                    "minimum, maximum, minLength, maxLength, items …).",
                },
                "who": {"type": "string", "description": "The role or person to ask, such as `finance`."},
                "escalate_to": {"type": "string", "description": "Who is told when nobody has answered for so long."},
                "escalate_after_seconds": {"type": "number", "description": "Seconds until then."},
                **_timeout("Seconds to wait for an answer at most.", "no_answer"),
                "reason": _REASON,
            },
            ["question", "reason"],
        ),
    ),
    "fail": (
        "Give the task up. Only where no way is left.",
        _object(
            {
                "code": {"type": "string", "description": "Short stable name of the cause, such as supplier_unknown."},
                "reason": _REASON,
            },
            ["reason"],
        ),
    ),
}


class Toolbox(Value, frozen=True):
    """The tools of one decision, and which agent each agent's tool stands for."""

    agents: Mapping[str, AgentSpec]
    """Tool name → agent."""

    @classmethod
    def of(cls, agents: Sequence[AgentSpec]) -> Toolbox:
        """One tool for each agent, under its own name where that is a valid one."""
        names: dict[str, AgentSpec] = {}
        renamed = []
        for agent in agents:
            if _VALID_NAME.fullmatch(agent.name) and agent.name not in CONTROL_TOOLS:
                names[agent.name] = agent
            else:
                renamed.append(agent)
        by_tool = {id(agent): name for name, agent in names.items()}
        for agent in renamed:
            by_tool[id(agent)] = name = _tool_name(agent.name, names.keys())
            names[name] = agent
        return cls({by_tool[id(agent)]: agent for agent in agents})

    def definitions(self) -> list[dict[str, Any]]:
        """All tools in OpenAI's form, which LangChain translates for other providers."""
        agents = [
            _definition(name, _description(name, agent), _parameters(agent)) for name, agent in self.agents.items()
        ]
        return [*agents, *(_definition(name, text, schema) for name, (text, schema) in CONTROL_TOOLS.items())]


def _tool_name(agent: str, taken: Any) -> str:
    """A valid, free tool name, the same each time for the same registry."""
    readable = re.sub(r"[^a-zA-Z0-9_-]+", "_", agent).strip("_")[:40] or "agent"
    digest = hashlib.sha256(agent.encode("utf-8", "replace")).hexdigest()
    length = 6
    while (name := f"{readable}_{digest[:length]}") in taken:
        length += 1
    return name


def _definition(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _description(tool: str, agent: AgentSpec) -> str:
    """The agent's entry as data, cut until it fits; what it provides and needs outlasts its description."""
    entry: dict[str, Any] = {} if agent.name == tool else {"agent": cut(agent.name, _NAME_CHARS)}
    description = " ".join(agent.description.split())
    entry["description"] = description
    entry["provides"] = list(agent.provides)
    entry["needs"] = [
        name if pointer.lstrip("/") == name else f"{name} (from {pointer.lstrip('/')})"
        for name, pointer in agent.requires.items()
    ]
    if agent.requires_approval:
        entry["approval"] = "a person must approve each call before it is made, which takes time, and may decline it"
    entry = {key: value for key, value in entry.items() if value or key == "agent"}
    facts = as_json({key: value for key, value in entry.items() if key != "description"})
    if len(facts) > _DESCRIPTION_CHARS // 2:
        entry |= {key: fit(entry[key], _DESCRIPTION_CHARS // 6) for key in ("provides", "needs") if key in entry}
    kept = len(description)
    while len(text := _AS_DATA.format(as_json(entry))) > _DESCRIPTION_CHARS and kept > 0:
        kept = max(0, kept - max(1, (len(text) - _DESCRIPTION_CHARS) // 2))
        entry["description"] = f"{description[:kept]}…"
    return text


def _parameters(agent: AgentSpec) -> dict[str, Any]:
    schema = shown_schema(agent.input_schema)
    parameters = _object(
        {
            "reason": _REASON,
            "task": {"type": "string", "description": "What the agent is to do, in words."},
            "input": {},
        },
        ["reason", "task", "input"],
    )
    for shared in ("$defs", "definitions"):
        if shared in schema:
            parameters[shared] = schema.pop(shared)
    parameters["properties"]["input"] = _moved(schema)
    return parameters


def _moved(schema: Any) -> Any:
    """The schema with references into itself mended for its new place; ``$defs`` have moved to the top with it."""
    if isinstance(schema, Mapping):
        return {
            key: _moved_reference(value) if key == "$ref" and isinstance(value, str) else _moved(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list | tuple):
        return [_moved(item) for item in schema]
    return schema


def _moved_reference(reference: str) -> str:
    if not reference.startswith("#") or reference.startswith(("#/$defs/", "#/definitions/")):
        return reference
    return "#/properties/input" + reference[1:]
