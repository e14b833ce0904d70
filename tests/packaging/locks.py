"""Reading the lock files."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.installing import ROOT

LOCKS = sorted(ROOT.glob("requirements*.lock"))


def entries(lock: Path) -> list[tuple[Requirement, int]]:
    """Return a lock's entries, each with the number of its hashes."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    return [(Requirement(line.split("--hash")[0].strip()), line.count("--hash=sha256:")) for line in lines]


def pins(lock: str) -> dict[str, str]:
    """Return the versions that a lock gives on this Python and system, by package."""
    return {name: version for name, version, here in every_pin(ROOT / lock) if here}


def for_other_systems() -> list[tuple[str, str]]:
    """Return name and version of the packages that are locked, but not for this Python and system."""
    return [(name, version) for name, version, here in every_pin(ROOT / "requirements.lock") if not here]


def of_extras_outside_the_lock() -> list[tuple[str, str]]:
    """Return name and a version that fits of the packages that only extras want and no lock holds (model providers)."""
    locked = {name for name, _, _ in every_pin(ROOT / "requirements.lock")}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(line) for lines in extras.values() for line in lines]
    return [
        (name, next(bound.version for bound in one.specifier if bound.operator in {">=", "=="}))
        for one in wanted
        if (name := canonicalize_name(one.name)) not in locked
    ]


def every_pin(lock: Path) -> list[tuple[str, str, bool]]:
    """Return name, version and whether it is for this Python and system, of each entry of a lock."""
    return [
        (
            canonicalize_name(entry.name),
            str(entry.specifier).removeprefix("=="),
            entry.marker is None or entry.marker.evaluate(),
        )
        for entry, _ in entries(lock)
    ]
