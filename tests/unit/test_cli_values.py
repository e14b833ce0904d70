"""Values as they are typed at the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.failures import Misuse
from orchestrator.cli.values import parse_object, parse_pairs, parse_value, read_bytes, strict_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Northwind Bearings GmbH", "Northwind Bearings GmbH"),
        ("80", 80),
        ("80.5", 80.5),
        ('"80"', "80"),
        ("true", True),
        ("null", None),
        ('{"approved_by": "M. Braun"}', {"approved_by": "M. Braun"}),
        ("[1, 2]", [1, 2]),
        ("", ""),
        ("{not json", "{not json"),
        ("0123", "0123"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5_000, "9" * 5_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_is_json_where_it_is_json_else_text(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_a_value_may_hold_the_sign_that_ends_its_name() -> None:
    assert parse_pairs("--data", ["url=https://a.example/?q=1", "empty="]) == {
        "url": "https://a.example/?q=1",
        "empty": "",
    }


@pytest.mark.parametrize("pairs", [["name"], ["=value"], ["a=1", "a=2"]])
def test_what_is_no_pair_is_refused_by_name(pairs: list[str]) -> None:
    with pytest.raises(Misuse, match="--data"):
        parse_pairs("--data", pairs)


@pytest.mark.parametrize("text", [r'"\u0000"', r'{"a": ["\ud800"]}', "1e999"])
def test_what_postgresql_cannot_keep_is_refused_before_it_is_sent(text: str) -> None:
    with pytest.raises(Misuse, match="--set name holds"):
        parse_pairs("--set", [f"name={text}"])
    with pytest.raises(Misuse, match="--data-json holds"):
        parse_object("--data-json", f'{{"name": {text}}}')


@pytest.mark.parametrize("text", ["[1]", '"text"', "5", "null", "{"])
def test_only_an_object_is_an_object(text: str) -> None:
    with pytest.raises(Misuse, match="--data-json"):
        parse_object("--data-json", text)


def test_strict_json_takes_bytes() -> None:
    assert strict_json('{"ü": [1]}'.encode()) == {"ü": [1]}


@pytest.mark.parametrize("raw", [b"\xff\xfe{", b"NaN", b'{"a":1,"a":2}', b"[" * 100_000])
def test_strict_json_raises_value_error_only(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json(raw)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"nothing\.json cannot be read"):
        read_bytes(str(tmp_path / "nothing.json"))


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"\x00\xff")
    assert read_bytes(str(tmp_path / "record")) == b"\x00\xff"
