"""How long to wait before the next try, while Kafka or PostgreSQL is away. Pure."""

from __future__ import annotations

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0
"""Seconds between two tries, at first and at most: nothing is read or published for as long after all is well."""


def pause_after(failures: int) -> float:
    """Seconds to wait after one more failure than these in a row; twice as long each time, up to the longest."""
    # Bounded before it is computed: a server may be away for more tries than a float has exponents.
    return min(FIRST_PAUSE * 2.0 ** min(failures, 10), LONGEST_PAUSE)
