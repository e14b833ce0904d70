"""JSON Schemas of required fields, which come with a task's message: what they may be, and whether a value fits. Pure.

A schema comes from outside, so it is bounded: its size, its depth, no reference out of itself, and only patterns that
no text can keep Python busy with.
"""

from __future__ import annotations

import re._constants as regex  # type: ignore[import-not-found]  # not in the stubs; the one parser that Python has
import re._parser as regex_parser  # type: ignore[import-not-found]  # the same
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from orchestrator.domain.ids import canonical_json
from orchestrator.domain.json_schema import passing_schema_problem

MAX_SCHEMA_CHARS = 20_000
MAX_DEPTH = 20
MAX_PATTERN_CHARS = 200
MATCHED_CHARS = 256
"""A text longer than this fits no schema with a pattern: matching it could take long."""

_MANY = 16
_MOST_REPEATS = 3


def schema_flaw(schema: Any) -> str | None:
    """Why this is no schema that a field may have; None: it is one."""
    if not isinstance(schema, Mapping):
        return "a schema must be an object"
    if _depth(schema) > MAX_DEPTH:
        return f"the schema is nested deeper than {MAX_DEPTH}"
    if len(canonical_json(schema)) > MAX_SCHEMA_CHARS:
        return f"the schema has more than {MAX_SCHEMA_CHARS:,} characters"
    for key, value in _keywords(schema):
        if key in {"$ref", "$dynamicRef", "$recursiveRef"} and not str(value).startswith("#"):
            return f"the schema refers to {str(value)[:80]!r}: only references within itself (#…) are followed"
        if key == "$id":
            return "the schema has an $id, which is not needed"
        patterns = value if key == "patternProperties" and isinstance(value, Mapping) else [value]
        if key in {"pattern", "patternProperties"}:
            for pattern in patterns:
                if flaw := _pattern_flaw(pattern):
                    return f"the pattern {str(pattern)[:80]!r} {flaw}"
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        return f"this is no JSON Schema: {error.message[:200]}"
    return None


def field_problem(schema: Mapping[str, Any], value: Any) -> str | None:
    """What is wrong with a value under its field's schema, as one sentence; None: it fits."""
    if any(key in {"pattern", "patternProperties"} for key, _ in _keywords(schema)) and _longest(value) > MATCHED_CHARS:
        return f"a text of more than {MATCHED_CHARS} characters is not matched against a pattern"
    try:
        return passing_schema_problem(schema, value)
    except RecursionError:
        return "the schema refers to itself without end"
    except Exception as error:  # noqa: BLE001 - a reference to nothing within the schema shows only when it is followed
        return f"the schema cannot be applied: {type(error).__name__}"


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key, value
            yield from _keywords(value)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from _keywords(item)


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ())
        ]
    return deepest


def _longest(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return max((max(len(str(key)), _longest(item)) for key, item in value.items()), default=0)
    if isinstance(value, list | tuple):
        return max((_longest(item) for item in value), default=0)
    return 0


def _pattern_flaw(pattern: Any) -> str | None:
    if not isinstance(pattern, str):
        return "is no text"
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"has more than {MAX_PATTERN_CHARS} characters"
    try:
        parsed = regex_parser.parse(pattern)
    except (regex_parser.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    repeats = list(_repeats(parsed, inside=False))
    if any(repeats):
        return "repeats something that repeats, or refers back: it could take for ever"
    if len(repeats) > _MOST_REPEATS:
        return f"has more than {_MOST_REPEATS} repeats that may be long"
    return None


def _repeats(parsed: Any, *, inside: bool) -> Iterator[bool]:
    """Each repeat that may be long; True for one inside another, or a reference back."""
    for operation, argument in parsed:
        if operation in {regex.MAX_REPEAT, regex.MIN_REPEAT, regex.POSSESSIVE_REPEAT}:
            _, most, inner = argument
            long = most > _MANY
            if long or inside:
                yield inside
            yield from _repeats(inner, inside=inside or most > 1)
        elif operation is regex.GROUPREF or operation is regex.GROUPREF_EXISTS:
            yield True
        elif operation is regex.SUBPATTERN:
            yield from _repeats(argument[-1], inside=inside)
        elif operation is regex.BRANCH:
            for branch in argument[1]:
                yield from _repeats(branch, inside=inside)
        elif operation in {regex.ASSERT, regex.ASSERT_NOT}:
            yield from _repeats(argument[1], inside=inside)
        elif operation is regex.ATOMIC_GROUP:
            yield from _repeats(argument, inside=inside)
