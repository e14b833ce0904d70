"""Every fault point is in the code, in a test that fires it, and in the failure table of the docs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import fault_points
from orchestrator.errors import ConfigurationError, InjectedFault
from orchestrator.fault_points import FaultPoint, parse_faults, reach
from tests.faults import table
from tests.support.processes import ROOT


def production_code() -> str:
    files = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "bridge").rglob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.name != "fault_points.py")


@pytest.mark.parametrize("point", list(FaultPoint))
def test_a_fault_point_is_reached_in_the_code_and_fired_by_a_test(point: FaultPoint) -> None:
    assert f"reach(FaultPoint.{point.name}" in production_code()
    (row,) = [row for row in table.rows() if row.point == point]
    assert f"FaultPoint.{point.name}" in (table.HERE / row.test).read_text(encoding="utf-8")


def test_the_failure_table_of_the_docs_is_the_one_that_is_tested() -> None:
    assert {row.point for row in table.rows()} == set(FaultPoint)
    shown = table.section_of(table.DOC.read_text(encoding="utf-8"))
    assert shown == table.as_markdown(), "write it anew: python -m tests.faults.table"


def test_a_fault_is_read_with_its_options() -> None:
    first, second = parse_faults("step.claimed:kill:only=t-1, sweep.marked:pause=0.5:times=3")
    assert (first.point, first.action, first.times, first.only) == (FaultPoint.STEP_CLAIMED, "kill", 1, "t-1")
    assert (second.action, second.seconds, second.times, second.only) == ("pause", 0.5, 3, None)


@pytest.mark.parametrize(
    "text",
    ["step.claimed", "step.nowhere:kill", "step.claimed:maim", "step.claimed:pause=soon", "step.claimed:kill:x=1"],
)
def test_a_fault_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="ORCHESTRATOR_FAULTS"):
        parse_faults(text)


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm(None)


@pytest.mark.usefixtures("disarmed")
def test_it_strikes_as_often_as_said_and_only_where_said() -> None:
    reach(FaultPoint.STEP_CLAIMED, "t-1")  # off
    fault_points.arm("step.claimed:raise:times=2:only=t-1")
    reach(FaultPoint.STEP_PLANNED, "t-1")
    reach(FaultPoint.STEP_CLAIMED, "t-2")
    for _ in range(2):
        with pytest.raises(InjectedFault):
            reach(FaultPoint.STEP_CLAIMED, "t-1")
    reach(FaultPoint.STEP_CLAIMED, "t-1")


@pytest.mark.usefixtures("disarmed")
def test_a_folder_counts_over_processes(tmp_path: Path) -> None:
    fault_points.arm("step.claimed:raise", tmp_path)
    with pytest.raises(InjectedFault):
        reach(FaultPoint.STEP_CLAIMED, "t-1")
    fault_points.arm(None)
    fault_points.arm("step.claimed:raise", tmp_path)  # as a process that was started again
    reach(FaultPoint.STEP_CLAIMED, "t-2")
    assert (tmp_path / "step.claimed.1").read_text(encoding="utf-8") == "t-1"


@pytest.mark.usefixtures("disarmed")
def test_a_pause_pauses() -> None:
    fault_points.arm("step.claimed:pause=0.05")
    begun = time.monotonic()
    reach(FaultPoint.STEP_CLAIMED)
    assert time.monotonic() - begun >= 0.05
