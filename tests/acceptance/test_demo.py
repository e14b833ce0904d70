"""`make demo` is `orchestrator dev --demo`: the main job from nothing to its end, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, wait_for


@pytest.mark.timeout(300)
def test_the_demo_runs_its_tasks_to_the_end_and_leaves_nothing_running(tmp_path: Path) -> None:
    mark = f"demo-{os.getpid()}-{tmp_path.name}"
    ours = ("DATABASE_", "REDIS_", "KAFKA_", "ORCHESTRATOR_", "FLOWER_", "OPENAI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ran = subprocess.run(
        [sys.executable, "-m", "orchestrator", "dev", "--demo", "--data-dir", str(tmp_path / "data")],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": str(ROOT), "DEMO_TEST": mark, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    for shown in ("side by side", "waiting for event", "is undone", "completed", "Stopped; nothing is left running."):
        assert shown in ran.stdout, f"{shown!r} is not in what it printed:\n{ran.stdout}"
    wait_for(lambda: not marked(mark), what="no process of the demo is left")


def marked(mark: str) -> list[str]:
    """Processes that have inherited the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"DEMO_TEST={mark}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found
