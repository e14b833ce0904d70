"""A question to a person: what is asked, what may be answered, and what happens by itself while nobody does.

Three kinds share one form: what the planner asks (``ask_human``), whether a call may be made (an agent with
``requires_approval``), and what an agent asks back while it works (``input_required``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator.domain.context import Change, Origin, has_value
from orchestrator.domain.ids import canonical_json
from orchestrator.domain.json_schema import passing_schema_problem
from orchestrator.domain.keepable import unkeepable
from orchestrator.domain.value import Value

APPROVE, DECLINE = "approve", "decline"
"""The two answers to an approval."""

NO_ANSWER = "no_answer"
"""Reason code of what fails because nobody answered, where the question names no other; of an agent's call always."""

MAX_TEXT = 4_000
MAX_CHOICES = 50
MAX_CHOICE = 200
MAX_SCHEMA_CHARS = 10_000
MAX_ANSWER_CHARS = 100_000

_KEYWORDS = frozenset(
    {
        *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "title", "description"),
        *("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum"),
        *("exclusiveMaximum", "minProperties", "maxProperties", "default", "examples", "format"),
    }
)
"""What an answer's schema may use. It comes from a model or an agent, so nothing that fetches (``$ref``) or that takes
for ever (``pattern``) is among it."""

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


class QuestionKind(StrEnum):
    """Who asks, and what for."""

    QUESTION = "question"
    """The planner, by ``ask_human``."""
    APPROVAL = "approval"
    """A call to an agent with ``requires_approval`` waits for a person's word."""
    AGENT = "agent"
    """An agent asks back in the middle of its work."""


class QuestionState(StrEnum):
    """An answer is stored first (answered) and taken up by the task's next step (settled)."""

    OPEN = "open"
    ANSWERED = "answered"
    SETTLED = "settled"
    TIMED_OUT = "timed_out"
    WITHDRAWN = "withdrawn"
    """Nobody needs to answer any more: an event brought what was asked for, or the task is being undone."""


class OnTimeout(StrEnum):
    """What follows a wait that nobody ended."""

    ASK = "ask"
    """The planner is asked again and told so."""
    FAIL = "fail"
    """The task fails under a named code."""
    GO_ON = "go_on"
    """The planner is asked as if the wait had been a pause."""


class Question(Value, frozen=True):
    """One row of ``questions``."""

    ref: str
    """Its name within the task: the step (``3``), the delegation (``3.0``), the delegation's n-th (``3.0.1``)."""
    kind: QuestionKind
    step: int
    text: str
    asked_at: datetime
    index: int | None = None
    """Of the delegation that it is about."""
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    field: str | None = None
    """Context field that the whole answer fills."""
    fields: tuple[str, ...] = ()
    """Context fields that the answer, an object, fills by name."""
    who: str | None = None
    """A role or name, for people to read."""
    timeout_at: datetime | None = None
    on_timeout: OnTimeout = OnTimeout.ASK
    timeout_code: str = NO_ANSWER
    escalate_to: str | None = None
    escalate_at: datetime | None = None
    escalated_at: datetime | None = None
    answer_url: str | None = None
    """Where an agent takes the answer to its question."""
    state: QuestionState = QuestionState.OPEN
    answer: Any = None
    answered_by: str | None = None
    why: str | None = None
    answered_at: datetime | None = None
    sent_at: datetime | None = None
    """Since when its answer may have reached an agent that is to be told once; None: it has certainly not left."""

    @property
    def due_at(self) -> datetime | None:
        """When something happens by itself: the escalation still to come, or the time-out."""
        moments = [self.timeout_at, None if self.escalated_at else self.escalate_at]
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def approved(self) -> bool:
        """Whether an approval was given."""
        return bool(self.answer == APPROVE)

    def all_fields(self) -> tuple[str, ...]:
        """Every context field that the answer fills."""
        return (self.field,) if self.field is not None else self.fields

    def changes(self) -> tuple[Change, ...]:
        """What the answer fills, by whoever gave it; nothing where no field was named."""
        origin = Origin("person", self.answered_by or "somebody", self.answered_at or self.asked_at, step=self.step)
        if self.field is not None:
            return (Change(self.field, self.answer, origin),)
        return tuple(Change(name, self.answer[name], origin) for name in self.fields)


def answer_problem(question: Question, answer: Any) -> str | None:
    """Why this cannot be the answer; None where it can. For the person who gave it."""
    if not has_value(answer):
        return "the answer is empty"
    if flaw := unkeepable(answer):
        return f"the answer {flaw}"
    if len(canonical_json(answer)) > MAX_ANSWER_CHARS:
        return f"the answer is longer than {MAX_ANSWER_CHARS:,} characters"
    if question.choices and answer not in question.choices:
        return f"the answer must be one of: {', '.join(question.choices)}"
    if question.schema is not None and (problem := passing_schema_problem(question.schema, answer)):
        return f"the answer does not fit what was asked for: {problem}"
    if question.fields:
        if not isinstance(answer, Mapping):
            return f"the answer must be an object with {', '.join(question.fields)}"
        if lacking := [name for name in question.fields if not has_value(answer.get(name))]:
            return f"the answer lacks {', '.join(lacking)}"
        if question.schema is None and (beyond := [name for name in answer if name not in question.fields]):
            return f"nobody asked for {', '.join(map(str, beyond))}; asked for is {', '.join(question.fields)}"
    return None


def asking_problem(
    text: Any, choices: Any, schema: Any, field: Any = None, fields: Any = None, who: Any = None
) -> str | None:
    """Why this cannot be asked of a person, in words that help whoever asks; None where it can."""
    if not isinstance(text, str) or not text.strip():
        return "it needs a question"
    if len(text) > MAX_TEXT:
        return f"the question has {len(text)} characters; at most {MAX_TEXT}"
    if who is not None and (not isinstance(who, str) or len(who) > MAX_CHOICE):
        return f"who must be a text of at most {MAX_CHOICE} characters"
    if choices and schema is not None:
        return "give choices or a schema, not both"
    if field is not None and fields:
        return "give field or fields, not both"
    if choices and fields:
        return "a choice is one value: name the field that it fills in `field`"
    names = [*(fields or ()), *([field] if field is not None else [])]
    if not all(isinstance(name, str) and 1 <= len(name) <= MAX_CHOICE for name in names):
        return f"names of fields have 1 to {MAX_CHOICE} characters"
    return _choices_problem(choices) or (answer_schema_problem(schema) if schema is not None else None)


def _choices_problem(choices: Any) -> str | None:
    if not choices:
        return None
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= MAX_CHOICES:
        return f"choices must be a list of 2 to {MAX_CHOICES} texts"
    if not all(isinstance(one, str) and one.strip() and len(one) <= MAX_CHOICE for one in choices):
        return f"each choice must be a text of 1 to {MAX_CHOICE} characters"
    return "each choice may stand there once" if len(set(choices)) < len(choices) else None


def answer_schema_problem(schema: Any) -> str | None:
    """Why this is no schema that an answer may be checked against; None where it is."""
    if not isinstance(schema, Mapping):
        return "schema must be a JSON Schema, an object"
    if len(canonical_json(schema)) > MAX_SCHEMA_CHARS:
        return f"the schema is longer than {MAX_SCHEMA_CHARS:,} characters"
    return _schema_problem(schema, 0)


def _schema_problem(schema: Mapping[str, Any], depth: int) -> str | None:
    if depth > 10:
        return "the schema is nested too deeply"
    if unknown := [str(name) for name in schema if name not in _KEYWORDS]:
        return f"the schema may not use {', '.join(unknown)}; it may use {', '.join(sorted(_KEYWORDS))}"
    if problem := _values_problem(schema):
        return problem
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return "properties must be an object"
    below = [*properties.values(), *(schema[key] for key in ("items", "additionalProperties") if key in schema)]
    for one in below:
        if isinstance(one, bool):
            continue
        if not isinstance(one, Mapping):
            return "a schema within the schema must be an object"
        if problem := _schema_problem(one, depth + 1):
            return problem
    return None


def _values_problem(schema: Mapping[str, Any]) -> str | None:
    for name, value in schema.items():
        match name:
            case "type":
                types = [value] if isinstance(value, str) else value
                if not isinstance(types, list) or not types or not all(one in _TYPES for one in map(str, types)):
                    return f"type must be one of {', '.join(sorted(_TYPES))}, or a list of them"
            case "required":
                if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                    return "required must be a list of names"
            case "enum":
                if not isinstance(value, list) or not value:
                    return "enum must be a list of values"
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                if not _is_number(value):
                    return f"{name} must be a number"
            case "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties":
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    return f"{name} must be a whole number from 0"
            case _:
                pass
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
