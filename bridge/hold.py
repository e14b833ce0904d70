"""Reasons to read nothing for a while: PostgreSQL is away, or has more waiting than it should."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bridge.pause import LONGEST_PAUSE, pause_after

log = logging.getLogger(__name__)

BACKLOG_EVERY = 1.0


class Hold:
    """Whether reading is held, and until when.

    Args:
        backlog: how many tasks are due and in no worker's hands; may raise `StoreUnavailable`.
        limit: above it nothing more is read (``BRIDGE_BACKLOG``).
    """

    def __init__(self, backlog: Callable[[], int], limit: int) -> None:
        self._backlog = backlog
        self._limit = limit
        self._failures = 0
        self._until = 0.0
        self._asked_at = 0.0
        self._full = False

    def over(self) -> bool:
        """Whether the time to wait after a failure is over."""
        return time.monotonic() >= self._until

    def begin(self, why: str) -> None:
        """Hold for a while, longer with each failure that follows another."""
        now = time.monotonic()
        if now > self._until + 2 * LONGEST_PAUSE:
            self._failures = 0
        delay = pause_after(self._failures)
        self._failures += 1
        self._until = now + delay
        log.warning("bridge.paused", extra={"why": why, "again_in_seconds": delay})

    def succeeded(self) -> None:
        """A batch was taken in."""
        if self._failures:
            log.info("bridge.resumed", extra={"after_failures": self._failures})
            self._failures = 0

    def must_wait_for_backlog(self) -> bool:
        """Whether too much is waiting already; asked of PostgreSQL about once a second.

        Raises:
            StoreUnavailable: PostgreSQL is away.
        """
        now = time.monotonic()
        if now - self._asked_at < BACKLOG_EVERY:
            return self._full
        waiting = self._backlog()
        self._asked_at = now
        was_full, self._full = self._full, waiting > self._limit
        if self._full and not was_full:
            log.warning("bridge.backlog_full", extra={"waiting": waiting, "limit": self._limit})
        elif was_full and not self._full:
            log.info("bridge.backlog_has_room", extra={"waiting": waiting, "limit": self._limit})
        return self._full
