"""Embedded stacks owned by a process that the test kills or signals, and looks at what they leave. A pytest plugin.

Fixtures: ``data_dir``, ``own``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from orchestrator.devstack.folder import DataFolder
from orchestrator.devstack.keeper import MARKER
from tests.support.processes import ROOT, clean_environment


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A path with spaces, longer than any unix socket's may be."""
    return tmp_path / "a folder with spaces" / ("long" * 30) / "data"


def query(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements one by one; the rows of the last."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def processes_of(data_dir: Path) -> set[int]:
    """All processes of a stack in this folder, found by what their environment says."""
    mark = f"{MARKER}={DataFolder(data_dir).marker}".encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


@dataclass
class Owner:
    """A process that owns a stack, and what it said once all ran."""

    process: subprocess.Popen[bytes]
    said: dict[str, Any]

    def everybody(self) -> list[int]:
        return [self.said["keeper"], *self.said["pids"].values()]

    def send(self, number: int) -> int:
        """Signal it and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(30)


Own = Callable[..., Owner]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """Start `tests.support.stack_program` and wait until its stack runs.

    Not by the fixture ``processes``: its keeper would clear up after an owner that is killed, which is what is tested.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(
        data_dir: Path, *options: str, python: Sequence[str] = (sys.executable,), user: int | None = None, **env: str
    ) -> Owner:
        errors = tmp_path / f"owner-{len(started)}.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [*python, "-m", "tests.support.stack_program", str(data_dir), *options],
                cwd=ROOT,
                env={**clean_environment(), **env},
                stdout=subprocess.PIPE,
                stderr=log,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the stack did not start: {errors.read_text()}"
        return Owner(process, json.loads(line))

    yield start
    for process in started:
        process.kill()  # its keeper clears up
        with process:
            pass
