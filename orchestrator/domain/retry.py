"""How long to wait before trying again."""

from __future__ import annotations

import random

from orchestrator.domain.value import Value


class RetryPolicy(Value, frozen=True):
    """Exponential back-off with full jitter above a half, bounded in count and length. Times are seconds."""

    max_attempts: int = 5
    base_delay: float = 1.0
    max_delay: float = 60.0

    def exhausted(self, attempts: int) -> bool:
        """Whether ``attempts`` executions (from 1) are all there may be."""
        return attempts >= self.max_attempts

    def delay(self, attempts: int, retry_after: float | None = None, jitter: float | None = None) -> float:
        """Seconds until the next execution after ``attempts`` of them.

        The other side's ``Retry-After`` is a lower bound that even ``max_delay`` does not cut, up to a day.
        ``jitter`` (0 to 1) is drawn where not given.
        """
        drawn = random.random() if jitter is None else jitter  # noqa: S311 - spreading load, not a secret
        backoff = min(self.max_delay, self.base_delay * 2.0 ** max(0, attempts - 1)) * (0.5 + drawn / 2)
        return max(backoff, min(retry_after or 0.0, 24 * 3600.0))
