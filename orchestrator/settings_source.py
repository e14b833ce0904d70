"""Where a setting's text comes from: the environment, a file that it names, or ``.env``. For `settings` only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from orchestrator.errors import ConfigurationError


def read_values(names: Iterable[str], environ: Mapping[str, str], dotenv: Path | None) -> dict[str, str]:
    """Values by setting name: environment, then ``…_FILE``, then ``.env``. Empty strings count as not set."""
    from_file = dotenv_values(dotenv) if dotenv is not None and dotenv.is_file() else {}
    values: dict[str, str] = {}
    for name in names:
        for source in (environ, from_file):
            if source.get(name):
                values[name] = str(source[name])
                break
            if path := source.get(f"{name}_FILE"):
                values[name] = file_value(name, Path(str(path)))
                break
    return values


def file_value(name: str, path: Path) -> str:
    """The content of the file that ``<name>_FILE`` names, less the line break at its end.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{name}_FILE names {path}, which cannot be read: {error}",
            hint=f"Give {name} itself, or a file that this user may read.",
        ) from error


def problem_text(item: Any) -> str:
    """One of pydantic's errors in our words."""
    where = ".".join(str(part) for part in item["loc"])
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{where} is not set"
    return f"{where}: {text}" if where else text
