"""Celery's events about steps, for Flower: in a worker through its own buffered dispatcher, elsewhere many at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from celery import Celery
from celery.events import Event, get_exchange
from celery.utils.nodenames import anon_nodename
from celery.utils.time import utcoffset

_AT_ONCE = 100
"""Events in one message."""

_consumers: dict[int, Any] = {}
"""Celery's consumer by process id: a prefork child has none, and must not write to its parent's connection."""


def in_worker(consumer: Any) -> None:
    """Tell through this worker's event dispatcher from now on. It has another one after each reconnection."""
    _consumers[os.getpid()] = consumer


def dispatcher() -> Any | None:
    """The worker's event dispatcher; None where this process is no worker, or is not connected."""
    return getattr(_consumers.get(os.getpid()), "event_dispatcher", None)


def tell_sent(app: Celery, producer: Any, sent: Iterable[Mapping[str, Any]]) -> None:
    """Tell that Celery tasks were sent."""
    if not app.conf.task_send_sent_event:
        return
    if (own := dispatcher()) is not None:
        for fields in sent:
            own.send("task-sent", **fields)
        return
    clock = app.clock.forward()
    events = [Event("task-sent", dict(fields), clock=clock, **_who()) for fields in sent]
    exchange = get_exchange(producer.connection, name=app.conf.event_exchange)
    for first in range(0, len(events), _AT_ONCE):
        producer.publish(
            events[first : first + _AT_ONCE],
            routing_key="task.multi",
            exchange=exchange.name,
            declare=[exchange],
            serializer=app.conf.event_serializer,
            headers={"hostname": _who()["hostname"]},
            delivery_mode=1,
            retry=False,
        )


def _who() -> dict[str, Any]:
    return {"hostname": anon_nodename(), "utcoffset": utcoffset(), "pid": os.getpid()}
