"""What the bridge notes of its consumer group, and when it gives up on joining it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from bridge.group import GroupListener

PLACE = TopicPartition("tasks", 0)


class Consumer:
    """Takes what a listener may ask of a consumer."""

    def pause(self, *_places: TopicPartition) -> None:
        """Nothing to pause."""


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let as many seconds pass."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


@pytest.mark.parametrize("taken_away", ["on_partitions_revoked", "on_partitions_lost"])
def test_joining_is_given_up_after_a_while_and_a_member_never_is(
    wait: Callable[[float], None], taken_away: str
) -> None:
    listener: Any = GroupListener(Consumer(), 10.0)
    wait(24)
    listener.check_joining()
    listener.on_partitions_assigned([])  # more bridges than partitions
    wait(1000)
    listener.check_joining()
    getattr(listener, taken_away)([])
    wait(24)
    listener.check_joining()
    wait(2)
    with pytest.raises(KafkaTimeoutError, match="joining the group took over 25 s"):
        listener.check_joining()


def test_what_is_assigned_waits_to_be_placed_and_what_is_taken_away_does_not() -> None:
    listener: Any = GroupListener(Consumer(), 10.0)
    other = TopicPartition("tasks", 1)
    listener.on_partitions_assigned([PLACE, other])
    listener.placed(other)
    assert listener.unplaced() == {PLACE}
    listener.on_partitions_revoked([PLACE, other])
    assert listener.unplaced() == frozenset()
