"""Building the wheel and installing the project into clean environments, from packages that set-up has kept.

Set-up keeps every wheel of the lock in a folder (scripts/bootstrap.py), so these tests need no network and get the
very packages that are locked.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command that must succeed; return what it printed."""
    # What runs the tests must not reach into the environment under test.
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    answer = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | {"PYTHONNOUSERSITE": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=150,
    )
    assert answer.returncode == 0, f"{' '.join(map(str, command))} exited {answer.returncode}\n{answer.stdout}"
    return answer.stdout


def kept_wheels() -> Path:
    """Return the folder with the wheels of the lock; skip the test where this environment was made in another way."""
    script = ROOT / "scripts" / "bootstrap.py"
    specification = importlib.util.spec_from_file_location("bootstrap", script)
    assert specification is not None
    assert specification.loader is not None
    bootstrap = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(bootstrap)
    folder = Path(bootstrap.cache_folder()) / "wheels"
    if not any(folder.glob("langchain_openai-*.whl")):
        pytest.skip(f"{folder} holds no packages: this environment was not made by `make setup`")
    return folder


def bin_of(environment: Path) -> Path:
    """Return the folder of an environment's commands."""
    return environment / "bin"
