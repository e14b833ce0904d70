"""What PostgreSQL can keep of JSON values and of texts, which is less than what Python can hold. Pure."""

from __future__ import annotations

import math
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
