"""An agent's input schema as a model is shown it: whole where it is structure, and data where it is prose. Pure.

Descriptions are quoted and cut, other prose is left out, and the whole has a bound. What a model is not shown still
holds: its answer is checked against the schema as it stands in agents.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.llm.data_text import as_json, cut, visible

SCHEMA_CHARS = 8_000
_DESCRIPTION_CHARS = 300
_VALUE_CHARS = 200
_VALUES = 100
_NAME_CHARS = 100

_PROSE = frozenset({"$comment", "$id", "$schema", "deprecated", "examples", "readOnly", "title", "writeOnly"})
_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose keys are names and whose values are schemas."""
_INSIDE = frozenset(
    {
        "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not", "oneOf",
        "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords whose value is a schema or a list of them."""


def as_data(text: str, room: int) -> str:
    """A text from outside in its delimiters, on one line."""
    return f"<data>{as_json(cut(' '.join(text.split()), room))}</data>"


def shown_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as a model may see it."""
    shown: dict[str, Any] = _shown(schema, prose=True)
    if len(as_json(shown)) > SCHEMA_CHARS:
        shown = _shown(schema, prose=False)
    if len(as_json(shown)) > SCHEMA_CHARS:
        shown = {"type": "object", "description": "Too large to be shown: give what the agent needs."}
    return shown


def _shown(schema: Any, *, prose: bool) -> Any:
    if isinstance(schema, list | tuple):
        return [_shown(item, prose=prose) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _PROSE:
            continue
        if key == "description":
            if prose and isinstance(value, str):
                kept[key] = as_data(value, _DESCRIPTION_CHARS)
        elif key in _BY_NAME and isinstance(value, Mapping):
            kept[key] = {name: _shown(inner, prose=prose) for name, inner in value.items() if _is_name(name)}
        elif key in _INSIDE:
            kept[key] = _shown(value, prose=prose)
        elif key == "required" and isinstance(value, list | tuple):
            kept[key] = [name for name in value if _is_name(name)]
        elif _is_small(value):
            kept[key] = value
    return kept


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and len(name) <= _NAME_CHARS and visible(name) == name


def _is_small(value: Any) -> bool:
    """Whether a keyword's value (``enum``, ``const``, ``pattern``, ``default``…) is no place for prose."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return len(values) <= _VALUES and all(len(as_json(one)) <= _VALUE_CHARS for one in values)
