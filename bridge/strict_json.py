"""JSON as we can keep it: stricter than Python's parser, because PostgreSQL's jsonb and the agents behind it are.

What passes here can be stored, compared, digested and sent on without loss or surprise. Pure; no idea of messages.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_DIGITS_OF_A_DOUBLE = 309
"""The largest double, 1.8e308, has this many."""


class Unkeepable(ValueError):
    """The text is not JSON that we can keep.

    Args:
        reason: ``not_utf8``, ``not_json``, ``duplicate_keys``, ``too_deep``, ``number_out_of_range`` or ``bad_text``.
        detail: the same for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def loads(raw: bytes, max_depth: int) -> Any:
    """Parse UTF-8 JSON; a byte order mark before it is passed over.

    Refuses NaN and Infinity, duplicate keys, nesting deeper than ``max_depth`` (an empty object is 1 deep), numbers
    beyond a double, and NUL or lone surrogates in any text.

    Raises:
        Unkeepable: saying which of these.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unkeepable("not_utf8", f"byte {error.start} is not UTF-8 ({error.reason})") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Unkeepable("not_json", f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Unkeepable("too_deep", f"objects and arrays are nested far deeper than {max_depth}") from None
    # Only an escape makes a NUL or half of a surrogate pair; the parser refuses both as they are.
    if "\\u" in text or text.count("{") + text.count("[") > max_depth:
        _check(value, max_depth)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Unkeepable("duplicate_keys", f"the key {_shown(key)} is there twice in one object")
            seen.add(key)
    return made


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS_OF_A_DOUBLE:
        raise Unkeepable("number_out_of_range", f"a number has {len(digits):,} digits; send such numbers as text")
    number = int(digits)
    try:
        float(number)
    except OverflowError:
        raise Unkeepable("number_out_of_range", f"the number {digits[:20]}… is beyond 1.8e308") from None
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Unkeepable("number_out_of_range", f"the number {_shown(digits)} is beyond 1.8e308")
    if number == 0 and digits.lower().partition("e")[0].strip("-0."):
        raise Unkeepable("number_out_of_range", f"the number {_shown(digits)} is too small to be told from 0")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise Unkeepable("not_json", f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant
)


def _check(value: Any, max_depth: int) -> None:
    """Depth and texts, without recursion of our own."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, dict | list):
            if depth > max_depth:
                raise Unkeepable("too_deep", f"objects and arrays are nested deeper than {max_depth}")
            if isinstance(item, dict):
                for key in item:
                    _check_text(key)
                item = item.values()
            waiting.extend((inner, depth + 1) for inner in item if isinstance(inner, str | dict | list))


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Unkeepable("bad_text", f"the text {_shown(text)} holds a NUL character, which PostgreSQL cannot keep")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unkeepable("bad_text", f"the text {_shown(text)} holds half of a surrogate pair") from None


def _shown(text: str) -> str:
    # As ASCII: the detail must itself be text that can be kept.
    quoted = json.dumps(text[:60])
    return quoted if len(text) <= 60 else f"{quoted}…"
