"""A breaker for each provider of models, in each process: one that keeps failing is left in peace for a while. Pure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FAILURES = 5
"""Calls in a row that a provider failed, until its breaker opens."""
OPEN_SECONDS = 30.0
MOST_SECONDS = 300.0
"""A provider that asks for a longer pause is asked again after this all the same."""


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0


class Breakers:
    """Which providers are left in peace. One is shared by all threads of a process.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def closed_in(self, *names: str) -> float:
        """Seconds until what goes by all these names may be asked again; 0: now. Then one failure opens it again."""
        with self._lock:
            until = [self._circuits[name].open_until for name in names if name in self._circuits]
            return max([0.0, *(moment - self._clock() for moment in until)])

    def succeeded(self, provider: str) -> None:
        """The provider answered, whatever it said."""
        with self._lock:
            self._circuits.pop(provider, None)

    def failed(self, provider: str) -> None:
        """The provider did not answer, or could not."""
        with self._lock:
            circuit = self._circuits.setdefault(provider, _Circuit())
            circuit.failures += 1
            if circuit.failures >= FAILURES:
                circuit.open_until = self._clock() + OPEN_SECONDS

    def pause(self, model: str, seconds: float) -> None:
        """One model asked to be left in peace for so long; others of its provider may have room."""
        with self._lock:
            circuit = self._circuits.setdefault(model, _Circuit())
            circuit.open_until = max(circuit.open_until, self._clock() + min(seconds, MOST_SECONDS))
