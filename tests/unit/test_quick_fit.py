"""What is seen at a glance to fit its schema: never what the full validator would refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from orchestrator import schemas
from orchestrator.domain.quick_fit import quick_fit

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 12) | st.sampled_from([0.5, 1.0, 2.5]) | st.text("ab 1", max_size=4)
)
VALUES = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abcd"), part, max_size=3)
)
NAMES = ["null", "boolean", "integer", "number", "string", "array", "object"]
BOUNDS = {
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), st.integers(0, 3)
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), st.integers(-2, 5)),
    "type": st.sampled_from(NAMES) | st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    "enum": st.lists(SCALARS, min_size=1, max_size=3),
    "required": st.lists(st.sampled_from("abcd"), max_size=2, unique=True),
    "pattern": st.sampled_from(["a", "^b", r"\S", "1$"]),
}
FLAT = st.fixed_dictionaries({}, optional=BOUNDS)
SCHEMAS = st.recursive(
    FLAT | st.booleans(),
    lambda part: st.fixed_dictionaries(
        {},
        optional={
            **BOUNDS,
            "properties": st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
            "items": part,
            "additionalProperties": part,
            "propertyNames": part,
            "not": part,
        },
    ),
    max_leaves=6,
)


@given(SCHEMAS, VALUES)
def test_what_fits_at_a_glance_fits(schema: Any, value: Any) -> None:
    fits = quick_fit(schema)
    if fits is not None and fits(value):
        assert Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("unknown", [{"not": {}}, {"$ref": "#"}, {"patternProperties": {}}, False])
def test_other_keywords_are_left_to_the_full_validator(unknown: Any) -> None:
    assert quick_fit(unknown) is None
    assert quick_fit({"properties": {"a": unknown}}) is None


def test_messages_are_seen_at_a_glance() -> None:
    message = {"task_id": "t-1", "task_description": "Do it", "required_fields": ["a"], "event_data": {"b": 1}}
    fits = quick_fit(schemas.schema("task"))
    assert fits is not None
    assert fits(message)
    assert fits(message | {"schema_version": 1, "priority": 9, "on_failure": "undo"})
    assert not fits({"task_id": "t-1"})
