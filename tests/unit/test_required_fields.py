"""Required fields with meaning: schemas, values that do not fill, givers that disagree, and agents for a question."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Context, Origin, OriginKind, conflicts_of, rebuild
from orchestrator.domain.field_schema import field_problem, schema_flaw
from orchestrator.domain.message import TaskMessage
from orchestrator.flow.ports import Invalid
from orchestrator.flow.select_agents import select_agents
from orchestrator.llm.prompt import build_prompt
from tests.support.kafka import decoder, record
from tests.unit.test_prompt_versions import request

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SCORE = {"type": "integer", "minimum": 0, "maximum": 100}


def context(**data: Any) -> Context:
    return Context(1, ("name", "score"), data, field_schemas={"score": SCORE})


def change(field: str, value: Any, kind: OriginKind = "agent", name: str = "a") -> Change:
    return Change(field, value, Origin(kind, name, NOW))


def decoded(required: Any) -> TaskMessage | Invalid:
    body = {"task_id": "T-1", "task_description": "do it", "required_fields": required}
    message = decoder(max_bytes=100_000).decode(record(body))
    assert isinstance(message, TaskMessage | Invalid)
    return message


# -- messages


@pytest.mark.parametrize(
    "required",
    [
        ["name", {"name": "score", "schema": SCORE}],
        [{"name": "name"}, {"name": "score", "schema": SCORE}, "name"],
        {"name": None, "score": SCORE},
        {"name": {}, "score": SCORE},
    ],
    ids=["list", "objects", "object", "empty schema"],
)
def test_fields_come_as_names_or_with_their_schemas(required: Any) -> None:
    message = decoded(required)
    assert isinstance(message, TaskMessage)
    assert message.required_fields == ("name", "score")
    assert message.field_schemas == {"score": SCORE}


def test_a_task_of_names_only_keeps_the_digest_it_always_had() -> None:
    plain = decoded(["name"])
    with_schema = decoded({"name": SCORE})
    assert isinstance(plain, TaskMessage) and isinstance(with_schema, TaskMessage)
    assert plain.content_digest == TaskMessage("T-1", "do it", ("name",)).content_digest != with_schema.content_digest


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ([{"schema": SCORE}], "must have the field name"),
        ({"a": 7}, "must be of type object or null"),
        ({"a": {"type": "number-ish"}}, "a: this is no JSON Schema"),
        ({"a": {"$ref": "http://127.0.0.1/secret"}}, "only references within itself"),
        ({"a": {"items": {"$ref": "file:///etc/passwd"}}}, "only references within itself"),
        ({"a": {"pattern": "(a+)+$"}}, "repeats something that repeats"),
        ({"a": {"pattern": "(a|b*)*c"}}, "repeats something that repeats"),
        ({"a": {"pattern": "["}}, "is no regular expression"),
        ({"a": {"pattern": "a*b*c*d*"}}, "more than 3 repeats"),
        ({"a": {"patternProperties": {"(x*)*": {}}}}, "repeats something that repeats"),
        ({"a": {"enum": ["x" * 30_000]}}, "more than 20,000 characters"),
        ([{"name": "a", "schema": SCORE}, {"name": "a", "schema": {"type": "string"}}], "different schemas"),
    ],
)
def test_a_schema_that_cannot_be_is_a_dead_letter(required: Any, said: str) -> None:
    message = decoded(required)
    assert isinstance(message, Invalid), message
    assert message.reason == "wrong_shape"
    assert said in message.detail


@pytest.mark.parametrize("pattern", ["^[A-Z]{2}[0-9]+$", r"^\d{4}-\d{2}-\d{2}$", "^(HRB|HRA) [0-9]{1,9}$", "^a*b*c*$"])
def test_patterns_that_people_write_are_taken(pattern: str) -> None:
    assert schema_flaw({"type": "string", "pattern": pattern}) is None


def test_no_text_keeps_a_pattern_busy() -> None:
    started = time.process_time()
    schema = {"pattern": "^a*a*a*$"}
    assert schema_flaw(schema) is None
    assert field_problem(schema, "a" * 255 + "b")
    assert "not matched" in str(field_problem(schema, "a" * 100_000))
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/$defs/none"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}]
)
def test_a_schema_that_leads_nowhere_fills_nothing_and_raises_nothing(schema: dict[str, Any]) -> None:
    assert schema_flaw(schema) is None
    assert field_problem(schema, 1) is not None


# -- values


def test_a_value_that_does_not_fit_does_not_fill_its_field() -> None:
    wrong = context(name="N", score="high")
    assert wrong.missing_fields == ("score",)
    assert not wrong.is_complete
    assert "'high' is not of type 'integer'" in wrong.field_problems["score"]
    assert wrong.known_data == {"name": "N"}
    assert context(name="N", score=71).is_complete


@pytest.mark.parametrize(
    ("present", "new", "refused"),
    [
        (change("score", 71), change("score", "high", name="b"), "it does not fit the field"),
        (change("score", "high"), change("score", 71, name="b"), None),
        (change("score", "high"), change("score", "low", name="b"), None),
        (change("score", 71), change("score", 72, name="b"), None),
        (change("score", 71, "person", "ann"), change("score", 72), "ann has set the field by hand"),
        (change("score", 71, "person", "ann"), change("score", 72, "event", "e"), "ann has set the field by hand"),
        (change("score", 71, "person", "ann"), change("score", 72, "person", "bob"), None),
        (change("score", 71, "person", "ann"), Change("score", None, Origin("person", "ann", NOW), removed=True), None),
    ],
)
def test_where_givers_disagree_a_rule_says_what_stands(present: Change, new: Change, refused: str | None) -> None:
    before = context().apply([present])
    admitted = before.admit(new)
    assert (admitted.refused is None) if refused is None else refused in str(admitted.refused)
    after = before.apply([admitted])
    if not new.removed:
        assert after.collected_data["score"] == (present if refused else new).value


def test_conflicts_tell_what_stands_and_why() -> None:
    history = [
        [change("score", 71), change("name", "N", "message", "event_data")],
        [change("score", 72), change("name", "Northwind", name="register")],
        [Change("score", "high", Origin("agent", "b", NOW), refused="it does not fit the field: …")],
    ]
    first, second = conflicts_of(history)
    assert (first.field, first.kept, first.other, first.why) == ("name", "Northwind", "N", "the later one counts")
    assert (second.field, second.kept, second.other) == ("score", 72, "high")
    assert rebuild(("score",), history, {"score": SCORE}).collected_data == {"score": 72, "name": "Northwind"}


def test_the_prompt_tells_schemas_and_problems() -> None:
    asked = request()
    shown = build_prompt(type(asked)(asked.task_id, 2, "Do it", context(score="high"), [], [], [])).user
    assert '"schemas": {"score": {"type": "integer"' in shown
    assert '"problems": {"score": "\'high\' is not of type' in shown


# -- 200 agents


def agent(name: str, provides: str = "", needs: str = "", description: str = "") -> AgentSpec:
    return AgentSpec(
        name,
        description,
        "http://a.test/",
        provides={word: f"/{word}" for word in provides.split()},
        requires={word: f"/{word}" for word in needs.split()},
    )


def test_of_two_hundred_agents_those_that_lead_to_a_missing_field_come_first() -> None:
    others = [agent(f"other_{number}", f"thing_{number}") for number in range(200)]
    chain = [agent("score_agency", "score", "number"), agent("register", "number", "company")]
    letter = agent("letters", "letter", description="Writes a reminder letter to a customer")
    agents = [*others[:100], *chain, letter, *others[100:]]
    asked = Context(1, ("score",), {"company": "N"})
    chosen = select_agents(agents, asked, "Send a reminder letter", 5)
    assert [one.name for one in chosen] == ["other_0", "other_1", "score_agency", "register", "letters"]
    assert select_agents(agents, asked, "Send a reminder letter", 5) == chosen
    assert [one.name for one in select_agents(agents, asked, "Send a letter", 2)] == ["score_agency", "register"]
    assert select_agents(agents, asked, "", None) == agents
    assert len(select_agents(agents, Context(1, ()), "", 60)) == 60
