"""Producing and waiting for the broker's word: single records for the command line and for replays, and what counts
as that word for all who produce.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError

from orchestrator.errors import KafkaUnavailable
from orchestrator.kafka.connection import as_our_error, open_producer
from orchestrator.settings import Settings

CONFIRM_TIMEOUT = 30.0
"""Seconds for all of one call's records together."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Produced:
    """Where a record came to lie."""

    topic: str
    partition: int
    offset: int


def await_place(future: Any, timeout: float) -> Produced:
    """Wait until the broker has said where a record lies.

    kafka-python also counts it as a success where a broker refuses a repeated record because its sequence number has
    gone by. Whether the first one is kept is then the broker's belief: one that notes the number before it keeps the
    record, and dies in between, says so of a record that it has lost. So only a place counts.

    Args:
        future: what the producer's ``send`` gave.
        timeout: seconds.

    Raises:
        KafkaError: not confirmed, or without a place.
            Sent again it is a new record, which no broker takes for a repetition.
    """
    where = future.get(timeout=timeout)
    if where.offset < 0:
        raise KafkaError(f"{where.topic} {where.partition}: the record counts as repeated, and has no offset")
    return Produced(where.topic, where.partition, where.offset)


def produce(settings: Settings, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> Produced:
    """Produce one record and wait until the broker confirmed it.

    Args:
        topic: its full name, as `Settings.topic` gives it.

    Raises:
        KafkaUnavailable: not confirmed; it may have arrived all the same.
        ConfigurationError: the broker refuses us.
    """
    return produce_all(settings, [NewRecord(topic, key, value, headers)])[0]


def produce_all(settings: Settings, records: Iterable[NewRecord]) -> Sequence[Produced]:
    """Produce several records over one connection, in order for each partition, and wait for all. As `produce`."""
    producer = open_producer(settings)
    try:
        sent = [
            producer.send(record.topic, value=record.value, key=record.key, headers=list(record.headers))
            for record in records
        ]
        producer.flush(timeout=CONFIRM_TIMEOUT)
        return [await_place(future, CONFIRM_TIMEOUT) for future in sent]
    except KafkaError as error:
        ours = as_our_error(settings, error)
        if isinstance(ours, KafkaUnavailable):
            raise KafkaUnavailable(
                f"Kafka did not confirm the record: {error}",
                hint="It may have arrived all the same; sending it again under the same task_id or message_id is safe.",
            ) from error
        raise ours from error
    finally:
        producer.close(timeout=5)
