"""Celery's events about steps, for Flower: in a worker through its own buffered dispatcher, elsewhere many at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery, bootsteps
from celery.events import Event, get_exchange
from celery.utils.nodenames import anon_nodename
from celery.utils.time import utcoffset
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from orchestrator.domain.json_text import json_text

_AT_ONCE = 100
"""Events in one message."""

_MANY = "task.multi"
"""Routing key of several events about tasks in one message."""

_MOST_GATHERED = 5_000
"""Events that are sent before their time, by whichever thread has one more."""

FLUSH_EVERY = 0.1
"""Seconds that an event may wait for others in a worker."""


class BufferedEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Sends what a worker tells of its Celery tasks many at once, ten times a second.

    Celery would send them with each turn of its loop, one or two at a time: more than all else that it does for a step.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._timer: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Take the flushing over; again after each reconnection, with another dispatcher."""
        in_worker(consumer)
        own = consumer.event_dispatcher
        if own is None or not own.buffer_group:
            return
        own.on_send_buffered = None
        own.buffer_limit = _MOST_GATHERED
        self._timer = consumer.timer.call_repeatedly(FLUSH_EVERY, _flush, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Send what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _flush(consumer)

    shutdown = stop


def _flush(consumer: Any) -> None:
    own = consumer.event_dispatcher
    if own is None:
        return
    with suppress(OSError, OperationalError, RedisError):  # the connection's own steps notice
        by_us = own.serializer == "json"
        if by_us:
            _send_gathered(own)
        own.flush(groups=not by_us)


def _send_gathered(own: Any) -> None:
    """Send the events about tasks as kombu would, without what its producer and its encoder take for it."""
    gathered = own._group_buffer["task"]
    if not gathered or own.producer is None:
        return
    channel, exchange = own.producer.channel, own.exchange.name
    topic = channel._get_publish_topic(exchange, _MANY)
    with own.mutex, channel.conn_or_acquire() as client:
        # Those that other threads add meanwhile wait for the next time.
        for _ in range(0, len(gathered), _AT_ONCE):
            batch = gathered[:_AT_ONCE]
            client.publish(topic, message_with(batch, exchange=exchange, hostname=own.hostname))
            del gathered[: len(batch)]


def message_with(events: Sequence[Mapping[str, Any]], *, exchange: str, hostname: str) -> str:
    """What goes to Redis for these events about tasks (kombu's form, its body not wrapped once more)."""
    return json_text(
        {
            "body": json_text(events).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"hostname": hostname},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {"exchange": exchange, "routing_key": _MANY},
                "priority": 0,
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).decode()


_consumers: dict[int, Any] = {}
"""Celery's consumer by process id: a prefork child has none, and must not write to its parent's connection."""


def in_worker(consumer: Any) -> None:
    """Tell through this worker's event dispatcher from now on. It has another one after each reconnection."""
    _consumers[os.getpid()] = consumer


def dispatcher() -> Any | None:
    """The worker's event dispatcher; None where this process is no worker, or is not connected."""
    return getattr(_consumers.get(os.getpid()), "event_dispatcher", None)


def tell_sent(app: Celery, connection: Any, sent: Iterable[Mapping[str, Any]]) -> None:
    """Tell that Celery tasks were sent over this connection."""
    if not app.conf.task_send_sent_event:
        return
    if (own := dispatcher()) is not None:
        for fields in sent:
            own.send("task-sent", **fields)
        return
    producer = app.amqp.Producer(connection)
    _publish(app, producer, anon_nodename(), [("task-sent", fields) for fields in sent])


def tell(app: Celery, hostname: str, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Tell of a Celery task of this worker: kinds of events with their fields. Raises nothing: it is news, no more."""
    if not app.conf.worker_send_task_events:
        return
    if (own := dispatcher()) is not None:
        with suppress(OSError, KombuError, RedisError):  # the connection's own steps notice
            for kind, fields in events:
                own.send(kind, **fields)
        return
    with suppress(OSError, KombuError, RedisError), app.producer_or_acquire() as producer:
        _publish(app, producer, hostname, events)


def _publish(app: Celery, producer: Any, hostname: str, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    common = {"hostname": hostname, "utcoffset": utcoffset(), "pid": os.getpid(), "clock": app.clock.forward()}
    exchange = get_exchange(producer.connection, name=app.conf.event_exchange)
    for first in range(0, len(events), _AT_ONCE):
        producer.publish(
            [Event(kind, dict(fields), **common) for kind, fields in events[first : first + _AT_ONCE]],
            routing_key=_MANY,
            exchange=exchange.name,
            declare=[exchange],
            serializer=app.conf.event_serializer,
            headers={"hostname": hostname},
            delivery_mode=1,
            retry=False,
        )
