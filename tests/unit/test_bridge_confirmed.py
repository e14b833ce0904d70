"""What the bridge makes of PostgreSQL's offsets beside Kafka's, and of how far PostgreSQL was by Kafka's marks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import pytest
from kafka import TopicPartition

from bridge.confirmed import Confirmed
from bridge.position import GroupOffset, is_ours, mark, seen_of, where_to_begin
from orchestrator.domain.server import Seen
from orchestrator.domain.turns import Window
from orchestrator.flow.ports import Received, Taken

PLACE = TopicPartition("tasks", 0)
EARLIER, NOW = Seen("0000000a", "00000001", 100), Seen("0000000a", "00000001", 200)
TOPICS = {"tasks": "topic-1"}


class Store:
    """Answers with the offsets that it is given, and notes what it is told."""

    def __init__(self) -> None:
        self.offsets: dict[tuple[str, int], int] = {}
        self.seen: Seen | None = NOW
        self.compared: list[Seen] = []
        self.forgotten: list[tuple[dict[tuple[str, int], int], set[Seen | None]]] = []
        self.new: list[str] = []

    def accept(
        self,
        batch: Sequence[Received],
        *,
        due_in: timedelta,
        window: Window | None = None,
        confirmed: Mapping[tuple[str, int], int] | None = None,
    ) -> Sequence[Taken]:
        raise NotImplementedError

    def next_offsets(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        return {place: offset for place, offset in self.offsets.items() if place in partitions}

    def remember(self, told: Seen) -> None:
        raise NotImplementedError

    def compare(self, told: Seen) -> None:
        self.compared.append(told)

    def records_forgotten(
        self,
        below: Mapping[tuple[str, int], int],
        seen: Collection[Seen | None],
        *,
        who: str,  # noqa: ARG002  # the port's
    ) -> bool:
        self.forgotten.append((dict(below), set(seen)))
        return True

    def topics_made_anew(self, topics: Collection[str]) -> None:
        self.new += topics


def test_what_kafka_remembers_of_postgresql_is_compared_before_reading_begins() -> None:
    store = Store()
    store.offsets["tasks", 0] = 7
    Confirmed(store).starts({PLACE: GroupOffset(7, mark("topic-1", EARLIER))}, TOPICS)
    assert store.compared == [EARLIER]
    assert store.forgotten == []


def test_offsets_behind_the_group_are_told_with_what_was_seen_when_they_were_current() -> None:
    store = Store()
    store.offsets["tasks", 0] = 3
    starts = Confirmed(store).starts({PLACE: GroupOffset(7, mark("topic-1", EARLIER))}, TOPICS)
    assert starts[PLACE].offset == 3
    assert store.forgotten == [({("tasks", 0): 7}, {EARLIER})]


def test_what_was_confirmed_in_this_session_counts_where_kafka_does_not_know_of_it_yet() -> None:
    store = Store()
    confirmed = Confirmed(store)
    confirmed.took({PLACE: 10})
    store.offsets["tasks", 0] = 3
    confirmed.starts({PLACE: GroupOffset(5, mark("topic-1"))}, TOPICS)
    assert store.forgotten == [({("tasks", 0): 10}, {NOW})]
    assert confirmed.offsets() == {("tasks", 0): 3}


@pytest.mark.parametrize(
    ("group", "covered"),
    [
        (GroupOffset(7, mark("topic-1")), True),
        (GroupOffset(5, mark("topic-1")), True),
        (GroupOffset(5, "by hand"), True),
        (GroupOffset(90, "set forward by hand"), False),
        (None, False),
    ],
)
def test_the_group_is_told_of_a_start_only_where_postgresql_knows_all_before_it(
    group: GroupOffset | None, covered: bool
) -> None:
    store = Store()
    store.offsets["tasks", 0] = 7
    confirmed = Confirmed(store)
    start = confirmed.starts({PLACE: group}, TOPICS)[PLACE]
    assert confirmed.covers(PLACE, start) is covered
    assert store.forgotten == []


def test_an_idle_bridge_looks_about_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    confirmed = Confirmed(store)
    confirmed.took({PLACE: 10})
    store.offsets["tasks", 0] = 3
    assert confirmed.forgotten() == frozenset(), "it has looked a moment ago"
    monkeypatch.setattr("bridge.confirmed.LOOK_EVERY", 0.0)
    assert confirmed.forgotten() == {PLACE}
    store.offsets["tasks", 0] = 10
    assert confirmed.forgotten() == frozenset()
    store.offsets.clear()
    assert confirmed.forgotten() == {PLACE}
    confirmed.given_up([])
    assert confirmed.forgotten() == frozenset()


def test_a_topic_made_anew_under_our_feet_begins_anew_also_where_the_broker_keeps_no_marks() -> None:
    store = Store()
    confirmed = Confirmed(store)
    confirmed.took({PLACE: 10})
    store.offsets["tasks", 0] = 10
    confirmed.made_anew("tasks")
    assert confirmed.starts({PLACE: GroupOffset(10, None)}, TOPICS)[PLACE].offset is None
    assert (store.new, store.forgotten) == (["tasks"], [])
    assert confirmed.starts({PLACE: GroupOffset(10, None)}, TOPICS)[PLACE].offset == 10


def test_marks_say_how_far_postgresql_was_and_older_ones_are_understood() -> None:
    with_it, without = mark("topic-1", EARLIER), mark("topic-1")
    assert seen_of(GroupOffset(7, with_it)) == EARLIER
    assert seen_of(GroupOffset(7, without)) is None
    assert seen_of(GroupOffset(7, "another tool at=0000000a/00000001/64")) is None
    assert [is_ours(GroupOffset(7, one)) for one in (with_it, without, "", None)] == [True, True, False, False]
    for text in (with_it, without):
        assert where_to_begin(7, GroupOffset(7, text), "topic-1").offset == 7
        assert where_to_begin(7, GroupOffset(7, text), "topic-2").topic_is_new
    longest = mark("01a20df3-4215-73d0-b419-6f9dd23135f5", Seen("0000000a", "00000001", 2**63))
    assert len(longest.encode()) <= 110
