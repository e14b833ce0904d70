"""However the process that owns a stack ends, nothing of the stack is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.devstack.stack import EmbeddedStack
from tests.support.processes import ROOT, clean_environment, wait_for
from tests.support.stack_owner import Own, alive, processes_of, query


def test_killing_the_owner_leaves_no_process(own: Own, data_dir: Path) -> None:
    owner = own(data_dir)
    wait_for(lambda: len(processes_of(data_dir)) >= 5, what="servers and a family of three run")
    owner.send(signal.SIGKILL)
    wait_for(lambda: not any(map(alive, owner.everybody())), 10, "all children are gone")
    wait_for(lambda: not processes_of(data_dir), 10, "grandchildren are gone, also one in a session of its own")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_stops_all_in_order(own: Own, data_dir: Path, number: int, code: int) -> None:
    owner = own(data_dir)
    assert owner.send(number) == code
    assert not any(map(alive, owner.everybody()))
    assert processes_of(data_dir) == set()
    assert "database system is shut down" in (data_dir / "logs" / "postgres.log").read_text()


def test_an_exception_stops_all(own: Own, data_dir: Path) -> None:
    owner = own(data_dir, "--crash")
    assert owner.process.wait(30) == 1
    assert not any(map(alive, owner.everybody()))
    assert processes_of(data_dir) == set()


def test_what_outlived_owner_and_keeper_is_stopped_by_the_next_start(own: Own, data_dir: Path) -> None:
    owner = own(data_dir)
    wait_for(lambda: len(processes_of(data_dir)) >= 5, what="servers and a family of three run")
    os.kill(owner.process.pid, signal.SIGSTOP)  # it must not notice that its keeper dies
    os.kill(owner.said["keeper"], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, owner.said["pids"].values())), 10, "children die with the keeper")
    left = processes_of(data_dir)
    assert left, "grandchildren outlive a killed keeper: that is what the next start is for"
    owner.send(signal.SIGKILL)
    told: list[str] = []
    with EmbeddedStack(data_dir, progress=told.append) as stack:
        assert not any(map(alive, left))
        assert query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]
    assert any("an earlier run left" in text for text in told)


def test_a_signal_during_the_first_start_stops_it(tmp_path: Path, data_dir: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stack_program", str(data_dir)], cwd=ROOT, env=clean_environment()
    )
    with owner:
        wait_for((data_dir / "postgres" / "data.new").exists, what="initdb runs")
        owner.terminate()
    assert owner.returncode == 143
    assert processes_of(data_dir) == set()
    with EmbeddedStack(data_dir) as stack:
        assert query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_the_owner_ends_with_a_clear_message_when_its_folder_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stack_program", str(tmp_path / "file" / "data")],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "cannot be used: Not a directory" in done.stderr
