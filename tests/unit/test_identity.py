"""Who holds a lease, and whether that process has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from orchestrator.worker.identity import has_died, own_name, place
from tests.support.processes import wait_for

pytestmark = pytest.mark.skipif(not place(), reason="this system does not tell who runs")

PROGRAM = (
    "import sys; from orchestrator.worker.identity import own_name; print(own_name(), flush=True); sys.stdin.read()"
)


def test_a_process_is_known_by_a_name_of_its_own() -> None:
    assert own_name() != own_name()
    assert own_name().startswith(place())
    assert not has_died(own_name())
    assert not has_died(f"{own_name()}:of a claim")


def test_one_that_is_stopped_lives_and_one_that_is_killed_does_not_even_before_it_is_buried() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        name = other.stdout.readline().decode().strip()
        assert str(other.pid) in name
        other.send_signal(signal.SIGSTOP)
        assert not has_died(name)
        other.kill()
        wait_for(lambda: has_died(name), what="it is seen to be dead")
    assert has_died(name)


def test_a_process_that_has_its_number_now_is_not_taken_for_it() -> None:
    began = own_name().removeprefix(place()).split(":")[1]
    assert has_died(f"{place()}{os.getpid()}:{int(began) - 1}:abc")


@pytest.mark.parametrize("name", ["elsewhere/boot/1:1:2:abc", "", "w1", "host:12:abc"])
def test_of_those_elsewhere_nothing_is_known(name: str) -> None:
    assert not has_died(name)
    assert not has_died(f"{place()}{name}")
