"""Within what time a storm requires that all moves again: by the faults of its last seconds and the settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.normal import BRIDGE, TASKS, Side, Waits, bound
from tests.chaos.plan import STRIKES

WAITS = Waits(sweep=2, lease=9, stall=10, session=6, start=4)


def test_after_calm_weather_one_sweep_is_enough() -> None:
    assert bound(TASKS, [], WAITS).seconds == 2 + 2
    assert bound(TASKS, [], replace(WAITS, busy=3)).seconds == 2 + 6
    assert bound(BRIDGE, [], WAITS).seconds == 0.5 + 2


@pytest.mark.parametrize(
    ("side", "kind", "seconds"),
    [
        (TASKS, "worker.kill", 4 + 4 + 2),
        (TASKS, "worker.pause", 10 + 4 + 2),
        (TASKS, "redis.flush", 4 + 10 + 4 + 2),
        (TASKS, "kafka.kill", 2 + 2),
        (BRIDGE, "bridge.kill", 4 + 15 + 2 + 2),
        (BRIDGE, "bridge.second", 15 + 2 + 2),
        (BRIDGE, "worker.kill", 0.5 + 2),
    ],
)
def test_a_fault_needs_what_must_run_out_first(side: Side, kind: str, seconds: float) -> None:
    assert bound(side, [(kind, 0.0)], WAITS).seconds == seconds


def test_what_was_over_before_the_end_has_had_its_time() -> None:
    early, late = ("redis.kill", 30.0), ("worker.kill", 1.0)
    assert bound(TASKS, [early, late], WAITS).seconds == 4 + 4 + 2 - 1
    assert bound(TASKS, [early], WAITS).seconds == 2 + 2


@pytest.mark.parametrize("kind", STRIKES)
def test_each_fault_strikes_a_side(kind: str) -> None:
    assert any(bound(side, [(kind, 0.0)], WAITS) != bound(side, [], WAITS) for side in (TASKS, BRIDGE))
