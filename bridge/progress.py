"""What the bridge says once in a while of what it has taken in."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from orchestrator.flow.ports import Intake

log = logging.getLogger(__name__)

PROGRESS_EVERY = 10.0
"""Seconds."""


class Progress:
    """One line in a while about what was taken in."""

    def __init__(self) -> None:
        self._outcomes: Counter[Intake] = Counter()
        self._next = time.monotonic() + PROGRESS_EVERY

    def count(self, outcomes: Counter[Intake]) -> None:
        """Add what became of so many records."""
        self._outcomes += outcomes

    def tell(self, lag: Callable[[], int]) -> None:
        """Say it, where it is time; ``lag`` gives how many records are ahead."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_EVERY
        if self._outcomes:
            counts = {outcome.value: count for outcome, count in sorted(self._outcomes.items())}
            log.info("bridge.progress", extra={"records": self._outcomes.total(), **counts, "lag": lag()})
            self._outcomes.clear()
