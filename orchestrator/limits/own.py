"""What one process keeps to by itself: all there is while Redis is away, and a second bound while it is not."""

from __future__ import annotations

import threading
import time
from collections import Counter

from orchestrator.domain.limits import Limited


def interval_of(what: Limited) -> float:
    """Seconds between two calls; 0 without a rate."""
    return 0.0 if what.rate is None else 1.0 / what.rate


def tolerance_of(what: Limited) -> float:
    """Seconds by which a call may come before its time: what a tenth of a second brings may come at once."""
    return 0.0 if what.rate is None else max(0.0, 0.1 - interval_of(what))


class OwnBounds:
    """Caps and rates of this process alone. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._due: dict[str, float] = {}

    def enter(self, what: Limited) -> bool:
        """Whether this process has room for one more; if so it is counted until `leave`."""
        with self._lock:
            if what.max_concurrency is not None and self._held[what.key] >= what.max_concurrency:
                return False
            self._held[what.key] += 1
            return True

    def leave(self, what: Limited) -> None:
        """One is over."""
        with self._lock:
            self._held[what.key] -= 1

    def too_fast(self, what: Limited) -> float:
        """Seconds to wait for the rate of this process; 0: now, and counted."""
        if what.rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            due = max(now, self._due.get(what.key, now))
            wait = due - now - tolerance_of(what)
            if wait > 0:
                return wait
            self._due[what.key] = due + interval_of(what)
            return 0.0
