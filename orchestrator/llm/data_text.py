"""Data as the model is shown it: JSON in delimited sections that it can neither close, nor outgrow, nor hide in. Pure.

Used for every text from outside, wherever it stands: events, replies, field names, agents' and event types' entries.
JSON's own escapes take the place of ``<``, ``>`` and ``&``, and of characters that hide or reorder text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_LIMITS = ((20_000, 400), (5_000, 150), (1_500, 60), (400, 25), (120, 10), (40, 4))
"""How long a text and how many items may be, tried in turn until a section fits."""

_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")
"""Delimiters, and characters that hide or reorder text."""


def section(name: str, value: Any, room: int) -> str:
    """A section with the value as JSON of at most about ``room`` characters."""
    return wrap(name, fit(value, room))


def wrap(name: str, text: str) -> str:
    """Escaped JSON between the delimiters."""
    return f'<data name="{name}">\n{text}\n</data>'


def fit(value: Any, room: int) -> str:
    """The value as JSON of at most about ``room`` characters, cut where it must be."""
    text = as_json(value)
    for characters, items in _LIMITS:
        if len(text) <= room:
            return text
        text = as_json(_shorten(value, characters, items))
    if len(text) <= room:
        return text
    # Deeply nested: half of the room, since escaping the cut JSON as a text may double it.
    return as_json(cut(json.dumps(value, ensure_ascii=False, default=str), room // 2))


def as_json(value: Any) -> str:
    """The value as JSON in which nothing is a delimiter and nothing hides."""
    return _UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, default=str))


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    if "\ud800" <= character <= "\udfff":
        return "\\ufffd"  # half a character cannot be sent as UTF-8
    return json.dumps(character)[1:-1] if ord(character) > 0x7E else f"\\u{ord(character):04x}"


def _shorten(value: Any, characters: int, items: int) -> Any:
    if isinstance(value, str):
        return cut(value, characters)
    if isinstance(value, Mapping):
        kept = {
            cut(str(key), characters): _shorten(item, characters, items) for key, item in list(value.items())[:items]
        }
        return kept | ({"…": f"{len(value) - items} keys more"} if len(value) > items else {})
    if isinstance(value, list | tuple):
        shortened = [_shorten(item, characters, items) for item in value[:items]]
        return shortened + ([f"… {len(value) - items} items more"] if len(value) > items else [])
    if isinstance(value, int | float) and not isinstance(value, bool) and len(str(value)) > characters:
        return cut(str(value), characters)
    return value


def cut(text: str, characters: int) -> str:
    """The text with a mark where it is longer."""
    return text if len(text) <= characters else f"{text[:characters]}… [{len(text) - characters} characters more]"
