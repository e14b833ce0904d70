"""The chain of a task's steps, as Celery carries it: delivery, never state.

A doorbell is a chain of one step whose root id is the task's id; a running step sends its successor, so all Celery
tasks of a business task hang under one root and carry ``task_id`` as a keyword, by which Flower finds them.

Messages are written as Celery and kombu would write them (protocol 2), without what a chain, a producer and routing
cost for each: a step's message is the same each time but for its ids.
"""

from __future__ import annotations

import base64
import socket
import uuid
from collections.abc import Sequence
from functools import cache
from os import getpid
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.json_text import json_text
from orchestrator.domain.value import Value
from orchestrator.worker.names import (
    CANCEL_CALL,
    CANCELS_QUEUE,
    DELEGATE,
    DELEGATION_QUEUES,
    LANE_QUEUES,
    STEP,
    broker_priority,
    celery_id,
    celery_root,
)


class Ring(Value, frozen=True):
    """One message to send: which Celery task, with which ids, into which list."""

    celery_id: str
    name: str
    place: dict[str, Any]
    """Its keyword arguments."""
    root_id: str
    parent_id: str | None
    queue: str
    priority: int
    """The broker's: 0 is served first."""


def ring_of(doorbell: Dispatch, parent_id: str | None = None) -> Ring:
    """The message that a doorbell is, sent by the Celery task ``parent_id`` or by nobody in particular."""
    place: dict[str, Any] = {"task_id": doorbell.task_id, "step": doorbell.step}
    if doorbell.index is not None:
        place["index"] = doorbell.index
    if doorbell.cancels:
        name, queue = CANCEL_CALL, CANCELS_QUEUE
    elif doorbell.index is None:
        name, queue = STEP, LANE_QUEUES[doorbell.lane]
    else:
        name, queue = DELEGATE, DELEGATION_QUEUES[doorbell.lane]
    return Ring(
        celery_id=celery_id(**place, cancels=doorbell.cancels),
        name=name,
        place=place,
        root_id=celery_root(doorbell.task_id),
        parent_id=parent_id,
        queue=queue,
        priority=broker_priority(doorbell.priority),
    )


def send(channel: Any, rings: Sequence[Ring]) -> None:
    """Put these messages into their lists, in one round trip.

    Args:
        channel: kombu's channel to Redis.
        rings: what to send, in this order.
    """
    with channel.conn_or_acquire() as client:
        if len(rings) == 1:
            _push(client, channel._q_for_pri(rings[0].queue, rings[0].priority), message_of(rings[0]))
            return
        with client.pipeline(transaction=False) as pipe:
            for ring in rings:
                pipe.lpush(channel._q_for_pri(ring.queue, ring.priority), message_of(ring))
            pipe.execute()


def _push(client: Any, name: str, message: str) -> None:
    """LPUSH without what the library measures and prepares for each command: a worker sends one with each step.

    Where the connection was lost it is left to the library, which connects anew and tries again. A message that was
    pushed twice is one doorbell rung twice.
    """
    connection = client.connection_pool.get_connection()
    try:
        command = ["LPUSH", name, message]
        if hasattr(client, "_prefix_args"):  # kombu's, where its channel has a key prefix
            command = client._prefix_args(command)
        connection.send_command(*command)
        connection.read_response()
        return
    except RedisTimeoutError:  # it has waited long enough
        connection.disconnect()
        raise
    except (RedisConnectionError, OSError):
        connection.disconnect()
    finally:
        client.connection_pool.release(connection)
    client.lpush(name, message)


def message_of(ring: Ring) -> str:
    """What lies in Redis for it."""
    body = json_text([[], ring.place, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": ring.name,
            "id": ring.celery_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": ring.root_id,
            "parent_id": ring.parent_id,
            "argsrepr": "()",
            "kwargsrepr": repr(ring.place),
            "origin": _origin(),
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": ring.celery_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": ring.queue},
            "priority": ring.priority,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json_text(message).decode()


def sent_event(ring: Ring) -> dict[str, Any]:
    """The fields of Celery's event ``task-sent`` for it."""
    return {**received_event(ring), "queue": ring.queue, "exchange": "", "routing_key": ring.queue}


def received_event(ring: Ring) -> dict[str, Any]:
    """The fields of Celery's event ``task-received`` for it."""
    return {
        "uuid": ring.celery_id,
        "root_id": ring.root_id,
        "parent_id": ring.parent_id,
        "name": ring.name,
        "args": "()",
        "kwargs": repr(ring.place),
        "retries": 0,
        "eta": None,
        "expires": None,
    }


def _origin() -> str:
    return _origin_of(getpid())


@cache
def _origin_of(pid: int) -> str:
    return f"gen{pid}@{socket.gethostname()}"
