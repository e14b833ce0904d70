"""Where things are, how long a file may be, and what no file may hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.checkout import ROOT, python_files, text_files, tracked_files

PROMISED = {"pyproject.toml", "README.md", "orchestrator", "bridge", "celeryconfig.py", "tests", "docker-compose.yml"}
BESIDES = {
    *("Dockerfile", "LICENSE", "Makefile", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("docs", "examples", "benchmarks", "scripts", ".ci"),
    *(".dockerignore", ".env.example", ".gitignore", ".gitattributes"),
    *("requirements.lock", "requirements-prod.lock", "requirements-build.lock"),
}
LONGEST_MODULE = 400

# Character classes keep these patterns from matching themselves.
PACKAGE_INDEXES = re.compile(
    r"py[p]i\.org|python[h]osted\.org|registry\.npm[j]s|repo1?\.m[a]ven|proxy\.g[o]lang|index\.cr[a]tes"
    r"|deb\.d[e]bian\.org|--(?:extra-)?ind[e]x-url|--tr[u]sted-host"
)
OWN_MACHINE = re.compile(r"(?<![\w.}])/(?:r[o]ot|w[o]rk|home/(?!user\b|you\b)[a-z]+)/[\w.]")


def test_the_top_level_is_the_promised_one() -> None:
    found = {file.parts[0] for file in tracked_files()}
    assert found >= PROMISED, f"missing at the top level: {sorted(PROMISED - found)}"
    assert found <= PROMISED | BESIDES, (
        f"new at the top level: {sorted(found - PROMISED - BESIDES)}. Can it go into a folder that is there?"
    )


@pytest.mark.parametrize("file", python_files(), ids=str)
def test_a_module_is_short_enough_to_be_read(file: Path) -> None:
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{file} has {lines} lines: which of its parts is a module of its own?"


@pytest.mark.parametrize(
    ("pattern", "what"),
    [(PACKAGE_INDEXES, "a package index: whoever installs uses their own"), (OWN_MACHINE, "a path of one machine")],
    ids=["package-index", "machine-path"],
)
def test_no_file_names(pattern: re.Pattern[str], what: str) -> None:
    found = [
        f"{file}:{number}: {line.strip()[:120]}"
        for file in text_files()
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}\n" + "\n".join(found)
