"""Checking JSON values against JSON Schemas (Draft 2020-12), with compiled validators kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from orchestrator.domain.by_identity import ByIdentity
from orchestrator.domain.ids import canonical_json
from orchestrator.domain.quick_fit import Fits, quick_fit


@lru_cache(maxsize=1024)
def _validator(schema_text: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema_text))


_validators = ByIdentity[tuple[Draft202012Validator, Fits | None]](most=4096)
"""Without a canonical dump on every call."""


def _validator_of(schema: Mapping[str, Any]) -> tuple[Draft202012Validator, Fits | None]:
    return _validators.of((schema,), lambda: (_validator(canonical_json(schema)), quick_fit(schema)))


def schema_problem(schema: Mapping[str, Any], value: Any) -> str | None:
    """What is wrong with ``value`` under ``schema``, as one sentence that ends with the place; None if it fits."""
    validator, fits = _validator_of(schema)
    if fits is not None and fits(value):
        return None
    return _problem(validator, value)


def passing_schema_problem(schema: Mapping[str, Any], value: Any) -> str | None:
    """The same under a schema that came with data and does not live as long as this process."""
    return _problem(_validator(canonical_json(schema)), value)


def _problem(validator: Draft202012Validator, value: Any) -> str | None:
    error = best_match(validator.iter_errors(value))
    if error is None:
        return None
    place = "".join(f"/{part}" for part in error.absolute_path)
    return f"{error.message[:500]} (at {place or 'the top'})"
