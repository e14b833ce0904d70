"""Reading values from the command line: `name=value` pairs, JSON documents and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.cli.failures import Misuse
from orchestrator.domain.keepable import unkeepable

_RESOURCES = ("steps", "delegations", "tokens", "money", "seconds")


def parse_value(text: str) -> Any:
    """A value as typed: JSON where it is JSON (``5``, ``true``, ``{"a": 1}``, ``"5"``), else the text itself."""
    try:
        return strict_json(text)
    except ValueError:
        return text


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs as a mapping.

    Raises:
        Misuse: a pair has no name or no ``=``, a name is given twice, or a value cannot be kept.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Misuse(f"{option} {pair!r} is not name=value", hint=f"Write {option} company_name=Northwind.")
        if name in values:
            raise Misuse(f"{option} names {name!r} twice", hint="Give each name once.")
        values[name] = _keepable(f"{option} {name}", parse_value(text))
    return values


def parse_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object given as text.

    Raises:
        Misuse: the text is no JSON object, or it cannot be kept.
    """
    try:
        value = strict_json(text)
    except ValueError as error:
        raise Misuse(f"{option} is not JSON: {error}", hint=f'Write {option} \'{{"name": "value"}}\'.') from error
    if not isinstance(value, dict):
        raise Misuse(f"{option} must be a JSON object, this is {_kind(value)}")
    return dict(_keepable(option, value))


def parse_amounts(option: str, pairs: Sequence[str]) -> dict[str, int | float]:
    """``resource=amount`` pairs of a budget.

    Raises:
        Misuse: no such resource, or the amount is no number above 0; whole where only whole amounts make sense.
    """
    amounts: dict[str, int | float] = {}
    for name, value in parse_pairs(option, pairs).items():
        if name not in _RESOURCES:
            raise Misuse(f"{option}: there is no {name!r} in a budget", hint=f"There are: {', '.join(_RESOURCES)}.")
        whole = name not in {"money", "seconds"}
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
            raise Misuse(f"{option} {name}: {value!r} is no {'whole ' if whole else ''}number above 0")
        amounts[name] = value
    return amounts


def read_bytes(path: str) -> bytes:
    """The content of a file, or of standard input for ``-``.

    Raises:
        Misuse: the file cannot be read.
    """
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Misuse(f"{path} cannot be read: {error.strerror or error}") from error


def strict_json(text: str | bytes) -> Any:
    """Parse JSON as the bridge does: NaN and Infinity are no JSON, and a name may not stand twice in one object.

    Raises:
        ValueError: also for text nested too deeply or numbers too long to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_names)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _keepable(what: str, value: Any) -> Any:
    if flaw := unkeepable(value):
        raise Misuse(f"{what} {flaw}")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} stands twice in one object")
    return dict(pairs)


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
