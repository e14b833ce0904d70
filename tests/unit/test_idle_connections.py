"""How many connections a host needs, and which of those at rest serve a call."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agents import connections
from orchestrator.agents.connections import ENOUGH, IDLE_LIMIT, LEAST_REST, REST, IdleConnections
from orchestrator.agents.transport import _LEAST_KEPT


class Clock:
    """Time as the test has it; in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(connections, "time", clock)
    return clock


class Connection:
    """As much of one as is asked for here."""

    is_connected = True
    closed = False

    def close(self) -> None:
        self.closed = True


def connection() -> Any:
    return Connection()


def opened_by(idle: IdleConnections, clock: Clock, rate: int, seconds: int) -> int:
    """How many connections so many calls a second open, one after another."""
    opened = 0
    for _ in range(rate * seconds):
        clock.now += 1 / rate
        taken = idle.take()
        opened += taken is None
        idle.give(taken or connection())
    return opened


def test_a_busy_worker_opens_no_more_connections_than_it_needs(clock: Clock) -> None:
    """Opening one costs both sides as much as the call; agents count them too."""
    idle = IdleConnections(_LEAST_KEPT)
    assert opened_by(idle, clock, 390, seconds=1) <= ENOUGH
    assert opened_by(idle, clock, 390, seconds=60) == 0
    assert opened_by(idle, clock, 900, seconds=60) <= _LEAST_KEPT - ENOUGH


def test_a_connection_rests_for_as_long_as_enough_others_are_there(clock: Clock) -> None:
    idle = IdleConnections(250)
    made = [connection() for _ in range(ENOUGH)]
    for one in made[:-1]:
        idle.give(one)
    clock.now += REST * 0.9
    assert idle.take() is None
    idle.give(made[-1])
    assert idle.take() == made[0]
    clock.now += REST * 0.2
    assert idle.take() == made[-2]


def test_a_connection_rests_for_a_moment_however_many_are_there(clock: Clock) -> None:
    idle = IdleConnections(250)
    made = [connection() for _ in range(ENOUGH)]
    for one in made:
        idle.give(one)
    clock.now += LEAST_REST * 0.9
    assert idle.take() is None
    clock.now += LEAST_REST * 0.2
    assert idle.take() == made[0]


def test_the_one_used_last_serves_first_so_that_the_others_come_to_be_closed(clock: Clock) -> None:
    idle = IdleConnections(10)
    first, last = connection(), connection()
    idle.give(first)
    idle.give(last)
    clock.now += REST * 2
    assert idle.take() == last
    clock.now += IDLE_LIMIT
    assert idle.take() is None
    idle.give(last)
    assert (first.closed, last.closed) == (True, False)


def test_a_connection_that_the_agent_left_or_sent_unasked_is_opened_anew(clock: Clock) -> None:
    idle = IdleConnections(10)
    gone = connection()
    idle.give(gone)
    gone.is_connected = False
    clock.now += REST * 2
    assert (idle.take() == gone, gone.closed) == (True, True)


def test_beyond_the_most_the_one_idle_for_longest_is_closed(clock: Clock) -> None:
    idle = IdleConnections(2)
    made = [connection() for _ in range(3)]
    for one in made:
        idle.give(one)
    assert [one.closed for one in made] == [True, False, False]
