"""One worker command of several processes: each a Celery worker of its own, none left behind, each started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module
import pytest

from orchestrator.devstack.process import ManagedProcess
from tests.support.agents import ScriptedAgent, reply
from tests.support.processes import clean_environment, wait_for
from tests.support.system import CELERY, System

ENTRY = {"name": "slow", "description": "Gives slow.", "provides": ["slow"], "idempotent": True}


def workers(system: System) -> set[str]:
    """The names of the workers that answer."""
    ended = subprocess.run(
        [*CELERY, "inspect", "ping", "--json", "--timeout", "2"],
        env={**clean_environment(), **system.env},
        cwd=system.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return {name.partition("@")[0] for name in json.loads(ended.stdout or "{}")} if ended.returncode == 0 else set()


def others_of(worker: ManagedProcess) -> list[psutil.Process]:
    return list(psutil.Process(worker.pid).children(recursive=True))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


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


def test_processes_whose_first_is_killed_end_by_themselves(system: System, tmp_path: Path) -> None:
    log = tmp_path / "alone.log"
    env = {**clean_environment(), **system.env, "ORCHESTRATOR_PROCESSES": "3"}
    with log.open("wb") as output:
        # Not by the tests' own means: these end a process with all that it has started.
        worker = subprocess.Popen([*CELERY, "worker"], env=env, cwd=system.folder, stdout=output, stderr=output)
    try:
        wait_for(lambda: log.read_text().count("worker.ready") == 3, 40, "all work")
        others = psutil.Process(worker.pid).children()
    finally:
        worker.kill()
        worker.wait()
    wait_for(lambda: all(gone(one) for one in others), 20, "the others have ended as well")
    assert log.read_text().count("worker.first_process_died") == len(others) == 2


@pytest.mark.parametrize("option", [("--beat",), ("--pidfile", "worker.pid"), ("--statedb", "state")])
def test_what_one_process_alone_may_have_is_refused(system: System, option: tuple[str, ...], tmp_path: Path) -> None:
    worker = system.start_one("worker", *option, ORCHESTRATOR_PROCESSES="2")
    wait_for(lambda: not worker.running, 40, "it ends")
    assert worker.exit_code == 2
    assert f"ORCHESTRATOR_PROCESSES=2 does not go with {option[0]}" in worker.log_text()
    assert not list(tmp_path.glob("**/worker.pid"))
