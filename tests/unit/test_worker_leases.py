"""The heartbeat renews all leases of a process with one statement, and tells which were lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from orchestrator.domain.journal import Lease
from orchestrator.errors import StoreUnavailable
from orchestrator.worker.leases import Heartbeat
from tests.support.processes import wait_for

ONE, TWO = Lease("t-1", 1, 1, "here"), Lease("t-2", 4, 2, "here")


class Rows:
    """The part of a store that a heartbeat uses."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Lease]] = []
        self.lost: list[Lease] = []
        self.trouble: Exception | None = None

    def renew(self, leases: Sequence[Lease], _lease_for: timedelta) -> Sequence[Lease]:
        self.calls.append(leases)
        if self.trouble is not None:
            raise self.trouble
        return [lease for lease in leases if lease in self.lost]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def heartbeat(rows: Rows) -> Iterator[Heartbeat]:
    beating = Heartbeat(rows, timedelta(seconds=0.06))  # type: ignore[arg-type]  # only `renew` is used
    yield beating
    beating.stop()


def test_all_leases_are_renewed_together(rows: Rows, heartbeat: Heartbeat) -> None:
    with heartbeat.hold(ONE), heartbeat.hold(TWO):
        wait_for(lambda: any(set(call) == {ONE, TWO} for call in rows.calls), what="one call for both")


def test_a_lease_that_ended_is_renewed_no_more(rows: Rows, heartbeat: Heartbeat) -> None:
    with heartbeat.hold(ONE):
        with heartbeat.hold(TWO):
            wait_for(lambda: any(TWO in call for call in rows.calls), what="the second is renewed")
        seen = len(rows.calls)
        wait_for(lambda: len(rows.calls) >= seen + 3, what="more beats")
        assert all(TWO not in call for call in rows.calls[seen + 1 :])


def test_a_lost_lease_is_told_to_its_holder_alone(rows: Rows, heartbeat: Heartbeat) -> None:
    rows.lost = [TWO]
    with heartbeat.hold(ONE) as one_lost, heartbeat.hold(TWO) as two_lost:
        wait_for(two_lost, what="the loss is told")
        assert not one_lost()


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), RuntimeError("a defect")])
def test_the_heart_beats_on_after_trouble(rows: Rows, heartbeat: Heartbeat, trouble: Exception) -> None:
    rows.trouble = trouble
    with heartbeat.hold(ONE) as lost:
        wait_for(lambda: len(rows.calls) >= 2, what="two beats in trouble")
        rows.trouble, rows.lost = None, [ONE]
        wait_for(lost, what="the next beat works again")
