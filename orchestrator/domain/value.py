"""What values are made of, all of domain and flow, and what adapters make in each step: cheap to make and to copy.

The library is used from here only (and where a recording is read, `orchestrator.testing.recording`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import field
from msgspec.structs import asdict

if TYPE_CHECKING:
    # The same call; this signature has the names and types of the changes checked.
    from dataclasses import replace
else:
    from msgspec.structs import replace

__all__ = ["Value", "asdict", "field", "replace"]


class Value(msgspec.Struct, frozen=True):
    """An immutable value; those that are equal in type and fields are equal.

    Not a frozen dataclass, since a step makes and copies many: a dataclass sets each field by a call of its own, and is
    copied through ``__init__`` with all of them by name. A struct is made and copied in C. Say ``frozen=True`` in each
    subclass too: type checkers want it.
    """
