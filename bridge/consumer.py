"""The poll loop: reads the two topics as a member of the bridges' group, pauses without room, never commits ahead.

Partitions newly assigned start paused; they are read once it is known where to begin (`position`). While PostgreSQL is
away, or has more waiting than it should, all are paused and polling goes on, so that the group keeps us. kafka-python
runs rebalances on a thread of its own: `GroupListener` only notes what changed, everything else happens in the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import CommitFailedError, KafkaError

from bridge.confirmed import Confirmed
from bridge.group import GroupListener, given_up_meanwhile, place_name
from bridge.hold import Hold
from bridge.intake import BatchIntake
from bridge.pause import pause_after
from bridge.position import GroupOffset, Start, goes_back, is_ours, mark
from bridge.progress import Progress
from orchestrator.domain.message import Record
from orchestrator.errors import ConfigurationError, KafkaUnavailable, OffsetsForgotten, StoreUnavailable
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.restores import BridgeStore
from orchestrator.kafka.connection import as_our_error, open_consumer
from orchestrator.kafka.topics import ensure_topics
from orchestrator.settings import Settings

log = logging.getLogger(__name__)

POLL = 0.25
"""Seconds one poll waits; also how soon a stop is noticed."""

LOUD, LOUD_EVERY = 5, 15
LONG_SESSION = 30.0
"""Seconds after which a connection counts as a good one."""

KAFKA_TIMEOUT_MS = 5_000

LAST_JOINING = 5.0
"""Seconds in which joining is brought to its end when told to stop meanwhile."""

MARK_EVERY = 5.0
"""Seconds between two commits of unchanged offsets: beside them Kafka keeps how far PostgreSQL is."""


class Consumer:
    """Reads until it is told to stop, whatever Kafka and PostgreSQL do meanwhile.

    Args:
        backlog: how many tasks are due and in no worker's hands (`SweepStore.undispatched`).
        stop: set from outside: finish the batch in hand, commit, leave the group.
    """

    def __init__(
        self,
        settings: Settings,
        intake: BatchIntake,
        offsets: BridgeStore,
        backlog: Callable[[], int],
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._offsets = offsets
        self._hold = Hold(backlog, settings.bridge_backlog)
        self._stop = stop
        self._progress = Progress()

    def run(self) -> None:
        """Read until stopped; a lost Kafka is waited for.

        Raises:
            ConfigurationError: the broker refuses us at the first attempt.
            TooManyBadRecords: see `BadInARow`.
        """
        failures = 0
        connected = False
        while not self._stop.is_set():
            try:
                ensure_topics(self._settings, self._stop)
                session = _Session(self._settings, self._intake, self._offsets, self._hold, self._progress)
            except (KafkaUnavailable, ConfigurationError) as error:
                if isinstance(error, ConfigurationError) and not connected:
                    raise
                failures = self._wait_after(failures, error)
                continue
            connected = True
            began = time.monotonic()
            try:
                session.run(self._stop)
            except KafkaError as error:
                if time.monotonic() - began > LONG_SESSION:
                    failures = 0
                failures = self._wait_after(failures, as_our_error(self._settings, error))
            finally:
                session.close()

    def _wait_after(self, failures: int, error: Exception) -> int:
        delay = pause_after(failures)
        log.log(
            # It is tried often, so not each failure is shouted.
            logging.WARNING if failures < LOUD or failures % LOUD_EVERY == 0 else logging.INFO,
            "bridge.kafka_away",
            extra={"why": str(error), "hint": getattr(error, "hint", None), "again_in_seconds": delay},
        )
        self._stop.wait(delay)
        return failures + 1


class _Session:
    """One connection to Kafka, from joining the group to leaving it."""

    def __init__(
        self, settings: Settings, intake: BatchIntake, offsets: BridgeStore, hold: Hold, progress: Progress
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._hold = hold
        self._progress = progress
        self._consumer: KafkaConsumer = open_consumer(settings)
        self._listener = GroupListener(self._consumer, settings.kafka_session_timeout)
        self._topics = (settings.topic("tasks"), settings.topic("events"))
        self._topic_ids: dict[str, str | None] = {}
        self._confirmed = Confirmed(offsets)
        self._marked_at = time.monotonic()
        self._marks_kept = False
        self._safe: dict[TopicPartition, int] = {}
        """Next offset of each partition, as PostgreSQL has committed it in this session, or knew it before."""
        self._assigned_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        self._consumer.subscribe(self._topics, listener=self._listener)
        while not stop.is_set():
            self._listener.check_joining()
            self._notice_new_topics()
            self._look_after_topics(stop)
            if self._hold.over():
                self._begin_reading()
                self._mark()
            records = self._poll()
            if records:
                self._take(records)
            self._progress.tell(self._lag)
        self._finish_joining()

    def _finish_joining(self) -> None:
        """Leave as a member: who goes while it joins is waited for by all who join after it."""
        give_up_at = time.monotonic() + LAST_JOINING
        while self._listener.is_joining and time.monotonic() < give_up_at:
            self._consumer.poll(timeout_ms=int(POLL * 1000))  # what is assigned is paused

    def close(self) -> None:
        """Commit what is safe and leave the group, so that others take over at once."""
        try:
            mine = self._consumer.assignment() - self._listener.unplaced()
            if last := {place: where for place, where in self._committable().items() if place in mine}:
                self._consumer.commit(last, timeout_ms=KAFKA_TIMEOUT_MS)
        except KafkaError as error:
            log.info("bridge.last_commit_failed", extra={"why": str(error), "then": "records are recognised"})
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=KAFKA_TIMEOUT_MS)

    # -- reading

    def _poll(self) -> list[Record]:
        fetched: Mapping[TopicPartition, Iterable[Any]] = self._consumer.poll(timeout_ms=int(POLL * 1000))
        unplaced = self._listener.unplaced()
        # A rebalance may come while a fetch is under way: what was fetched before a partition is placed is not read.
        return [_record(item) for place, items in fetched.items() if place not in unplaced for item in items]

    def _take(self, records: Sequence[Record]) -> None:
        before = dict(self._safe)
        try:
            self._progress.count(self._intake.take(records, self._commit, self._confirmed.offsets))
        except OffsetsForgotten as error:
            self._read_again(records, before)
            self._begin_anew({TopicPartition(*place) for place in error.places})
        except StoreUnavailable as error:
            self._read_again(records, before)
            self._pause(str(error))
        else:
            self._hold.succeeded()

    def _commit(self, records: Sequence[Record]) -> None:
        """Tell Kafka what is safe, without waiting: where it fails, records are read again and recognised."""
        following = {(record.topic, record.partition): record.offset + 1 for record in records}
        places = {TopicPartition(*place): offset for place, offset in following.items()}
        self._safe |= places
        self._confirmed.took(following)
        committable = {place: where for place, where in self._committable().items() if place in places}
        self._consumer.commit_async(committable, callback=_tell_failed_commit)

    def _committable(self) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            place: OffsetAndMetadata(offset, mark(self._topic_ids.get(place.topic), self._confirmed.seen), -1)
            for place, offset in self._safe.items()
        }

    def _mark(self) -> None:
        """Have Kafka know how far PostgreSQL is, also while nothing is taken in."""
        now = time.monotonic()
        if now - self._marked_at < MARK_EVERY:
            return
        self._marked_at = now
        mine = self._consumer.assignment() - self._listener.unplaced()
        last = {place: where for place, where in self._committable().items() if place in mine}
        if last and self._keeps_marks(min(last)):
            self._consumer.commit_async(last, callback=_tell_failed_commit)

    def _keeps_marks(self, place: TopicPartition) -> bool:
        """Whether the broker keeps what stands beside an offset. Where not, a commit would only tell that the topic is
        the one that it was, which nobody knows."""
        if not self._marks_kept:
            self._marks_kept = is_ours(self._group_offset(place))
        return self._marks_kept

    def _begin_anew(self, places: Collection[TopicPartition]) -> None:
        """PostgreSQL has forgotten what it knew of these: ask it where to go on."""
        log.warning("bridge.offsets_forgotten", extra={"partitions": sorted(map(place_name, places))})
        self._listener.unplace(place for place in places if self._owns(place))

    def _read_again(self, records: Sequence[Record], before: Mapping[TopicPartition, int]) -> None:
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for place, offset in first.items():
            now = self._safe.get(place)
            # Of a batch in several commits, the first ones may have succeeded.
            again = now if now is not None and now != before.get(place) else offset
            with given_up_meanwhile():
                self._consumer.seek(place, again)

    # -- pausing

    def _pause(self, why: str) -> None:
        self._hold.begin(why)
        self._pause_all()

    def _pause_all(self) -> None:
        with given_up_meanwhile():
            self._consumer.pause(*self._consumer.assignment())

    def _begin_reading(self) -> None:
        """Place what is newly assigned, and resume all, unless there is a reason to hold."""
        try:
            if self._hold.must_wait_for_backlog():
                self._pause_all()
                return
            if forgotten := self._confirmed.forgotten():
                self._begin_anew(forgotten)
            self._place(self._listener.unplaced())
        except StoreUnavailable as error:
            self._pause(str(error))
            return
        for place in self._consumer.paused() - self._listener.unplaced():
            with given_up_meanwhile():
                self._consumer.resume(place)

    # -- where to begin

    def _place(self, places: frozenset[TopicPartition]) -> None:
        mine = [place for place in places if self._owns(place)]
        if not mine:
            return
        self._topic_ids |= {place.topic: self._topic_id(place.topic) for place in mine}
        # Asked for before PostgreSQL is: another bridge may be committing still, there first.
        groups = {place: self._group_offset(place) for place in mine}
        starts = self._confirmed.starts(groups, self._topic_ids)
        for place, start in starts.items():
            self._safe.pop(place, None)
            if self._confirmed.covers(place, start):
                self._safe[place] = start.offset or 0
        back = {place for place, group in groups.items() if place in self._safe and goes_back(starts[place], group)}
        for place in starts.keys() - back:
            self._begin_at(place, starts[place])
        if back and self._set_group_back(back):
            for place in back:
                self._begin_at(place, starts[place])

    def _set_group_back(self, places: Collection[TopicPartition]) -> bool:
        """Tell the group where reading begins, before it does; False where a rebalance came between.

        Else, should we die after the first records, PostgreSQL would look restored: behind the group for no cause.
        """
        back = {place: where for place, where in self._committable().items() if place in places}
        try:
            self._consumer.commit(back, timeout_ms=KAFKA_TIMEOUT_MS)
        except CommitFailedError as error:
            _tell_failed_commit(back, error)  # not placed, they are asked for again, if they stay ours
            return False
        reach(FaultPoint.BRIDGE_SET_BACK)
        return True

    def _begin_at(self, place: TopicPartition, start: Start) -> None:
        with given_up_meanwhile():
            if start.offset is None:
                self._consumer.seek_to_beginning(place)
            else:
                self._consumer.seek(place, start.offset)
        self._listener.placed(place)
        log.info(
            "bridge.reading",
            extra={
                "topic": place.topic,
                "partition": place.partition,
                "from_offset": "beginning" if start.offset is None else start.offset,
                "why": start.why,
            },
        )

    def _group_offset(self, place: TopicPartition) -> GroupOffset | None:
        committed = self._consumer.committed(place, metadata=True, timeout_ms=KAFKA_TIMEOUT_MS)
        if committed is None or committed.offset < 0:
            return None
        return GroupOffset(committed.offset, committed.metadata)

    def _notice_new_topics(self) -> None:
        """A topic deleted and made again under our feet has another id: begin it anew, or records are passed over."""
        for topic, known in self._topic_ids.items():
            now = self._topic_id(topic)
            if known and now and now != known:
                log.warning("bridge.topic_made_anew", extra={"topic": topic})
                self._confirmed.made_anew(topic)
                self._listener.unplace(place for place in self._consumer.assignment() if place.topic == topic)

    def _topic_id(self, topic: str) -> str | None:
        # No public way leads there short of a request; the cluster's metadata is kept fresh in the background.
        found = self._consumer._client.cluster.topic_id(topic)
        return None if found is None else str(found)

    def _look_after_topics(self, stop: threading.Event) -> None:
        """A broker that started anew without its topics assigns nothing: make them again."""
        now = time.monotonic()
        assigned = self._consumer.assignment()
        self._confirmed.given_up(assigned)
        if assigned:
            self._assigned_at = now
        elif now - self._assigned_at > 5 + self._settings.kafka_session_timeout:
            self._assigned_at = now
            try:
                ensure_topics(self._settings, stop)
            except KafkaUnavailable as error:
                log.warning("bridge.kafka_away", extra={"why": str(error)})

    def _owns(self, place: TopicPartition) -> bool:
        return place in self._consumer.assignment()

    def _lag(self) -> int:
        """Records known to be ahead of us, by the fetches' high watermarks."""
        lag = 0
        for place in self._consumer.assignment():
            end, here = self._consumer.highwater(place), self._safe.get(place)
            if end is not None and here is not None:
                lag += max(0, end - here)
        return lag


def _record(item: Any) -> Record:
    return Record(
        item.topic,
        item.partition,
        item.offset,
        -1 if item.timestamp is None else item.timestamp,
        item.key,
        item.value,
        tuple((name, value or b"") for name, value in item.headers) if item.headers else (),
    )


def _tell_failed_commit(offsets: Mapping[TopicPartition, Any], response: Any) -> None:
    if isinstance(response, Exception):
        log.info(
            "bridge.commit_failed",
            extra={
                "partitions": sorted(map(place_name, offsets)),
                "why": str(response),
                "then": "records are recognised",
            },
        )
