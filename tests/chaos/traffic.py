"""Producing the planned records, whatever the broker does; and reading topics whole, for the audit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.chaos.plan import Arrival

CONFIRM = 120.0
"""Seconds in which the broker must confirm what was produced, once the storm is over."""


SILENCE = 15.0
"""Seconds without a record after which a topic has no more, though its broker says so: the embedded one is slow."""

SETTLED = 1.0
"""Seconds without a record after all was read."""


def storm_producer(kafka: Mapping[str, Any], **more: Any) -> KafkaProducer:
    """A producer that outlasts every outage of a storm.

    One request at a time keeps the order; a repeated send may double a record, as Kafka's producers do.
    """
    return KafkaProducer(
        **kafka,
        acks="all",
        enable_idempotence=False,
        max_in_flight_requests_per_connection=1,
        retries=1_000_000,
        delivery_timeout_ms=600_000,
        request_timeout_ms=5_000,
        max_block_ms=600_000,
        **more,
    )


class Sent:
    """A record on its way, sent again for as long as the broker refuses it.

    The embedded one does, for good, where two producers send to one partition at the same moment.
    """

    def __init__(self, producer: KafkaProducer, topic: str, value: bytes, key: bytes | None) -> None:
        self._send = partial(producer.send, topic, value, key=key)
        self._future = self._send()

    def again_if_refused(self) -> None:
        """Send it anew where the broker has refused it."""
        if self._future.failed():
            self._future = self._send()

    def confirmed(self, until: float) -> Any:
        """Where it lies: topic, partition, offset. Raises where the broker has not taken it by then (monotonic)."""
        while True:
            self.again_if_refused()
            try:
                return self._future.get(timeout=max(1.0, until - time.monotonic()))
            except KafkaError:
                if time.monotonic() >= until:
                    raise


class Traffic:
    """Produces a plan's records at their times."""

    def __init__(self, kafka: Mapping[str, Any], topic: Callable[[str], str]) -> None:
        self._topic = topic
        self._producer = storm_producer(kafka, linger_ms=5)
        self._stopped = threading.Event()
        self._sent: list[Sent] = []
        self.places: list[tuple[str, int, int]] = []
        """Topic, partition and offset of everything that was produced, once it is confirmed."""

    def run(self, arrivals: Sequence[Arrival], began: float) -> None:
        """Produce each at its time (seconds after ``began``, monotonic)."""
        for arrival in arrivals:
            if self._stopped.wait(max(0.0, began + arrival.at - time.monotonic())):
                return
            key = None if arrival.key is None else arrival.key.encode()
            self._sent.append(Sent(self._producer, self._topic(arrival.topic), arrival.value, key))

    def stop(self) -> None:
        """Produce no more."""
        self._stopped.set()

    def confirm(self) -> None:
        """Wait until the broker has confirmed everything. Raises where it does not."""
        until = time.monotonic() + CONFIRM
        for sent in self._sent:
            where = sent.confirmed(until)
            self.places.append((where.topic, where.partition, where.offset))
        self._producer.close()


def read_topic(kafka: Mapping[str, Any], topic: str) -> list[Any]:
    """All records of a topic."""
    consumer = KafkaConsumer(**kafka, enable_auto_commit=False, group_id=None, max_poll_records=2000)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        found: list[Any] = []
        heard_at = time.monotonic()
        # The embedded broker tells the end of a topic too low, but each fetch tells how far its partition goes. An
        # offset that it gave away and died before it kept the record is never read, so: at last when nothing comes.
        while time.monotonic() - heard_at < (SILENCE if _goes_on(consumer, partitions) else SETTLED):
            records = [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
            if records:
                heard_at = time.monotonic()
            found.extend(records)
        return found
    finally:
        consumer.close()


def _goes_on(consumer: Any, partitions: Sequence[TopicPartition]) -> bool:
    """Whether there is more to read, or nobody knows."""
    ends = {one: consumer.highwater(one) for one in partitions}
    return any(end is None or consumer.position(one, timeout_ms=10_000) < end for one, end in ends.items())


def ends_of_topics(kafka: Mapping[str, Any], *topics: str) -> dict[str, int]:
    """Of each ``topic partition`` the offset behind its last record."""
    ends: dict[str, int] = {}
    for record in (record for topic in topics for record in read_topic(kafka, topic)):
        place = f"{record.topic} {record.partition}"
        ends[place] = max(ends.get(place, 0), record.offset + 1)
    return ends
