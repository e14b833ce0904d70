"""Idle connections to agents: kept for the next call, but not before they have rested.

An agent that answers twice sends the second answer unasked, a moment after the first. On a connection that serves
another call by then it would be taken for the answer to that one: a wrong value in the wrong task. A connection that
rests shows what is sent unasked before it is used again, and is then closed.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import bisect_right
from typing import Any

REST = 1.0
"""Seconds a connection rests after an answer."""

IDLE_LIMIT = 30.0
"""Seconds after which an idle connection is not used again: the agent may just be closing it, and a request that
meets that is one whose fate nobody knows. Agents keep idle connections for 60 s by the contract."""

_EMPTYING = object()
"""urllib3 names a time-out where it wants a connection to use, and none where it takes all out to close them."""


class RestingQueue:
    """What urllib3's pool of one host takes as its queue: gives the connection used last among those that have rested.

    Args:
        maxsize: idle connections kept; beyond it the one idle for longest is closed.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._lock = threading.Lock()
        self._since: list[float] = []
        self._idle: list[Any] = []
        """Connections in the order of ``_since``, when each was given back (monotonic)."""

    def get(self, block: bool = True, timeout: Any = _EMPTYING) -> Any:  # noqa: ARG002 - urllib3's queue
        """A connection that has rested. Raises `queue.Empty` where there is none: the pool opens one then."""
        with self._lock:
            rest = 0.0 if timeout is _EMPTYING else REST
            place = bisect_right(self._since, time.monotonic() - rest) - 1
            if place < 0:
                raise queue.Empty
            del self._since[place]
            return self._idle.pop(place)

    def put(self, item: Any, block: bool = True) -> None:  # noqa: ARG002 - urllib3's queue
        """Keep a connection, and close those that nobody will use any more."""
        if item is None:  # urllib3 fills its queue with places to be taken
            return
        now = time.monotonic()
        with self._lock:
            self._since.append(now)
            self._idle.append(item)
            count = max(bisect_right(self._since, now - IDLE_LIMIT), len(self._idle) - self._maxsize)
            leaving = self._idle[:count]
            del self._since[:count], self._idle[:count]
        for one in leaving:
            one.close()

    def qsize(self) -> int:
        """How many are kept."""
        return len(self._idle)
