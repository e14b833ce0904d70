"""Ringing doorbells: Celery messages of ids and numbers, and how many of them wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import MOST_URGENT, PLACES
from orchestrator.errors import DispatchFailed
from orchestrator.worker.chain import ring_of, send, sent_event
from orchestrator.worker.events import tell_sent
from orchestrator.worker.names import CANCELS_QUEUE, CONTROL_QUEUE, DELEGATION_QUEUES, LANE_QUEUES, broker_priority

_BROKER_TROUBLE = (OperationalError, KombuError, RedisError, OSError)

_AT_ONCE = 500
"""Messages that go to Redis in one round trip."""

_MARK = "mark"
_SEEN = "seen"
"""Not part of the mark: what is kept here must not make an emptied Redis look as if it still had doorbells."""
"""A hash beside the queues that goes when they do. (Of the commands that kombu puts its key prefix to.)"""


def _lists(channel: Any) -> list[str]:
    """The lists of commands, then of each place that of its steps and that of its delegations."""
    commands = [(queue, priority) for queue in (CONTROL_QUEUE, CANCELS_QUEUE) for priority in channel.priority_steps]
    places = [
        (queue, broker_priority(urgency))
        for urgency in range(MOST_URGENT, -1, -1)
        for queues in zip(LANE_QUEUES, DELEGATION_QUEUES, strict=True)
        for queue in queues
    ]
    return [channel._q_for_pri(queue, priority) for queue, priority in (*commands, *places)]


class CeleryDispatcher:
    """Implements `orchestrator.flow.ports.Dispatcher` on Celery's broker. Safe to share between threads."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def dispatch(self, doorbells: Sequence[Dispatch], parent_id: str | None = None) -> None:
        """Send each as a chain of its own, under this Celery task, else under the one that is at work here, if any.

        Raises:
            DispatchFailed: the broker did not take (all of) them; the sweep repeats what was lost.
        """
        if not doorbells:
            return
        if parent_id is None and (current := self.app.current_worker_task) is not None:
            parent_id = current.request.id
        rings = [ring_of(doorbell, parent_id) for doorbell in doorbells]
        with self._connection(lambda: f"{len(rings)} step messages were not all sent") as connection:
            for first in range(0, len(rings), _AT_ONCE):
                send(connection.default_channel, rings[first : first + _AT_ONCE])
            tell_sent(self.app, connection, map(sent_event, rings))

    def waiting(self) -> Sequence[int]:
        """Step and delegation messages waiting in the broker by place, those in a worker's hands not counted.

        Raises:
            DispatchFailed: the broker cannot be asked.
        """
        return self.all_waiting()[1]

    def all_waiting(self) -> tuple[int, Sequence[int]]:
        """How many sweeps, people's commands and cancels of calls wait, and what `waiting` says, in one look."""
        with self._connection(lambda: "it does not tell what waits") as connection:
            channel = connection.default_channel
            lists = _lists(channel)
            with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                for name in lists:
                    pipe.llen(name)
                counts = [int(count) for count in pipe.execute()]
        commands = len(lists) - 2 * PLACES
        steps, delegations = counts[commands::2], counts[commands + 1 :: 2]
        return sum(counts[:commands]), [one + other for one, other in zip(steps, delegations, strict=True)]

    def emptied(self) -> bool:
        """Whether our mark is gone: Redis was emptied, lost its data or is new. Raises `DispatchFailed`."""
        with self._client("it does not tell whether it was emptied") as client:
            return not client.hlen(_MARK)

    def mark(self) -> None:
        """Leave our mark. Raises `DispatchFailed`."""
        with self._client("it takes no mark") as client:
            client.hset(_MARK, "left_at", datetime.now(UTC).isoformat())

    def keep_seen(self, text: str) -> None:
        """Keep how far PostgreSQL has come (`orchestrator.worker.memory`). Raises `DispatchFailed`."""
        with self._client("it keeps nothing") as client:
            client.hset(_SEEN, "postgres", text)

    def kept_seen(self) -> str | None:
        """What `keep_seen` has kept last. Raises `DispatchFailed`."""
        with self._client("it does not tell what was kept") as client:
            found = client.hget(_SEEN, "postgres")
            return found.decode() if isinstance(found, bytes) else found

    def backlog(self) -> int:
        """All step and delegation messages that wait in the broker. Raises `DispatchFailed`."""
        return sum(self.waiting())

    def broker_info(self) -> Mapping[str, Any]:
        """What Redis says of itself (INFO). Raises `DispatchFailed`."""
        with self._client("it does not answer") as client:
            info: Mapping[str, Any] = client.info()
            return info

    def workers(self, seconds: float = 2.0) -> Sequence[str]:
        """Names of the workers that answer within this time. Raises `DispatchFailed`."""
        with _named_errors(lambda: "workers cannot be asked"):
            answers = self.app.control.ping(timeout=seconds)
        return sorted(name for answer in answers or () for name in answer)

    def close(self) -> None:
        """Close the connections to the broker."""
        self.app.close()

    @contextmanager
    def _client(self, trouble: str) -> Iterator[Any]:
        """Redis itself, as Celery talks to it."""
        with self._connection(lambda: trouble) as connection, connection.default_channel.conn_or_acquire() as client:
            yield client

    @contextmanager
    def _connection(self, trouble: Callable[[], str]) -> Iterator[Any]:
        """A connection of the app's pool; what goes wrong is named by ``trouble``.

        Not one of its producers: they are made ready anew each time, which costs as much again as a message.
        """
        with _named_errors(trouble), self.app.connection_or_acquire() as connection:
            yield connection


@contextmanager
def _named_errors(trouble: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except _BROKER_TROUBLE as error:
        raise DispatchFailed(
            f"Celery's broker: {trouble()}: {str(error).strip() or type(error).__name__}",
            hint="Nothing is lost: the sweep sends it as soon as Redis is back. `orchestrator doctor` tells more.",
        ) from error
