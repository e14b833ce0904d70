"""Whatever bytes come, decoding answers; what it accepts is what was sent."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import strict_json
from bridge.strict_json import Unkeepable
from orchestrator.domain.ids import canonical_json
from orchestrator.domain.message import EventMessage, Record, TaskMessage
from orchestrator.flow.ports import Invalid
from tests.support.kafka import decoder, record

REASONS = {
    *("empty", "too_large", "not_utf8", "not_json", "duplicate_keys", "too_deep", "number_out_of_range", "bad_text"),
    *("not_an_object", "wrong_shape", "bad_task_id", "event_schema"),
}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
numbers = st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
any_text = st.text(st.characters())  # lone surrogates and NUL included
any_values = st.recursive(
    st.none() | st.booleans() | numbers | any_text | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    *("schema_version", "task_id", "task_description", "required_fields", "event_data", "message_id", "priority"),
    *("tenant", "deadline", "budget", "allowed_agents", "on_failure", "event_type", "else"),
]
topics = st.sampled_from(["tasks", "events"])


def answered(item: Record) -> TaskMessage | EventMessage | Invalid:
    answer = decoder(max_bytes=2_000, max_depth=10).decode(item)
    if isinstance(answer, Invalid):
        assert answer.reason in REASONS
        assert answer.detail
        # The detail is kept in PostgreSQL and shown to people.
        assert "\0" not in answer.detail
        answer.detail.encode()
    else:
        assert isinstance(answer, TaskMessage if item.topic == "tasks" else EventMessage)
        canonical_json(answer.extra).encode()
    return answer


@given(st.binary(max_size=2_100), topics, st.lists(st.tuples(any_text, st.binary(max_size=300)), max_size=3))
def test_never_raises_on_bytes(value: bytes, topic: str, headers: list[tuple[str, bytes]]) -> None:
    answered(record(value, topic=topic, headers=tuple(headers)))


@given(
    st.dictionaries(st.sampled_from(FIELDS), any_values),
    topics,
    st.lists(st.tuples(st.just("message_id"), st.binary(max_size=300)), max_size=1),
)
@settings(max_examples=300)
def test_never_raises_on_messages_of_any_shape(
    body: dict[str, Any], topic: str, headers: list[tuple[str, bytes]]
) -> None:
    answered(record(json.dumps(body).encode(), topic=topic, headers=tuple(headers)))


@given(st.text(alphabet='[]{}":,0123456789eE+-.\\u d8nultrfas', max_size=200), topics)
def test_never_raises_on_what_looks_like_json(text: str, topic: str) -> None:
    answered(record(text.encode(), topic=topic))


@given(values)
def test_what_is_parsed_is_what_was_sent(value: Any) -> None:
    parsed = strict_json.loads(json.dumps(value).encode(), max_depth=200)
    assert parsed == value
    assert strict_json.loads(canonical_json(parsed).encode(), max_depth=200) == parsed


@given(any_values)
def test_what_is_parsed_can_be_kept(value: Any) -> None:
    try:
        parsed = strict_json.loads(json.dumps(value).encode(), max_depth=200)
    except Unkeepable:
        return
    kept = canonical_json(parsed)
    kept.encode()
    assert "\\u0000" not in kept.replace("\\\\", "")
    assert not any(isinstance(number, float) and not math.isfinite(number) for number in _leaves(parsed))


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=200),
    texts.filter(str.strip),
    st.lists(texts.filter(lambda text: 0 < len(text) <= 200), max_size=5, unique=True),
    st.dictionaries(texts, values, max_size=4),
    st.integers(0, 9),
)
def test_a_valid_task_comes_through_unchanged(
    task_id: str, description: str, required: list[str], event_data: dict[str, Any], priority: int
) -> None:
    body = {
        "task_id": task_id,
        "task_description": description,
        "required_fields": required,
        "event_data": event_data,
        "priority": priority,
    }
    message = decoder(max_bytes=10**6, max_depth=200).decode(record(body))
    assert message == TaskMessage(task_id, description, tuple(required), event_data, priority=priority)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
