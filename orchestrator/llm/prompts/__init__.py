"""The instructions of the prompt, one file a version. A published version is never changed: its digest is in a test.

A change of wording is a new file with the next number. The version before stays, so that tasks in flight can keep it.
Instructions of the user's own are asked with on trial only (simulations, judging prompts), never for a task.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from orchestrator.errors import ConfigurationError

VERSIONS = ("1", "2")
"""Those that can be asked with, oldest first."""
NEWEST = VERSIONS[-1]

_MOST_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Instructions:
    """A system message under the name that is kept with what was decided by it."""

    version: str
    text: str


def usable(version: str | None) -> str:
    """The version to ask with: the one that a task began with, where it is still there, else the newest."""
    return version if version in VERSIONS else NEWEST


@cache
def instructions(version: str) -> str:
    """The system message of a version."""
    return files(__name__).joinpath(f"v{version}.md").read_text(encoding="utf-8")


def read_instructions(name: str) -> Instructions:
    """A shipped version by its number, or the text of a file, whose version is its name with a digest.

    Raises:
        ConfigurationError: it is neither.
    """
    if name in VERSIONS:
        return Instructions(name, instructions(name))
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the prompt {name!r} cannot be read: {error}",
            hint=f"Name a text file with the instructions, or a version that ships: {', '.join(VERSIONS)}.",
        ) from error
    if not text.strip() or len(text) > _MOST_CHARS:
        raise ConfigurationError(
            f"the prompt {name!r} has {len(text):,} characters; it needs some, and at most {_MOST_CHARS:,}",
            hint="It holds the instructions alone: the task's data and the agents are added to it.",
        )
    return Instructions(f"{path.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}", text)
