"""The process that publishes for a bridge: none is left behind, and a bridge without one does not go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module
import pytest

from orchestrator.devstack.process import ManagedProcess
from tests.support.processes import clean_environment, gone, wait_for
from tests.support.system import System


def started(system: System) -> tuple[ManagedProcess, psutil.Process]:
    """A bridge that reads and whose publisher is elected, and that publisher."""
    bridge = system.start_one("bridge")
    for word in ("bridge.reading", "updates.elected"):
        system.processes.wait_for_log(bridge, word)
    (publisher,) = psutil.Process(bridge.pid).children()
    return bridge, publisher


def test_both_end_when_the_bridge_is_told_to_stop(system: System) -> None:
    bridge, publisher = started(system)
    os.kill(bridge.pid, signal.SIGTERM)
    wait_for(lambda: not bridge.running, what="it has ended")
    assert bridge.exit_code == 0
    assert gone(publisher)


def test_a_stop_that_reaches_both_at_once_is_no_defect(system: System) -> None:
    """As a terminal's Ctrl-C, or a supervisor that tells all processes of a service."""
    bridge, publisher = started(system)
    publisher.send_signal(signal.SIGINT)
    os.kill(bridge.pid, signal.SIGINT)
    wait_for(lambda: not bridge.running, what="it has ended")
    assert bridge.exit_code == 0, bridge.log_text()


def test_a_bridge_whose_publisher_was_killed_stops_and_says_so(system: System) -> None:
    bridge, publisher = started(system)
    publisher.kill()
    wait_for(lambda: not bridge.running, what="it has ended")
    assert bridge.exit_code == 1
    assert "ended by itself, with exit code -9" in bridge.log_text()


@pytest.mark.parametrize("how", ["ended alone", "nobody is told of its end"])
def test_a_bridge_never_goes_on_without_a_publisher(system: System, tmp_path: Path, how: str) -> None:
    log, env = tmp_path / "alone.log", {**clean_environment(), **system.env}
    ignoring = "trap '' CHLD; " if how == "nobody is told of its end" else ""
    with log.open("wb") as output:
        command = ["sh", "-c", f"{ignoring}exec {sys.executable} -m bridge"]
        bridge = subprocess.Popen(command, env=env, cwd=system.folder, stderr=output)
    try:
        wait_for(lambda: "updates.elected" in log.read_text(), what="it publishes")
        (publisher,) = psutil.Process(bridge.pid).children()
        if ignoring:
            publisher.kill()
        else:
            publisher.terminate()
        assert bridge.wait(30) == 1
        assert "ended by itself" in log.read_text()
    finally:
        bridge.kill()
        bridge.wait()


def test_a_bridge_that_is_told_to_stop_while_it_joins_holds_the_next_one_up_no_longer(system: System) -> None:
    for _ in range(2):
        bridge = system.start_one("bridge")
        system.processes.wait_for_log(bridge, "bridge.starting")
        os.kill(bridge.pid, signal.SIGTERM)
        wait_for(lambda one=bridge: not one.running, what="it has ended")  # type: ignore[misc]  # the one of this round
        assert bridge.exit_code == 0
    system.processes.wait_for_log(system.start_one("bridge"), "bridge.reading", timeout=30)


def test_a_bridge_does_not_wait_for_a_publisher_that_hangs(system: System) -> None:
    bridge, publisher = started(system)
    publisher.suspend()
    os.kill(bridge.pid, signal.SIGTERM)
    wait_for(lambda: not bridge.running, 30, "it has ended all the same")
    assert bridge.exit_code == 0
    assert gone(publisher)


def test_a_publisher_whose_bridge_was_killed_ends_and_leaves_its_place_to_the_next(
    system: System, tmp_path: Path
) -> None:
    log = tmp_path / "alone.log"
    env = {**clean_environment(), **system.env}
    with log.open("wb") as output:
        # Not by the tests' own means: these end a process with all that it has started.
        bridge = subprocess.Popen([sys.executable, "-m", "bridge"], env=env, cwd=system.folder, stderr=output)
    try:
        wait_for(lambda: "updates.elected" in log.read_text(), what="it publishes")
        (publisher,) = psutil.Process(bridge.pid).children()
    finally:
        bridge.kill()
        bridge.wait()
    wait_for(lambda: gone(publisher), what="it has ended as well")
    assert "updates.bridge_died" in log.read_text()
    started(system)
