"""Contenders measured in turn, several times: what they have in common is the machine at that moment.

What else a machine does changes what a step costs by half within minutes. A ratio of two figures of one round says more
than one of two figures ten minutes apart, and the median of several rounds more than the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Figures = Mapping[str, Any]
"""Numbers, or figures of their own, by name."""


def in_turn(names: Sequence[str], count: int, measure: Callable[[str], Figures]) -> dict[str, list[Figures]]:
    """Measure each of these once a round; the rounds of each, in order."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            found[name].append(measure(name))
    return found


def typical(rounds: Sequence[Figures]) -> dict[str, Any]:
    """The median of each figure over these rounds."""
    return {name: _typical([one[name] for one in rounds]) for name in rounds[0]}


def _typical(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return typical(values)
    middle = median(values)
    return middle if isinstance(values[0], float) else round(middle)


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], *path: str) -> float:
    """The median over the rounds of what one figure is of the other's in the same round."""
    return median(_at(one, path) / _at(other, path) for one, other in zip(ours, theirs, strict=True))


def _at(figures: Figures, path: Sequence[str]) -> float:
    value: Any = figures
    for name in path:
        value = value[name]
    return float(value)
