"""The checkout as the tests of its shape see it: the files that a clone would have."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("orchestrator", "bridge", "examples", "scripts", "tests", "celeryconfig.py")


@lru_cache(maxsize=1)
def tracked_files() -> tuple[Path, ...]:
    """Every file that git knows or would add, relative to the checkout; needs a git checkout."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = (Path(name) for name in listed.split("\0") if name)
    return tuple(sorted(file for file in files if (ROOT / file).is_file()))


def python_files() -> tuple[Path, ...]:
    """The project's own Python files, relative to the checkout."""
    return tuple(file for file in tracked_files() if file.suffix == ".py" and file.parts[0] in CODE)


def text_files() -> tuple[Path, ...]:
    """The tracked files that are text."""
    return tuple(file for file in tracked_files() if b"\0" not in (ROOT / file).read_bytes()[:4096])
