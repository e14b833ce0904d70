"""The lock files fit pyproject.toml and one another, and can be trusted: every package by hash, from no named index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.installing import ROOT
from tests.packaging.locks import LOCKS, entries, pins

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = PYPROJECT["project"]["dependencies"]
DEV = PYPROJECT["project"]["optional-dependencies"]["dev"]
TEST = PYPROJECT["dependency-groups"]["test"]
BUILD = [*PYPROJECT["dependency-groups"]["build"], *PYPROJECT["build-system"]["requires"]]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_entry_is_one_version_with_hashes(lock: Path) -> None:
    assert len(entries(lock)) > 3
    loose = [str(entry) for entry, hashes in entries(lock) if not hashes or not str(entry.specifier).startswith("==")]
    assert not loose
    assert not re.search(r"://|^-", lock.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", [*RUNTIME, *DEV, *TEST]),
        ("requirements-prod.lock", RUNTIME),
        ("requirements-build.lock", BUILD),
    ],
)
def test_a_lock_gives_what_the_project_asks_for(lock: str, wanted: list[str]) -> None:
    given = pins(lock)
    requirements = [Requirement(text) for text in wanted]
    assert not {r.name for r in requirements if canonicalize_name(r.name) not in given}, f"{lock}: run `make lock`"
    unmet = [str(r) for r in requirements if not r.specifier.contains(given[canonicalize_name(r.name)])]
    assert not unmet, f"{lock} is behind pyproject.toml: run `make lock`"


@pytest.mark.parametrize("lock", ["requirements-prod.lock", "requirements-build.lock"])
def test_what_is_tested_is_what_runs(lock: str) -> None:
    tested = pins("requirements.lock")
    assert {name: tested.get(name) for name in pins(lock)} == pins(lock)


def test_production_locks_no_development_servers() -> None:
    assert not {canonicalize_name(Requirement(text).name) for text in DEV} & set(pins("requirements-prod.lock"))
