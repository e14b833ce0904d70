"""Retention: what is old and done is removed, a few rows at a time.

Each batch is a short transaction of its own over rows that nobody moves any more, so neither a claim nor a sweep ever
waits for it. What could not be removed in the time given is removed the next time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

log = logging.getLogger(__name__)

BATCH = 500
"""Rows that one transaction removes; of tasks with all that hangs on them."""


class Kept(StrEnum):
    """What is kept for a while, in the order in which it is removed."""

    TASKS = "tasks"
    """Ended tasks with their contexts, steps and delegations, counted from their end."""
    INBOX = "inbox"
    """Records taken in; those that still wait for their task's next step stay."""
    UPDATES = "updates"
    """The outbox, counted from the moment when Kafka confirmed; what is not published stays."""
    DEAD_LETTERS = "dead_letters"
    AUDIT = "audit"


class RetentionStore(Protocol):
    """Removing."""

    def remove_old(self, kept: Kept, older_than: timedelta, limit: int) -> int | None:
        """Remove up to ``limit`` rows in one transaction; how many, None where another is at it at this moment.

        Raises:
            StoreUnavailable: PostgreSQL is away.
        """


class Retention:
    """Removes by the settings.

    Args:
        ages: how long each is kept; what is not named is kept for ever.
    """

    def __init__(self, store: RetentionStore, ages: Mapping[Kept, timedelta]) -> None:
        self.store = store
        self.ages = ages

    def run(self, seconds: float | None = None) -> dict[Kept, int]:
        """Remove until nothing is left to remove, or for about so many seconds; how many rows of each.

        Raises:
            StoreUnavailable: PostgreSQL is away; what was removed until then is removed.
        """
        until = None if seconds is None else time.monotonic() + seconds
        removed = dict.fromkeys(self.ages, 0)
        for kept, age in self.ages.items():
            while until is None or time.monotonic() < until:
                count = self.store.remove_old(kept, age, BATCH)
                removed[kept] += count or 0
                if count is None or count < BATCH:
                    break
        if any(removed.values()):
            log.info("retention.removed", extra={kept.value: count for kept, count in removed.items()})
        return removed
