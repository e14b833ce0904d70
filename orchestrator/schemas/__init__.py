"""The envelopes that travel over Kafka, as published JSON Schemas (Draft 2020-12), and the check against them.

The files beside this module are the contract that producers and consumers build on (docs/messages.md); they are also
what is checked at run time, so that the two cannot drift apart. A change that breaks a reader is a new file and a new
``SCHEMA_VERSION``; a field more is neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from orchestrator.domain.quick_fit import Fits, quick_fit

Envelope = Literal["task", "event", "task-answer", "agent-reply", "task-update", "dead-letter"]
ENVELOPES: tuple[Envelope, ...] = get_args(Envelope)

SCHEMA_VERSION = 1

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def schema_text(envelope: Envelope) -> str:
    """The published file, for those who want to write it somewhere."""
    return files(__name__).joinpath(f"{envelope}.v{SCHEMA_VERSION}.schema.json").read_text(encoding="utf-8")


@cache
def schema(envelope: Envelope) -> Mapping[str, Any]:
    """The schema of an envelope; not to be changed."""
    loaded: dict[str, Any] = json.loads(schema_text(envelope))
    return loaded


@cache
def _validator(envelope: Envelope) -> Draft202012Validator:
    return Draft202012Validator(schema(envelope))


@cache
def _quick_fit(envelope: Envelope) -> Fits | None:
    return quick_fit(schema(envelope))


@cache
def known_fields(envelope: Envelope) -> frozenset[str]:
    """The fields that the schema lists; others are kept as they are."""
    return frozenset(schema(envelope)["properties"])


def problem(envelope: Envelope, value: Any) -> str | None:
    """What is wrong with ``value``: the place (a JSON pointer), what was expected, what was found. None: it fits."""
    fits = _quick_fit(envelope)
    if fits is not None and fits(value):
        return None
    validator = _validator(envelope)
    if validator.is_valid(value):
        return None
    error = best_match(validator.iter_errors(value))
    return None if error is None else _complaint(error)


def _complaint(error: ValidationError) -> str:
    place = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)
    return f"{place or 'the message'} {_expectation(error)}"


def _expectation(error: ValidationError) -> str:
    # The library's own sentences begin with the offending value, however long it is, and so may lose their point.
    wanted: Any = error.validator_value
    found: Any = error.instance
    match error.validator:
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else list(wanted)
            return f"must be of type {' or '.join(kinds)}, but is {_kind(found)}"
        case "required":
            missing = [name for name in wanted if name not in found]
            return f"must have the field {' and '.join(missing)}"
        case "enum":
            return f"must be one of {json.dumps(wanted)}, but is {_shown(found)}"
        case "const":
            return f"must be {json.dumps(wanted)}, but is {_shown(found)}"
        case "minLength":
            return f"must have at least {wanted} characters, but has {len(found)}"
        case "maxLength":
            return f"must have at most {wanted} characters, but has {len(found)}"
        case "maxItems":
            return f"must have at most {wanted} entries, but has {len(found)}"
        case "minimum":
            return f"must be at least {wanted}, but is {_shown(found)}"
        case "maximum":
            return f"must be at most {wanted}, but is {_shown(found)}"
        case "pattern" if wanted == r"\S":
            return "must not be blank"
    return error.message[:300]


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
