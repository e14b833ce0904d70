"""A short storm with a fixed seed; and the same seed gives the same storm. Longer ones: `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plan import DEFAULT_PACE, STRIKES, draw_arrivals, draw_faults
from tests.chaos.report import table
from tests.chaos.storm import Storm, run


def test_the_same_seed_gives_the_same_storm() -> None:
    assert draw_faults(7, 120, DEFAULT_PACE) == draw_faults(7, 120, DEFAULT_PACE)
    assert draw_arrivals(7, 120, 4) == draw_arrivals(7, 120, 4)
    assert draw_faults(8, 120, DEFAULT_PACE) != draw_faults(7, 120, DEFAULT_PACE)


def test_a_long_storm_has_every_kind_of_fault() -> None:
    assert {fault.kind for fault in draw_faults(7, 300, DEFAULT_PACE)} == set(STRIKES)


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_done_twice_in_a_short_storm(tmp_path: Path) -> None:
    said: list[str] = []
    verdict = run(Storm(seed=3, duration=20, rate=3), tmp_path / "storm", said.append)
    assert verdict.holds, "\n".join([*said, table(verdict)])
    assert verdict.tasks_in > 20
    assert verdict.finished == verdict.tasks_in
