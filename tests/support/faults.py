"""Arming fault points in the processes of a test, and seeing which were fired. A pytest plugin.

    def test_something(system, faults):
        system.env |= faults.arm("step.claimed:kill:only=t-1")
        …
        faults.wait_for(FaultPoint.STEP_CLAIMED)

Fixture: ``faults``. A fault fires once, whatever process reaches it first and however often it is started again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.fault_points import FaultPoint
from tests.support.processes import wait_for


class Faults:
    """The fault points of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arm(self, *faults: str) -> dict[str, str]:
        """Settings for processes: ``NAME:ACTION[:times=N][:only=TEXT]`` each."""
        return {"ORCHESTRATOR_FAULTS": ",".join(faults), "ORCHESTRATOR_FAULTS_FOLDER": str(self.folder)}

    def fired(self, point: FaultPoint) -> list[str]:
        """What each firing was about, first to last."""
        marks = sorted(self.folder.glob(f"{point}.*"), key=lambda mark: int(mark.suffix[1:]))
        return [mark.read_text(encoding="utf-8") for mark in marks if mark.stem == point]

    def wait_for(self, point: FaultPoint, timeout: float = 60.0) -> None:
        """Wait until it was fired."""
        wait_for(lambda: self.fired(point), timeout, f"{point} fires")


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """No fault is armed yet; see `Faults.arm`."""
    folder = tmp_path / "faults"
    folder.mkdir()
    return Faults(folder)
