"""What PostgreSQL has confirmed of each partition, so that the bridge notices where it knows less some day.

A server that went back to an older state, or a replica that lagged behind and took over, has forgotten records that
were taken in: they are read again from where it knows them, and the tasks that come of them are doubted.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping

from kafka import TopicPartition

from bridge.position import GroupOffset, Start, seen_of, where_to_begin
from orchestrator.domain.server import Seen
from orchestrator.flow.restores import BridgeStore

LOOK_EVERY = 1.0
"""Seconds between two looks whether PostgreSQL still knows what it has confirmed, while nothing is taken in."""

Place = tuple[str, int]


class Confirmed:
    """Offsets that PostgreSQL has confirmed to this bridge in this session."""

    def __init__(self, store: BridgeStore) -> None:
        self._store = store
        self._offsets: dict[Place, int] = {}
        self._seen: dict[Place, Seen | None] = {}
        self._new: set[str] = set()
        self._looked_at = time.monotonic()

    @property
    def seen(self) -> Seen | None:
        """How far PostgreSQL is, to be kept in Kafka."""
        return self._store.seen

    def offsets(self) -> Mapping[Place, int]:
        """The next offset of each (topic, partition), as it was confirmed."""
        return self._offsets

    def covers(self, one: TopicPartition, start: Start) -> bool:
        """Whether PostgreSQL knows all that lies before a start: then the group may be told of it with our mark.

        Not where a person set the group forward: until a record is taken in there, PostgreSQL would look behind it.
        """
        return start.offset is not None and self._offsets.get(_place(one), -1) >= start.offset

    def took(self, following: Mapping[Place, int]) -> None:
        """PostgreSQL has committed all before these offsets."""
        self._offsets |= following
        self._seen |= dict.fromkeys(following, self._store.seen)

    def given_up(self, mine: Iterable[TopicPartition]) -> None:
        """Only these are ours still."""
        kept = {_place(one) for one in mine}
        self._offsets = {place: offset for place, offset in self._offsets.items() if place in kept}

    def made_anew(self, topic: str) -> None:
        """The topic was deleted and made again, as its id says: it begins anew, whatever the group's offset is."""
        self._new.add(topic)

    def forgotten(self) -> frozenset[TopicPartition]:
        """Partitions of which PostgreSQL knows less than it has confirmed; asked of it about once a second.

        Raises:
            StoreUnavailable: PostgreSQL is away.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY or not self._offsets:
            return frozenset()
        stored = self._store.next_offsets(list(self._offsets))
        self._looked_at = now
        return frozenset(TopicPartition(*place) for place in self._offsets if self._is_behind(place, stored))

    def starts(
        self, groups: Mapping[TopicPartition, GroupOffset | None], topic_ids: Mapping[str, str | None]
    ) -> Mapping[TopicPartition, Start]:
        """Where to begin each partition. What turns out to be forgotten is noted before anything is read again.

        Args:
            groups: the group's offsets, asked for before this is called: PostgreSQL is ahead of them, if it is well.
            topic_ids: the topics' ids now.

        Raises:
            StoreUnavailable: PostgreSQL is away.
        """
        for told in {one for one in map(seen_of, groups.values()) if one is not None}:
            self._store.compare(told)
        stored = self._store.next_offsets([_place(one) for one in groups])
        starts, below, seen, new = {}, {}, set(), set()
        for one, group in groups.items():
            place = _place(one)
            start = where_to_begin(stored.get(place), group, topic_ids.get(one.topic))
            if one.topic in self._new:
                start = Start(None, "the topic was made anew", topic_is_new=True)
            starts[one] = start
            if start.topic_is_new:
                new.add(one.topic)
            elif start.below is not None or self._is_behind(place, stored):
                below[place] = max(start.below or 0, self._offsets.get(place, 0))
                seen.add(self._seen[place] if self._is_behind(place, stored) else seen_of(group))
        if new:
            self._store.topics_made_anew(new)
            self._new -= new
        if below:
            self._store.records_forgotten(below, seen, who=f"bridge, process {os.getpid()} on {socket.gethostname()}")
            stored = self._store.next_offsets([_place(one) for one in groups])  # by now it knows of each partition
        for one in groups:
            place = _place(one)
            self._offsets.pop(place, None)
            if place in stored:
                self._offsets[place], self._seen[place] = stored[place], self._store.seen
        return starts

    def _is_behind(self, place: Place, stored: Mapping[Place, int]) -> bool:
        known = self._offsets.get(place)
        return known is not None and stored.get(place, -1) < known


def _place(one: TopicPartition) -> Place:
    return one.topic, one.partition
