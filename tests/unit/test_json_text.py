"""The quick way to write JSON says what the standard library says, and refuses what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.json_text import json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_reads_as_the_same_value(value: Any) -> None:
    read = json.loads(json_text(value))
    assert read == value
    assert repr(read) == repr(json.loads(json.dumps(value)))  # 1, 1.0 and true are not the same


def test_what_is_too_large_for_the_quick_way_is_written_all_the_same() -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    assert json.loads(json_text({"deep": deep, "long": 10**300})) == {"deep": deep, "long": 10**300}


@dataclass
class Thing:
    """No JSON."""

    name: str


@pytest.mark.parametrize("value", [datetime(2031, 1, 1, tzinfo=UTC), Thing("x"), {1, 2}, b"x"])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        json_text({"value": value})


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        json_text({"text": "\ud800"})
