"""docs/settings.md says what settings.py has. Written anew by ``python -m tests.unit.test_settings_docs``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.settings import Settings
from orchestrator.settings_retention import RetentionSettings
from orchestrator.settings_turns import TurnSettings

DOC = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
PARTS = (Settings, TurnSettings, RetentionSettings)
REWRITE = "python -m tests.unit.test_settings_docs"

INTRO = """\
# Settings

All processes (bridge, worker, beat, Flower, command line) read the same settings, once, when they start. What is wrong
or missing is said by name, and the process does not start.

- A setting comes from the environment, else from `<NAME>_FILE`, else from `.env` in the folder that the process is
  started in, else it has its default. An empty value counts as not set.
- **`<NAME>_FILE`** names a file whose content, less the line break at its end, is the value. It works for every
  setting; it is meant for secrets that Docker or Kubernetes mount.
- *secret* marks what is never shown: not in logs, errors, Flower, or `--json`.
- Lengths of time are in seconds, and may have fractions. Switches take `1` or `0`, `true` or `false`.
- Agents may name further variables for their own secrets and addresses (`auth: {env: …}` and `${…}` in agents.yaml);
  these are looked up the same way, `_FILE` included.

`orchestrator doctor` checks the settings and every server they name.

"""

HEADINGS = {
    "servers": "Servers",
    "kafka": "Kafka: security, topics, group",
    "planner": "Planner",
    "agents and events": "Agents and event types",
    "tasks": "Bounds of a task",
    "leases and recovery": "Leases and recovery",
    "turns": "Turns: ageing and tenants",
    "retention": "How long things are kept",
    "limits": "Limits of models and agents",
    "processes": "Processes, logs, Flower",
}


def document() -> str:
    """The whole of docs/settings.md."""
    return INTRO + "\n\n".join(_table(heading, fields) for heading, fields in _groups()) + "\n"


def _groups() -> Iterator[tuple[str, list[FieldInfo]]]:
    """The settings in the groups that the comments ``# -- name`` make, those of its parts at the end."""
    heading, fields = "", list[FieldInfo]()
    for line in "".join(map(inspect.getsource, PARTS)).splitlines():
        if comment := re.fullmatch(r"    # -- (.+)", line):
            if fields:
                yield heading, fields
            heading, fields = HEADINGS[comment[1].lower()], []
        elif (name := re.match(r"    (\w+): ", line)) and name[1] in Settings.model_fields:
            fields.append(Settings.model_fields[name[1]])
    yield heading, fields


def _table(heading: str, fields: list[FieldInfo]) -> str:
    rows = [f"## {heading}", "", "| setting | default | what |", "|---|---|---|"]
    rows += [f"| `{info.alias}` | {_default(info)} | {_what(info)} |" for info in fields]
    return "\n".join(rows)


def _default(info: FieldInfo) -> str:
    value: Any = info.default
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", {}, ()):
        return "–"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _what(info: FieldInfo) -> str:
    words = (info.description or "").replace("|", "\\|")
    kinds = _kinds(info.annotation)
    if SecretStr in kinds:
        words += " *secret*"
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        words += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    bounds = _bounds([*info.metadata, *(one for kind in kinds for one in getattr(kind, "__metadata__", ()))])
    return words + (f" ({bounds})" if bounds else "")


def _kinds(annotation: Any) -> list[Any]:
    if get_origin(annotation) in {Union, UnionType}:
        return [kind for kind in get_args(annotation) if kind is not NoneType]
    return [annotation]


def _bounds(metadata: list[Any]) -> str:
    signs = {Gt: ("more than", "gt"), Ge: ("at least", "ge"), Lt: ("less than", "lt"), Le: ("at most", "le")}
    found = [
        f"{words} {getattr(one, attribute)}"
        for one in metadata
        for kind, (words, attribute) in signs.items()
        if isinstance(one, kind)
    ]
    return ", ".join(found)


def test_the_document_is_true() -> None:
    assert DOC.read_text(encoding="utf-8") == document(), f"settings.py has changed: run `{REWRITE}`"


def test_every_setting_is_in_the_document() -> None:
    listed = set(re.findall(r"^\| `(\w+)`", document(), re.MULTILINE))
    assert listed == {str(info.alias) for info in Settings.model_fields.values()}


def test_every_setting_says_what_it_is() -> None:
    silent = [info.alias for info in Settings.model_fields.values() if not info.description]
    assert not silent


def test_the_example_file_names_settings_only() -> None:
    example = (DOC.parent.parent / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", example, re.MULTILINE))
    compose = (DOC.parent.parent / "docker-compose.yml").read_text(encoding="utf-8")
    unknown = {one for one in named if one not in {str(info.alias) for info in Settings.model_fields.values()}}
    assert {one for one in unknown if f"${{{one}" not in compose} == set()


if __name__ == "__main__":
    DOC.write_text(document(), encoding="utf-8")
