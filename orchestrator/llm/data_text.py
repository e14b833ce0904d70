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

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Characters that hide or reorder text: as the inside of a character class."""

_LOOK_ALIKE = (
    "\u02c2\u02c3\u1433\u1438\u2039\u203a\u2329\u232a\u276c-\u2771\u27e8\u27e9\u3008\u3009"
    "\ufe60\ufe64\ufe65\uff06\uff1c\uff1e"
)
"""What passes for a delimiter in a reader's eyes."""

_UNSAFE = re.compile(f"[<>&\x7f-\x9f\ud800-\udfff{INVISIBLE}{_LOOK_ALIKE}]")

_HIDING = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{INVISIBLE}]")


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


def visible(text: str) -> str:
    """The text without characters that hide or reorder what is read."""
    return _HIDING.sub("", text)


def cut(text: str, characters: int) -> str:
    """The text with a mark where it is longer."""
    return text if len(text) <= characters else f"{text[:characters]}… [{len(text) - characters} characters more]"
