"""Values of the journal that a newer version may have written.

While two versions of workers run side by side, the older one meets states that it does not know. It can show them as
they are; it must not act on them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class JournalValue(StrEnum):
    """A closed set of words, as far as this version knows; others are kept as they are and are not `is_known`."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = value
        unknown._value_ = value
        return unknown

    @property
    def is_known(self) -> bool:
        """Whether this version knows what it means."""
        return self.value in type(self)._value2member_map_
