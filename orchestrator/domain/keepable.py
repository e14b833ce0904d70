"""What PostgreSQL can keep of JSON values and of texts, which is less than what Python can hold. Pure."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

DEEPEST = 100
"""Levels: deeper values are refused, before anything that recurses sees them."""


def unkeepable(value: Any, deepest: int = DEEPEST) -> str | None:
    """Why a value cannot be kept as ``jsonb``, as the end of a sentence; None: it can."""
    if deepest < 0:
        return "is nested too deeply"
    match value:
        case str():
            if "\x00" in value or _has_lone_surrogate(value):
                return "holds NUL characters or half surrogate pairs, which PostgreSQL cannot keep"
        case float():
            if not math.isfinite(value):
                return "holds a number beyond all bounds"
        case dict():
            for name, item in value.items():
                if flaw := unkeepable(name, deepest) or unkeepable(item, deepest - 1):
                    return flaw
        case list() | tuple():
            for item in value:
                if flaw := unkeepable(item, deepest - 1):
                    return flaw
    return None


def kept(value: Any) -> Any:
    """A value of JSON as it comes back out of ``jsonb``, which keeps numbers by value and sorts the keys of objects.

    What is read from the journal later, by another worker or for an explanation, is then the same to the letter.
    """
    match value:
        case float() if value.is_integer() and (value == 0 or abs(value) >= _WHOLE):
            # By its shortest digits, as it is written.
            return 0.0 if value == 0 else int(Decimal(repr(value)))
        case dict():
            return {name: kept(value[name]) for name in sorted(value, key=_place_of_key)}
        case list() | tuple():
            return [kept(item) for item in value]
    return value


_WHOLE = 1e16
"""From here on a float is written with an exponent, which PostgreSQL writes out as an integer."""


def _place_of_key(name: str) -> tuple[int, bytes]:
    encoded = name.encode("utf-8", "surrogatepass")
    return len(encoded), encoded


def keepable_text(text: str) -> str:
    """The text with a mark in place of each character that PostgreSQL cannot keep."""
    if "\x00" not in text and not _has_lone_surrogate(text):
        return text
    text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()  # many times faster than looking at each character of a long text
    except UnicodeEncodeError:
        return True
    return False
