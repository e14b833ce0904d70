"""Seeing at a glance that a value fits its JSON Schema: for nearly all values, in a few microseconds.

What is built here only ever says that a value fits. Where it does not say so, or a schema has a keyword that is not
known here, the full validator decides and finds the words (`orchestrator.domain.json_schema`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

Fits = Callable[[Any], bool]

_SAYS_NOTHING = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "examples", "default", "format", "deprecated", "readOnly"}
)
"""Keywords by which nothing is refused (formats are not asserted)."""

_SCALARS = frozenset({type(None), bool, int, float, str})

_TYPES: Mapping[str, Fits] = {
    "null": lambda value: value is None,
    "boolean": lambda value: value is True or value is False,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) is int or type(value) is float,
    "string": lambda value: type(value) is str,
    "array": lambda value: type(value) is list,
    "object": lambda value: type(value) is dict,
}


def quick_fit(schema: Any) -> Fits | None:
    """A function that tells of values that surely fit; None for a schema with other keywords than the usual ones."""
    if schema is True:
        return lambda _: True
    if not isinstance(schema, Mapping):
        return None
    checks: list[Fits] = []
    for keyword, wanted in schema.items():
        if keyword in _SAYS_NOTHING:
            continue
        build = _KEYWORDS.get(keyword)
        check = None if build is None else build(wanted, schema)
        if check is None:
            return None
        checks.append(check)
    if len(checks) == 1:
        return checks[0]

    def fits(value: Any) -> bool:
        # A loop, here and below: a generator for `all` costs more than most checks.
        for check in checks:  # noqa: SIM110
            if not check(value):
                return False
        return True

    return fits


def _type(wanted: Any, _: Any) -> Fits | None:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, list | tuple) or not all(name in _TYPES for name in names):
        return None
    kinds = [_TYPES[name] for name in names]
    if len(kinds) == 1:
        return kinds[0]

    def fits(value: Any) -> bool:
        for kind in kinds:  # noqa: SIM110
            if kind(value):
                return True
        return False

    return fits


def _enum(wanted: Any, _: Any) -> Fits | None:
    if not isinstance(wanted, list):
        return None
    # Of the same type: what 1, 1.0 and true are to one another is for the full validator to say.
    return lambda value: type(value) in _SCALARS and any(type(one) is type(value) and one == value for one in wanted)


def _required(wanted: Any, _: Any) -> Fits | None:
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        return None
    names = frozenset(wanted)
    return lambda value: type(value) is not dict or names <= value.keys()


def _properties(wanted: Any, _: Any) -> Fits | None:
    if not isinstance(wanted, Mapping):
        return None
    parts: dict[str, Fits] = {}
    for name, schema in wanted.items():
        if (part := quick_fit(schema)) is None:
            return None
        parts[name] = part

    def fits(value: Any) -> bool:
        if type(value) is dict:
            for name, one in value.items():
                if name in parts and not parts[name](one):
                    return False
        return True

    return fits


def _additional(wanted: Any, schema: Mapping[str, Any]) -> Fits | None:
    listed = schema.get("properties", {})
    if wanted is False:
        return lambda value: type(value) is not dict or all(name in listed for name in value)
    if (part := quick_fit(wanted)) is None:
        return None
    return lambda value: type(value) is not dict or all(part(one) for name, one in value.items() if name not in listed)


def _names(wanted: Any, _: Any) -> Fits | None:
    if (part := quick_fit(wanted)) is None:
        return None
    return lambda value: type(value) is not dict or all(part(name) for name in value)


def _items(wanted: Any, schema: Mapping[str, Any]) -> Fits | None:
    if "prefixItems" in schema or (part := quick_fit(wanted)) is None:
        return None

    def fits(value: Any) -> bool:
        if type(value) is list:
            for one in value:
                if not part(one):
                    return False
        return True

    return fits


def _pattern(wanted: Any, _: Any) -> Fits | None:
    if not isinstance(wanted, str):
        return None
    found = re.compile(wanted).search
    return lambda value: type(value) is not str or found(value) is not None


def _size(kind: type[Sized], fits: Callable[[int, Any], bool]) -> Callable[[Any, Any], Fits | None]:
    def build(wanted: Any, _: Any) -> Fits | None:
        if type(wanted) is not int:
            return None
        return lambda value: not isinstance(value, kind) or fits(len(value), wanted)

    return build


def _bound(fits: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Fits | None]:
    def build(wanted: Any, _: Any) -> Fits | None:
        if type(wanted) not in {int, float}:
            return None
        return lambda value: type(value) not in {int, float} or fits(value, wanted)

    return build


_KEYWORDS: Mapping[str, Callable[[Any, Mapping[str, Any]], Fits | None]] = {
    "type": _type,
    "enum": _enum,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "items": _items,
    "pattern": _pattern,
    "minLength": _size(str, lambda size, least: size >= least),
    "maxLength": _size(str, lambda size, most: size <= most),
    "minItems": _size(list, lambda size, least: size >= least),
    "maxItems": _size(list, lambda size, most: size <= most),
    "minProperties": _size(dict, lambda size, least: size >= least),
    "maxProperties": _size(dict, lambda size, most: size <= most),
    "minimum": _bound(lambda value, least: value >= least),
    "maximum": _bound(lambda value, most: value <= most),
    "exclusiveMinimum": _bound(lambda value, least: value > least),
    "exclusiveMaximum": _bound(lambda value, most: value < most),
}
