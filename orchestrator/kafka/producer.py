"""Producing single records and waiting for the broker's word: for the command line and for replays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        placed = [future.get(timeout=CONFIRM_TIMEOUT) for future in sent]
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
    return [Produced(where.topic, where.partition, where.offset) for where in placed]
