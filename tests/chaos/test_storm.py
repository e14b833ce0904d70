"""A short storm with a fixed seed; and the same seed gives the same storm. Longer ones: `make chaos`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.checkout import ROOT
from tests.chaos.plan import DEFAULT_PACE, STRIKES, draw_arrivals, draw_faults


def test_the_same_seed_gives_the_same_storm() -> None:
    assert draw_faults(7, 120, DEFAULT_PACE) == draw_faults(7, 120, DEFAULT_PACE)
    assert draw_arrivals(7, 120, 4) == draw_arrivals(7, 120, 4)
    assert draw_faults(8, 120, DEFAULT_PACE) != draw_faults(7, 120, DEFAULT_PACE)


def test_a_long_storm_has_every_kind_of_fault() -> None:
    assert {fault.kind for fault in draw_faults(7, 300, DEFAULT_PACE)} == set(STRIKES)


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_done_twice_in_a_short_storm(tmp_path: Path) -> None:
    """In a process of its own: kafka-python leaves the socket of each refused connection to the garbage collector."""
    storm = [sys.executable, "-m", "tests.chaos", "--seed", "3", "--duration", "20", "--rate", "3"]
    ran = subprocess.run(
        [*storm, "--kafka", "embedded", "--json", "--keep", str(tmp_path / "storm")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    counted = json.loads(ran.stdout)
    assert counted["holds"]
    assert counted["tasks_in"] > 20
    assert counted["finished"] == counted["tasks_in"]
