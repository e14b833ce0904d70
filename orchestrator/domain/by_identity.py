"""What is found from objects once, and kept while they are the very same: agents, schemas, what is on offer.

They live as long as the registry and cannot be hashed, or not cheaply; their identity can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")


class ByIdentity(Generic[Found]):
    """Findings by the identity of what they were made from. Shared by threads: a race finds the same twice.

    Args:
        most: how many are kept; with one more it begins anew, since those of a registry that was read anew are of no
            more use.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[tuple[int, ...], tuple[tuple[object, ...], Found]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, parts: tuple[object, ...], find: Callable[[], Found]) -> Found:
        """What ``find`` says of these parts; asked once."""
        key = tuple(map(id, parts))
        known = self._kept.get(key)
        if known is None:
            # The parts are kept beside it, so that their ids cannot be given to other objects.
            known = (parts, find())
            if len(self._kept) >= self.most:
                self._kept.clear()
            self._kept[key] = known
        return known[1]
