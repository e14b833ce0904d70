"""Handing back at the end of a stop period."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from orchestrator.domain.journal import Dispatch, Lease
from orchestrator.errors import DispatchFailed, StoreUnavailable
from orchestrator.worker.drain import Drain

HELD = [Lease("t-1", 1, 1, "w"), Lease("t-2", 3, 1, "w")]


class Parts:
    """The store and dispatcher of a worker that stops; each may be away."""

    def __init__(self, store_away: bool = False, broker_away: bool = False) -> None:
        self.store_away = store_away
        self.broker_away = broker_away
        self.rung: list[Dispatch] = []

    def release(self, leases: Sequence[Lease], _retry_at: datetime) -> Sequence[Dispatch]:
        if self.store_away:
            raise StoreUnavailable("away")
        return [Dispatch(lease.task_id, lease.step) for lease in leases]

    def dispatch(self, doorbells: Sequence[Dispatch]) -> None:
        if self.broker_away:
            raise DispatchFailed("away")
        self.rung.extend(doorbells)


def drained(parts: Any, period: float = 0.2) -> Drain:
    """A drain that has run to its end."""
    left = threading.Event()
    drain = Drain(parts, parts, lambda: HELD, period, leave=left.set)
    assert not drain.stopping()
    drain.begin()
    drain.begin()
    assert drain.stopping()
    assert left.wait(20)
    return drain


def test_what_is_held_is_released_and_rung() -> None:
    parts = Parts()
    drained(parts)
    assert parts.rung == [Dispatch("t-1", 1), Dispatch("t-2", 3)]


@pytest.mark.parametrize("parts", [Parts(store_away=True), Parts(broker_away=True)], ids=["store", "broker"])
def test_it_leaves_in_time_whatever_is_away(parts: Parts) -> None:
    drained(parts)
    assert parts.rung == []


def test_it_leaves_in_time_where_the_store_hangs() -> None:
    hung = threading.Event()

    class Hanging(Parts):
        def release(self, leases: Sequence[Lease], _retry_at: datetime) -> Sequence[Dispatch]:
            hung.wait(30)
            return super().release(leases, _retry_at)

    try:
        drained(Hanging())
    finally:
        hung.set()
