"""Taking batches in without servers: the order of its steps, batches that are refused, and the bound on bad records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from bridge.dead_letter import BadInARow
from bridge.hold import Hold
from bridge.intake import BatchIntake
from bridge.pause import LONGEST_PAUSE, pause_after
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.message import Record
from orchestrator.domain.turns import PLACES, Window, place_of
from orchestrator.errors import DispatchFailed, StoreUnavailable, TooManyBadRecords
from orchestrator.flow.accept import Accept
from orchestrator.flow.ports import Intake, Invalid, Received, Taken
from tests.support.kafka import decoder, record


class Store:
    """Accepts what it is given, unless a record's value is among those that it cannot take."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.refuses: set[bytes] = set()
        self.away = False
        self.known: set[tuple[str, int, int]] = set()
        self.taken: list[tuple[bytes, Intake, str | None]] = []

    def accept(
        self,
        batch: Sequence[Received],
        *,
        due_in: timedelta,
        window: Window | None = None,
        confirmed: Mapping[tuple[str, int], int] | None = None,  # noqa: ARG002  # the port's
    ) -> Sequence[Taken]:
        if window is None:
            assert not due_in, "nobody rings"
            window = Window(0)
        if self.away:
            raise StoreUnavailable("PostgreSQL is away")
        for item in batch:
            if item.record.value in self.refuses and not isinstance(item.message, Invalid):
                raise ValueError("refused\nwith a second line and \x00")
        self.said.append(f"commit {len(batch)}")
        return [self._take(item, window) for item in batch]

    def _take(self, item: Received, window: Window) -> Taken:
        at = (item.record.topic, item.record.partition, item.record.offset)
        bad = item.message if isinstance(item.message, Invalid) else None
        outcome = Intake.DUPLICATE if at in self.known else Intake.INVALID if bad else Intake.ACCEPTED
        self.known.add(at)
        self.taken.append((item.record.value or b"", outcome, bad.reason if bad else None))
        rung = outcome is Intake.ACCEPTED and window.room(place_of(4, 0))
        doorbell = Dispatch(f"task-{item.record.offset}", 1, 4) if rung else None
        return Taken(outcome, dispatch=doorbell)

    def next_offsets(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        raise NotImplementedError


class Dispatcher:
    """Writes down what is rung."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.down = False
        self.backlog = 0

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        if self.down:
            raise DispatchFailed("Redis is away")
        self.said.append(f"ring {len(dispatches)}")

    def waiting(self) -> Sequence[int]:
        return [self.backlog if place == place_of(4, 0) else 0 for place in range(PLACES)]


class World:
    def __init__(self, bad_in_a_row: int = 1000) -> None:
        self.said: list[str] = []
        self.store = Store(self.said)
        self.dispatcher = Dispatcher(self.said)
        accept = Accept(self.store, self.dispatcher, window=1000, stall=timedelta(seconds=10))
        self.intake = BatchIntake(decoder(), accept, BadInARow(bad_in_a_row))
        self.safe: list[int] = []

    def take(self, records: Sequence[Record]) -> dict[Intake, int]:
        return dict(self.intake.take(records, self._tell))

    def _tell(self, records: Sequence[Record]) -> None:
        self.said.append(f"tell {len(records)}")
        self.safe += [item.offset for item in records]


def good(offset: int, partition: int = 0) -> Record:
    return record({"task_description": f"Do {offset}"}, offset=offset, partition=partition)


def bad(offset: int, partition: int = 0) -> Record:
    return record(b"bad", offset=offset, partition=partition)


def test_kafka_is_told_after_the_commit_and_doorbells_come_last() -> None:
    world = World()
    assert world.take([good(0), bad(1), good(2)]) == {Intake.ACCEPTED: 2, Intake.INVALID: 1}
    assert world.said == ["commit 3", "tell 3", "ring 2"]


def test_a_lost_broker_of_celery_stops_nothing() -> None:
    world = World()
    world.dispatcher.down = True
    assert world.take([good(0)]) == {Intake.ACCEPTED: 1}
    assert world.safe == [0]


def test_without_room_in_celerys_broker_nobody_rings() -> None:
    world = World()
    world.take([good(0)])
    world.dispatcher.backlog = 1000
    world.take([good(1)])
    assert world.said == ["commit 1", "tell 1", "ring 1", "commit 1", "tell 1"]


def test_without_postgresql_kafka_is_told_nothing() -> None:
    world = World()
    world.store.away = True
    with pytest.raises(StoreUnavailable):
        world.take([good(0), good(1)])
    assert world.safe == []


def test_a_record_that_the_store_refuses_is_set_aside_alone() -> None:
    world = World()
    records = [good(offset) for offset in range(7)]
    refused = records[4].value or b""
    world.store.refuses = {refused}
    assert world.take(records) == {Intake.ACCEPTED: 6, Intake.INVALID: 1}
    assert [entry for entry in world.store.taken if entry[2]] == [(refused, Intake.INVALID, "store_refused")]
    assert [value for value, _, _ in world.store.taken] == [item.value for item in records]
    assert world.safe == list(range(7))


# -- bad records in a row


def test_a_flood_ends_at_the_bound_and_what_follows_is_not_taken() -> None:
    world = World(bad_in_a_row=3)
    with pytest.raises(TooManyBadRecords, match="3 bad records in a row in topic tasks, partition 0, up to offset 3"):
        world.take([good(0), bad(1), bad(2), bad(3), bad(4), good(5)])
    assert world.safe == [0, 1, 2, 3]
    assert len(world.store.taken) == 4


def test_the_row_goes_on_from_batch_to_batch_and_ends_with_a_good_one() -> None:
    world = World(bad_in_a_row=3)
    world.take([bad(0), bad(1)])
    world.take([good(2), bad(3), bad(4)])
    with pytest.raises(TooManyBadRecords):
        world.take([bad(5)])


def test_each_partition_has_its_own_row() -> None:
    world = World(bad_in_a_row=3)
    world.take([bad(0, partition=0), bad(0, partition=1), bad(1, partition=0), bad(1, partition=1)])
    with pytest.raises(TooManyBadRecords, match="partition 1"):
        world.take([good(2, partition=0), bad(2, partition=1)])


def test_bad_records_that_are_read_again_are_no_flood() -> None:
    world = World(bad_in_a_row=3)
    world.take([bad(0), bad(1), good(2), bad(3), bad(4), good(5)])
    assert world.take([bad(0), bad(1), bad(3), bad(4)]) == {Intake.DUPLICATE: 4}


# -- holding


def test_the_backlog_is_asked_once_a_second_and_opens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    waiting = [5, 11, 10]
    asked: list[int] = []

    def backlog() -> int:
        asked.append(waiting[len(asked)])
        return asked[-1]

    monkeypatch.setattr("bridge.hold.time.monotonic", lambda: now)
    hold = Hold(backlog, limit=10)
    assert not hold.must_wait_for_backlog()
    now += 0.5
    assert not hold.must_wait_for_backlog()
    now += 0.6
    assert hold.must_wait_for_backlog()
    now += 1.1
    assert not hold.must_wait_for_backlog()
    assert asked == waiting


def test_holds_grow_until_a_batch_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("bridge.hold.time.monotonic", lambda: now)
    hold = Hold(lambda: 0, limit=10)

    def length() -> float:
        """Begin a hold, and go to its end."""
        nonlocal now
        began = now
        hold.begin("PostgreSQL is away")
        assert not hold.over()
        while not hold.over():
            now += 0.1
        return now - began

    lengths = [length() for _ in range(8)]
    assert lengths == sorted(lengths)
    assert lengths[0] < 0.4
    assert lengths[-1] == pytest.approx(LONGEST_PAUSE, abs=0.2)
    hold.succeeded()
    assert length() < 0.4


@pytest.mark.parametrize("failures", [0, 1, 3, 5_000])
def test_pauses_grow_to_the_longest_however_long_a_server_is_away(failures: int) -> None:
    assert 0.2 * (failures + 1) <= pause_after(failures) or pause_after(failures) == LONGEST_PAUSE
    assert pause_after(failures) <= LONGEST_PAUSE
