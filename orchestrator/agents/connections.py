"""Idle connections to agents: kept for the next call, but not before they have rested.

An agent that answers twice sends the second answer unasked, a moment after the first. On a connection that serves
another call by then it would be taken for the answer to that one: a wrong value in the wrong task. A connection that
rests shows what is sent unasked before it is used again, and is then closed.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Iterable

from urllib3.connection import HTTPConnection

REST = 1.0
"""Seconds a connection rests after an answer, as long as `ENOUGH` suffice for that."""

LEAST_REST = 0.25
"""Seconds it rests at least."""

ENOUGH = 100
"""Connections at rest to one host from which on the one that has rested for longest serves again, for a shorter time.
Some 400 calls a second of one process would need 400 connections of the agent's, most of them to lie there."""

IDLE_LIMIT = 30.0
"""Seconds after which an idle connection is not used again: the agent may just be closing it, and a request that
meets that is one whose fate nobody knows. Agents keep idle connections for 60 s by the contract."""


class IdleConnections:
    """Those to one host. Safe to share between threads.

    Args:
        most: connections kept; beyond it the one idle for longest is closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._closed = False
        self._since: list[float] = []
        self._idle: list[HTTPConnection] = []
        """Connections in the order of ``_since``, when each was given back (monotonic)."""
        weakref.finalize(self, _close_each, self._idle)  # whoever forgets to close leaves no sockets behind

    def take(self) -> HTTPConnection | None:
        """The one used last among those that have rested and were not idle for too long; None where there is none.

        Of `ENOUGH` or more of which none has rested for long, the one that has rested longest.

        It is closed where the agent has closed it, or has sent anything that nobody asked for.
        """
        with self._lock:
            now = time.monotonic()
            place = bisect_right(self._since, now - REST) - 1
            if place < 0 and len(self._since) >= ENOUGH and self._since[0] <= now - LEAST_REST:
                place = 0
            if place < 0 or self._since[place] < now - IDLE_LIMIT:
                return None
            del self._since[place]
            taken = self._idle.pop(place)
        if not taken.is_connected:
            taken.close()
        return taken

    def give(self, connection: HTTPConnection) -> None:
        """Keep a connection, and close those that nobody will use any more."""
        with self._lock:
            now = time.monotonic()
            self._since.append(now)
            self._idle.append(connection)
            too_many = len(self._idle) - (0 if self._closed else self._most)
            leaving = self._remove(max(bisect_right(self._since, now - IDLE_LIMIT), too_many))
        _close_each(leaving)

    def close(self) -> None:
        """Close all, and from now on each that is given back."""
        with self._lock:
            self._closed = True
            leaving = self._remove(len(self._idle))
        _close_each(leaving)

    def _remove(self, count: int) -> list[HTTPConnection]:
        """Take out those idle for longest. Called under the lock."""
        removed = self._idle[: max(count, 0)]
        del self._since[: len(removed)], self._idle[: len(removed)]
        return removed


def _close_each(connections: Iterable[HTTPConnection]) -> None:
    for one in connections:
        one.close()
