"""Reading a YAML file that people write: one list of entries, with every problem named at once.

Shared by agents.yaml and events.yaml. Keys that appear twice are refused: YAML would silently keep the last.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema_specifications import REGISTRY as KNOWN_SCHEMAS  # type: ignore[import-untyped]  # it ships no types
from pydantic import BaseModel, ValidationError
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from orchestrator.errors import ConfigurationError
from orchestrator.settings import environment_value

Model = TypeVar("Model", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class FileProblem(ValueError):
    """The file cannot be used as a whole; the message says why, without its path."""


_MERGE = "tag:yaml.org,2002:merge"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Safe YAML with keys that are texts and unique, and dates that stay texts: what JSON can say."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise FileProblem(f"the key {key!r} is no text; put it in quotes (line {line})")
        if key in seen:
            raise FileProblem(f"the key {key!r} appears twice in one place (line {line})")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_entries(path: Path, top: str) -> list[dict[str, Any]]:
    """The entries under the top-level key ``top``, each a mapping.

    Raises:
        FileProblem: the file is missing, unreadable, no YAML, or not of this form.
    """
    document = read_document(path)
    if document is None:
        return []
    if not isinstance(document, dict) or set(document) - {top}:
        raise FileProblem(f"its top level must be the one key `{top}:`")
    return entries_of(document, top)


def entries_of(document: Mapping[str, Any], top: str) -> list[dict[str, Any]]:
    """The entries under one of a document's keys, each a mapping. Raises `FileProblem`."""
    entries = document.get(top) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FileProblem(f"`{top}:` must be a list of entries, each with its keys")
    return entries


def read_document(path: Path) -> Any:
    """A YAML file as JSON could hold it, with keys that are texts and unique.

    Raises:
        FileProblem: the file is missing, unreadable, or no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileProblem("there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"it cannot be read: {error}") from error
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with unique keys
        json.dumps(document, allow_nan=False)
    except FileProblem:
        raise
    except yaml.YAMLError as error:
        raise FileProblem(f"it is no YAML: {_one_line(error)}") from error
    except (TypeError, ValueError) as error:
        raise FileProblem(f"it holds a value that JSON does not have: {error}") from error
    except RecursionError:
        raise FileProblem("it is nested too deeply") from None
    return document


def name_of(entry: Mapping[str, Any], position: int) -> str:
    """How problems name an entry: by its name, else by its place from 1."""
    name = entry.get("name")
    return repr(name) if isinstance(name, str) and name else f"number {position}"


def validate(model: type[Model], entry: Mapping[str, Any]) -> tuple[Model | None, list[str]]:
    """The entry as a model, or what is wrong with it; unknown keys get a hint to the nearest known one."""
    try:
        return model.model_validate(entry), []
    except ValidationError as error:
        return None, [_problem(model, item) for item in error.errors(include_url=False)]


def expand(text: str) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}`` by settings' values.

    Raises:
        ValueError: a name without default is not set.
    """

    def value(found: re.Match[str]) -> str:
        name, default = found.group(1), found.group(2)
        try:
            known = environment_value(name)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        if known is None and default is None:
            raise ValueError(f"${{{name}}} is not set in the environment or .env")
        return known if known is not None else str(default)

    expanded = _VARIABLE.sub(value, text)
    if "${" in expanded:
        raise ValueError(f"{text!r} has a ${{ that is no ${{NAME}} or ${{NAME:-default}}")
    return expanded


def schema_defect(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a JSON Schema itself (Draft 2020-12), as one sentence; None if nothing."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = "".join(f"/{part}" for part in error.absolute_path)
        return f"{error.message[:200]} (at {place or 'the top'})"
    return _dangling(schema)


def _dangling(schema: Mapping[str, Any]) -> str | None:
    """A ``$ref`` to nothing, or to an address: found here rather than when the first reply is checked."""
    whole: Resource[Any] = DRAFT202012.create_resource(schema)
    waiting = [(whole, KNOWN_SCHEMAS.resolver_with_root(whole))]
    while waiting:
        resource, resolver = waiting.pop()
        for keyword in ("$ref", "$dynamicRef"):
            reference = resource.contents.get(keyword) if isinstance(resource.contents, Mapping) else None
            try:
                if isinstance(reference, str):
                    resolver.lookup(reference)
            except (Unresolvable, ValueError):
                return f"{keyword} {reference!r} leads nowhere in this schema; other files are not read"
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]
    return None


def report(path: Path, problems: Sequence[str]) -> str:
    """All problems of a file as one message."""
    if len(problems) == 1:
        return f"{path}: {problems[0]}"
    return f"{path} has {len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems)


def _problem(model: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_nearest(model, item['loc'])}"
    text = item["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _nearest(model: type[BaseModel], location: Sequence[Any]) -> str:
    known: list[str] = list(model.model_fields)
    for part in location[:-1]:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        inner = next((one for one in getattr(inner, "__args__", (inner,)) if isinstance(one, type)), None)
        if inner is not None and issubclass(inner, BaseModel):
            model, known = inner, list(inner.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
