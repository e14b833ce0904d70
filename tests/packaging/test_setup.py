"""What every ``make`` target begins with: set-up from the lock, on a machine with Python and make alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.checkout import tracked_files
from tests.packaging.installing import ROOT, bin_of, kept_wheels


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh copy of the checkout, in a path with a space."""
    copy = tmp_path / "check out"
    for file in tracked_files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    return copy


def make(checkout: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user would who has no network: every address that pip could ask is refused at once."""
    # A make around this one (`make test`) must not hand its own variables on.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "VENV", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in outer}
    offline = {"PIP_NO_INDEX": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(
        ["make", *words],
        cwd=checkout,
        env=kept | offline | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


def test_set_up_works_offline_from_kept_packages_and_is_done_once(checkout: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "agent-orchestrator").symlink_to(kept_wheels().parent)
    this = {"PYTHON": sys.executable, "XDG_CACHE_HOME": str(cache)}

    first = make(checkout, "setup", **this)
    assert first.returncode == 0, first.stderr
    assert "Ready after" in first.stderr

    again = make(checkout, "setup", **this)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    elsewhere = subprocess.run(
        [bin_of(checkout / ".venv") / "python", "-c", "import bridge, orchestrator; print(orchestrator.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.startswith(str(checkout))

    with (checkout / "pyproject.toml").open("a") as pyproject:
        pyproject.write("\n# changed\n")
    changed = make(checkout, "setup", **this)
    assert changed.returncode == 0, changed.stderr
    assert "installing the project itself" in changed.stderr
    assert "creating the environment" not in changed.stderr, "the packages are still the right ones"


def test_without_packages_and_without_network_it_says_so(checkout: Path, tmp_path: Path) -> None:
    answer = make(checkout, "setup", PYTHON=sys.executable, XDG_CACHE_HOME=str(tmp_path / "empty"))
    assert answer.returncode != 0
    assert "set-up failed: the packages could not be fetched. Is the package index reachable" in answer.stderr


def test_an_unfit_python_is_named(checkout: Path) -> None:
    answer = make(checkout, "setup", PYTHON="no-such-python")
    assert answer.returncode != 0
    assert "PYTHON=no-such-python is not a Python 3.11 or newer that runs" in answer.stderr


def test_without_any_fit_python_it_says_what_to_do(checkout: Path, tmp_path: Path) -> None:
    """As on a machine whose python3 is older: here a stand-in that answers as such a one does."""
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "python"):
        old = tmp_path / "old" / name
        old.parent.mkdir(exist_ok=True)
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
        old.chmod(0o755)
    answer = make(checkout, "setup", PATH=f"{tmp_path / 'old'}:{os.environ['PATH']}")
    assert answer.returncode != 0
    assert "no Python 3.11 to 3.14 was found (python3 is: Python 3.9.2)" in answer.stderr
    assert "make PYTHON=/path/to/python3" in answer.stderr


def test_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "dev", "test", "lint", "types", "lock", "help"):
        assert f"make {target} " in listed
