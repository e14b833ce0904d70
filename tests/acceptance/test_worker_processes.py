"""One worker command of several processes: each a Celery worker of its own, none left behind, each started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module
import pytest

from orchestrator.devstack.process import ManagedProcess
from tests.support.agents import ScriptedAgent, reply
from tests.support.processes import clean_environment, gone, wait_for
from tests.support.system import System

ENTRY = {"name": "slow", "description": "Gives slow.", "provides": ["slow"], "idempotent": True}


def workers(system: System) -> set[str]:
    """The names of the workers that answer."""
    ended = system.celery("inspect", "ping", "--json", "--timeout", "2")
    return {name.partition("@")[0] for name in json.loads(ended.stdout or "{}")} if ended.returncode == 0 else set()


def others_of(worker: ManagedProcess) -> list[psutil.Process]:
    return list(psutil.Process(worker.pid).children(recursive=True))


def start(system: System, *arguments: str) -> ManagedProcess:
    worker = system.start_worker(1, "--concurrency", "2", *arguments, ORCHESTRATOR_PROCESSES="3")
    wait_for(lambda: workers(system) == {"worker1", "worker1-2", "worker1-3"}, 40, "three workers answer")
    return worker


def test_each_process_does_its_part_and_all_end_with_the_first(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/slow", reply({"slow": 1}, gate="go"))
    system.use_agents({**ENTRY, "url": scripted_agent.url("/slow")})
    worker = start(system)
    system.start("bridge", "beat")
    for number in range(6):
        system.produce_task(f"slow-{number}", required_fields=["slow"])
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/slow") == 6, what="six calls, two in each process")
    scripted_agent.open_gate("go")
    system.wait_for_all([f"slow-{number}" for number in range(6)])
    others = others_of(worker)
    assert len(others) == 2
    os.kill(worker.pid, signal.SIGTERM)
    wait_for(lambda: not worker.running, 20, "the first has ended")
    assert worker.exit_code == 0
    assert all(gone(other) for other in others)


def test_one_that_is_killed_is_started_again(system: System) -> None:
    worker = start(system)
    killed, other = others_of(worker)
    killed.kill()
    system.processes.wait_for_log(worker, "worker.process_ended")
    wait_for(lambda: len([one for one in others_of(worker) if not gone(one)]) == 2, 40, "there are three again")
    wait_for(lambda: workers(system) == {"worker1", "worker1-2", "worker1-3"}, 40, "and all answer")
    last = others_of(worker)
    assert other in last and killed not in last


class Alone:
    """A worker command not started by the tests' own means: these end a process with all that it has started."""

    def __init__(self, system: System, log: Path, processes: int, *arguments: str) -> None:
        self._log = log
        env = {**clean_environment(), **system.env, "ORCHESTRATOR_PROCESSES": str(processes)}
        with log.open("wb") as output:
            # As an operator calls it: on SIGHUP Celery starts the program of that place again.
            command = [str(Path(sys.executable).with_name("celery")), "-A", "orchestrator", "worker", *arguments]
            self.process = subprocess.Popen(command, env=env, cwd=system.folder, stdout=output, stderr=output)

    def wait_for(self, text: str, times: int) -> None:
        wait_for(lambda: self.log.count(text) >= times, 60, f"{text} {times} times")

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def others(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.process.pid).children() if not gone(one)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = [] if self.process.poll() is not None else psutil.Process(self.process.pid).children(recursive=True)
        for one in (self.process, *left):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


def test_processes_whose_first_is_killed_end_by_themselves(system: System, tmp_path: Path) -> None:
    with Alone(system, tmp_path / "alone.log", 3) as worker:
        worker.wait_for("worker.ready", 3)
        others = worker.others
        worker.process.kill()
        worker.process.wait()
        wait_for(lambda: all(gone(one) for one in others), 20, "the others have ended as well")
        assert worker.log.count("worker.first_process_died") == len(others) == 2


def test_a_hang_up_begins_all_anew_and_leaves_none_behind(system: System, tmp_path: Path) -> None:
    with Alone(system, tmp_path / "alone.log", 2) as worker:
        worker.wait_for("worker.ready", 2)
        (before,) = worker.others
        for pid in (before.pid, worker.process.pid):
            os.kill(pid, signal.SIGHUP)
        worker.wait_for("worker.ready", 4)
        (after,) = worker.others
        assert gone(before) and after.pid != before.pid
        worker.process.terminate()
        assert worker.process.wait(20) == 0
        assert gone(after)


def test_one_that_was_told_to_stop_is_not_started_again(system: System, tmp_path: Path) -> None:
    with Alone(system, tmp_path / "alone.log", 2) as worker:
        worker.wait_for("worker.ready", 2)
        (other,) = worker.others
        other.terminate()
        worker.wait_for("worker.process_stopped", 1)
        assert worker.others == []
        worker.process.terminate()
        assert worker.process.wait(20) == 0
        assert "worker.process_ended" not in worker.log


def test_children_of_the_prefork_pool_wait_for_nobody(system: System, tmp_path: Path) -> None:
    system.env["ORCHESTRATOR_STOP_PERIOD"] = "60"
    with Alone(system, tmp_path / "alone.log", 2, "--pool", "processes", "--concurrency", "2") as worker:
        worker.wait_for("worker.ready", 2)
        worker.process.terminate()
        assert worker.process.wait(30) == 0


@pytest.mark.parametrize("option", [("--beat",), ("--pidfile", "worker.pid"), ("--statedb", "state")])
def test_what_one_process_alone_may_have_is_refused(system: System, option: tuple[str, ...], tmp_path: Path) -> None:
    worker = system.start_one("worker", *option, ORCHESTRATOR_PROCESSES="2")
    wait_for(lambda: not worker.running, 40, "it ends")
    assert worker.exit_code == 2
    assert f"ORCHESTRATOR_PROCESSES=2 does not go with {option[0]}" in worker.log_text()
    assert not list(tmp_path.glob("**/worker.pid"))
