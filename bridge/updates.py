"""The outbox goes to Kafka: task updates and dead letters, each as often as needed and in order for each task.

Of several bridges one publishes at a time. A row is marked only after the broker confirmed it; a bridge that dies
between the two publishes it again, and readers tell by ``update_id`` or ``dead_letter_id``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from bridge.pause import pause_after
from orchestrator.domain.ids import header_safe
from orchestrator.domain.json_text import json_text
from orchestrator.errors import OrchestratorError
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import OutboxRow, OutboxStore
from orchestrator.kafka.connection import as_our_error, open_producer
from orchestrator.kafka.producer import await_place
from orchestrator.kafka.topics import ensure_topics
from orchestrator.schemas import SCHEMA_VERSION
from orchestrator.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
SOONEST, LATEST = 0.02, 0.5
"""Seconds between two looks into the outbox: soon after there was work, later while there is none."""

ELECTION_EVERY = 2.0
CONFIRM_TIMEOUT = 35.0
DRAIN = 3.0
"""Seconds for publishing what is left when told to stop."""

_LARGE_PART = 10_000
"""Characters of a dead letter's key, value or headers from which each is left out where the whole is too large."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class Publisher:
    """Publishes until told to stop, whatever Kafka and PostgreSQL do meanwhile."""

    def __init__(self, settings: Settings, outbox: OutboxStore, stop: threading.Event) -> None:
        self._settings = settings
        self._outbox = outbox
        self._stop = stop
        self._producer: KafkaProducer | None = None
        self._topics = {"update": settings.topic("updates"), "dead_letter": settings.topic("dead_letters")}
        self._failures = 0

    def run(self) -> None:
        """Publish until stopped, then for a moment what is left."""
        try:
            while not self._stop.is_set():
                self._stand()
        finally:
            self._close_producer()

    def _stand(self) -> None:
        """Stand for election, and publish as long as we are elected and all goes well."""
        try:
            with self._outbox.as_publisher() as elected:
                if elected:
                    log.info("updates.elected")
                    self._publish_until_stopped()
                else:
                    self._stop.wait(ELECTION_EVERY)
        except (OrchestratorError, KafkaError) as error:
            self._recover(error)

    def _recover(self, error: OrchestratorError | KafkaError) -> None:
        self._close_producer()
        ours = as_our_error(self._settings, error) if isinstance(error, KafkaError) else error
        delay = pause_after(self._failures)
        self._failures += 1
        log.warning(
            "updates.not_published",
            extra={"why": str(ours), "hint": ours.hint, "again_in_seconds": delay, "then": "the outbox keeps them"},
        )
        if self._stop.wait(delay) or not isinstance(error, KafkaError):
            return
        try:
            # A broker that started anew may lack the topics.
            ensure_topics(self._settings, self._stop)
        except OrchestratorError as away:
            log.info("updates.kafka_away", extra={"why": str(away)})

    def _publish_until_stopped(self) -> None:
        delay = SOONEST
        while True:
            stopping = self._stop.is_set()
            published = self.publish_batch()
            self._failures = 0
            if stopping:
                self._drain(published)
                return
            if published == BATCH:
                continue
            delay = SOONEST if published else min(delay * 2, LATEST)
            self._stop.wait(delay)

    def _drain(self, published: int) -> None:
        deadline = time.monotonic() + DRAIN
        while published and time.monotonic() < deadline:
            published = self.publish_batch()

    def publish_batch(self) -> int:
        """Publish the oldest rows; how many.

        Raises:
            StoreUnavailable: PostgreSQL is away.
            KafkaError, KafkaUnavailable: the broker did not confirm; confirmed rows are marked all the same.
        """
        rows = list(self._outbox.unpublished(BATCH))
        waiting: Sequence[OutboxRow] = rows
        while waiting:
            # At most one row a key at once: should one fail, none behind it is published before it.
            wave, waiting = _first_of_each_key(waiting)
            self._publish_wave(wave)
        return len(rows)

    def _publish_wave(self, wave: Sequence[OutboxRow]) -> None:
        producer = self._get_producer()
        reach(FaultPoint.OUTBOX_READ)
        sent = [(row, self._send(producer, row, _value(row, self._settings.max_message_bytes))) for row in wave]
        confirmed: list[int] = []
        failure: KafkaError | None = None
        for row, future in sent:
            try:
                self._confirm(producer, row, future)
                confirmed.append(row.id)
            except KafkaError as error:
                failure = error
        reach(FaultPoint.OUTBOX_SENT)
        if confirmed:
            self._outbox.mark_published(confirmed)
        if failure is not None:
            raise failure

    def _confirm(self, producer: KafkaProducer, row: OutboxRow, future: Any) -> None:
        try:
            await_place(future, CONFIRM_TIMEOUT)
        except _TOO_LARGE as error:
            log.warning("updates.too_large", extra={"outbox_id": row.id, "key": row.key, "why": str(error)})
            await_place(self._send(producer, row, _encoded(_shortened(row))), CONFIRM_TIMEOUT)

    def _send(self, producer: KafkaProducer, row: OutboxRow, value: bytes) -> Any:
        key = None if row.key is None else row.key.encode()
        return producer.send(self._topics[row.kind], value=value, key=key, headers=_headers(row))

    def _get_producer(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = open_producer(self._settings)
        return self._producer

    def _close_producer(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.close(timeout=2)


def _first_of_each_key(rows: Sequence[OutboxRow]) -> tuple[list[OutboxRow], list[OutboxRow]]:
    first: list[OutboxRow] = []
    later: list[OutboxRow] = []
    seen: set[str] = set()
    for row in rows:
        if row.key is not None and row.key in seen:
            later.append(row)
            continue
        if row.key is not None:
            seen.add(row.key)
        first.append(row)
    return first, later


def _headers(row: OutboxRow) -> list[tuple[str, bytes]]:
    ours = {"schema_version": str(row.body.get("schema_version", SCHEMA_VERSION))}
    if (task_id := row.body.get("task_id")) is not None:
        ours["task_id"] = header_safe(str(task_id))
    for name in ("update_id", "dead_letter_id"):
        if (number := row.body.get(name)) is not None:
            ours[name] = str(number)
    return [(name, text.encode()) for name, text in {**row.headers, **ours}.items()]


def _value(row: OutboxRow, limit: int) -> bytes:
    """The row as a record's value; without its large parts where it would be beyond what brokers take by default."""
    value = _encoded(row.body)
    return value if len(value) <= limit else _encoded(_shortened(row))


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json_text({"schema_version": SCHEMA_VERSION, **body})


def _shortened(row: OutboxRow) -> dict[str, Any]:
    if row.kind == "update":
        return {**row.body, "collected_data": None, "truncated": True}
    record = dict(row.body.get("record") or {})
    for part, emptied in (("value_base64", None), ("key_base64", None), ("headers", [])):
        if len(json.dumps(record.get(part))) > _LARGE_PART:
            record[part] = emptied
    return {**row.body, "record": record, "truncated": True}
