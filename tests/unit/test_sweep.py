"""What a sweep does when the broker has lost everything, in which order; and that it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import LAST_PLACE
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.sweep import Neighbours, Sweep, SweepLimits


class Notes:
    """Store and broker of a sweep that has nothing to ring; notes what it is asked."""

    def __init__(self, emptied: bool, away: bool = False) -> None:
        self.is_empty = emptied
        self.away = away
        self.asked: list[str] = []

    def emptied(self) -> bool:
        return self.is_empty

    def mark(self) -> None:
        self.asked.append("mark")

    def ring_again(self, stall: timedelta) -> int:  # noqa: ARG002 - as the store has it
        self.asked.append("ring again")
        if self.away:
            raise StoreUnavailable("away")
        return 3

    def end_leases(self, *_: Any) -> int:
        self.asked.append("end leases")
        return 1

    def dispatch(self, doorbells: Sequence[Any]) -> None:  # noqa: ARG002 - as the broker has it
        raise AssertionError("there is nothing to ring")

    def waiting(self) -> Sequence[int]:
        return [0] * (LAST_PLACE + 1)

    def ring_due(self, *_: Any, **__: Any) -> Sequence[Any]:
        self.asked.append("ring due")
        return []

    def ring_due_delegations(self, *_: Any, **__: Any) -> Sequence[Any]:
        return []

    def ring_due_cancellations(self, *_: Any, **__: Any) -> Sequence[Any]:
        return []

    def expire_events(self, *_: Any) -> int:
        return 0

    def undispatched(self) -> int:
        return 0

    def tenants(self) -> Sequence[Any]:
        return []


def test_a_broker_that_was_emptied_is_marked_after_all_was_made_due() -> None:
    notes = Notes(emptied=True)
    Sweep(notes, notes, SweepLimits()).run()
    assert notes.asked[:3] == ["ring again", "mark", "ring due"]


def test_a_broker_that_has_our_mark_is_left_in_peace() -> None:
    notes = Notes(emptied=False)
    Sweep(notes, notes, SweepLimits()).run()
    assert set(notes.asked) == {"ring due"}


def test_without_postgresql_no_mark_is_left_so_that_the_next_sweep_does_it() -> None:
    notes = Notes(emptied=True, away=True)
    with pytest.raises(StoreUnavailable):
        Sweep(notes, notes, SweepLimits()).run()
    assert notes.asked == ["ring again"]


def test_leases_of_the_dead_are_ended_before_it_is_seen_what_is_due() -> None:
    notes = Notes(emptied=False)
    Sweep(notes, notes, SweepLimits(), Neighbours("here:", lambda _: True)).run()
    assert notes.asked == ["end leases", "ring due"]


class Slow(Notes):
    """On a machine so slow that what was rung is due again when it is asked for the next."""

    rung = 0

    def ring_due(self, *_: Any, **__: Any) -> Sequence[Any]:
        assert self.rung < 10, "it rings for the same tasks over and over"
        return [Dispatch("t-1", 1), Dispatch("t-2", 1)]

    def dispatch(self, doorbells: Sequence[Any]) -> None:
        self.rung += len(doorbells)


def test_what_is_due_is_rung_once_in_a_sweep_however_long_that_takes() -> None:
    slow = Slow(emptied=False)
    assert Sweep(slow, slow, SweepLimits()).run().dispatched == slow.rung == 2
