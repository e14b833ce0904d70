"""What may be asked of a person, what may be answered, and what an answer fills."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.domain.question import (
    Question,
    QuestionKind,
    answer_problem,
    answer_schema_problem,
    asking_problem,
)

AT = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)


def question(**parts: Any) -> Question:
    return Question("3", QuestionKind.QUESTION, 3, "How much?", AT, **parts)


AMOUNT = {"type": "object", "properties": {"amount": {"type": "number", "minimum": 0}}, "required": ["amount"]}


@pytest.mark.parametrize(
    ("parts", "answer", "said"),
    [
        ({}, "", "empty"),
        ({}, None, "empty"),
        ({}, "x" * 200_000, "longer than"),
        ({}, {"text": "a\0b"}, "holds NUL characters"),
        ({"choices": ("yes", "no")}, "maybe", "one of: yes, no"),
        ({"choices": ("1", "2")}, 1, "one of: 1, 2"),
        ({"schema": AMOUNT}, {"amount": -1}, "at /amount"),
        ({"fields": ("a", "b")}, {"a": 1}, "lacks b"),
        ({"fields": ("a", "b")}, {"a": 1, "b": ""}, "lacks b"),
        ({"fields": ("a",)}, "5", "must be an object with a"),
        ({"fields": ("a",)}, {"a": 1, "z": 2}, "nobody asked for z"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_why(parts: dict[str, Any], answer: Any, said: str) -> None:
    assert said in (answer_problem(question(**parts), answer) or "")


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ({}, "Net 30"),
        ({}, False),
        ({}, 0),
        ({"choices": ("yes", "no")}, "no"),
        ({"schema": AMOUNT}, {"amount": 5000}),
        ({"fields": ("a", "b")}, {"a": 1, "b": [2]}),
    ],
)
def test_an_answer_that_fits_is_taken(parts: dict[str, Any], answer: Any) -> None:
    assert answer_problem(question(**parts), answer) is None


def test_an_answer_fills_the_fields_named_as_the_persons_own() -> None:
    (change,) = question(field="limit", answer=5000, answered_by="ann", answered_at=AT).changes()
    assert (change.field, change.value, change.origin.kind, change.origin.name) == ("limit", 5000, "person", "ann")
    changes = question(fields=("a", "b"), answer={"a": 1, "b": 2, "note": "x"}, answered_by="ann").changes()
    assert {one.field: one.value for one in changes} == {"a": 1, "b": 2}
    assert question(answer="it depends", answered_by="ann").changes() == ()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "http://169.254.169.254/latest"}, "$ref"),
        ({"type": "string", "pattern": "(a+)+$"}, "pattern"),
        ({"properties": {"a": {"items": {"$ref": "#"}}}}, "$ref"),
        ({"type": "decimal"}, "type must be"),
        ({"type": [[]]}, "type must be"),
        ({"properties": []}, "properties"),
        ({"properties": {"a": 5}}, "schema within"),
        ({"required": "a"}, "required"),
        ({"minimum": "0"}, "minimum"),
        ({"maxLength": -1}, "maxLength"),
        ({"enum": []}, "enum"),
        ("string", "an object"),
        ({"description": "x" * 20_000}, "longer than"),
    ],
)
def test_a_schema_that_fetches_hangs_or_means_nothing_is_refused(schema: Any, said: str) -> None:
    assert said in (answer_schema_problem(schema) or "")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"text": " "}, "needs a question"),
        ({"text": None}, "needs a question"),
        ({"text": "x" * 5_000}, "at most 4000"),
        ({"choices": ["one"]}, "2 to 50"),
        ({"choices": ["a", "a"]}, "once"),
        ({"choices": ["a", ""]}, "each choice"),
        ({"choices": ["a", "b"], "schema": {}}, "not both"),
        ({"choices": ["a", "b"], "fields": ["x"]}, "one value"),
        ({"field": "a", "fields": ["b"]}, "not both"),
        ({"field": ""}, "names of fields"),
        ({"who": 5}, "who must be"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_why(parts: dict[str, Any], said: str) -> None:
    asked = {"text": "How much?", "choices": None, "schema": None, **parts}
    assert said in (asking_problem(**asked) or "")


def test_a_question_is_due_at_its_escalation_then_at_its_time_out() -> None:
    hour, day = AT + timedelta(hours=1), AT + timedelta(days=1)
    asked = question(escalate_to="head", escalate_at=hour, timeout_at=day)
    assert asked.due_at == hour
    assert question(escalate_to="head", escalate_at=hour, escalated_at=hour, timeout_at=day).due_at == day
    assert question().due_at is None
