"""When a worker goes straight on: within its slice of time, and while nothing more urgent waits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import PLACES, place_of
from orchestrator.errors import DispatchFailed
from orchestrator.worker import straight_on
from orchestrator.worker.straight_on import StraightOn

NEXT = Dispatch("t-1", 2, priority=4)


class Broker:
    """What waits, by place; a test puts it there."""

    def __init__(self) -> None:
        self.counts = [0] * PLACES
        self.commands = 0
        self.trouble: Exception | None = None
        self.asked = 0

    def waiting(self) -> tuple[int, Sequence[int]]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return self.commands, self.counts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the test has it."""
    now = [100.0]
    monkeypatch.setattr("orchestrator.worker.straight_on.time.monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("clock")
def test_it_is_off_unless_seconds_are_given() -> None:
    broker = Broker()
    assert not StraightOn(0, broker.waiting).slice()(NEXT)
    assert broker.asked == 0


def test_a_slice_ends(clock: list[float]) -> None:
    goes_on = StraightOn(2.0, Broker().waiting).slice()
    assert goes_on(NEXT)
    clock[0] += 1.9
    assert goes_on(NEXT)
    clock[0] += 0.2
    assert not goes_on(NEXT)


def test_what_is_more_urgent_goes_first_and_what_is_as_urgent_waits(clock: list[float]) -> None:
    broker = Broker()
    goes_on = StraightOn(60.0, broker.waiting).slice()
    broker.counts[place_of(4, 0)] = 1_000
    broker.counts[place_of(4, 1)] = 5
    assert goes_on(NEXT)
    assert not goes_on(Dispatch("t-1", 2, priority=4, lane=1)), "its tenant has its share"
    broker.counts[place_of(9, 1)] = 1
    assert goes_on(NEXT), "seen a moment ago"
    clock[0] += straight_on.LOOK_EVERY * 1.1
    assert not goes_on(NEXT)
    assert broker.asked == 2


@pytest.mark.usefixtures("clock")
def test_without_a_broker_the_work_at_hand_goes_on() -> None:
    broker = Broker()
    broker.trouble = DispatchFailed("away")
    assert StraightOn(2.0, broker.waiting).slice()(NEXT)


@pytest.mark.parametrize(("commands", "goes_on"), [(0, True), (1, False)])
@pytest.mark.usefixtures("clock")
def test_sweeps_and_commands_come_before_any_step(commands: int, goes_on: bool) -> None:
    urgent = Dispatch("t-1", 2, priority=9)
    broker = Broker()
    broker.commands = commands
    assert StraightOn(2.0, broker.waiting).slice()(urgent) is goes_on


@pytest.mark.usefixtures("clock")
def test_trouble_of_the_brokers_library_ends_no_step() -> None:
    broker = Broker()
    broker.trouble = RuntimeError("Acquire on closed pool")
    assert not StraightOn(2.0, broker.waiting).slice()(NEXT)
