"""The instructions of the prompt, one file a version. A published version is never changed: its digest is in a test.

A change of wording is a new file with the next number. The version before stays, so that tasks in flight can keep it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

VERSIONS = ("1", "2")
"""Those that can be asked with, oldest first."""
NEWEST = VERSIONS[-1]


def usable(version: str | None) -> str:
    """The version to ask with: the one that a task began with, where it is still there, else the newest."""
    return version if version in VERSIONS else NEWEST


@cache
def instructions(version: str) -> str:
    """The system message of a version."""
    return files(__name__).joinpath(f"v{version}.md").read_text(encoding="utf-8")
