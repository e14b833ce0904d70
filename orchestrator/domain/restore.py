"""An older state of PostgreSQL that was noticed, and what waits for a person because of it."""

from __future__ import annotations

from datetime import datetime

from orchestrator.domain.value import Value

RESTORED = "restored"
"""Error code of a call that is not made, since it may have been made in what PostgreSQL has forgotten."""


class Restore(Value, frozen=True):
    """One row of ``restores``."""

    noticed_at: datetime
    why: str
    who: str
    """The process that noticed, or the person who said so."""
    tasks: int
    """Tasks that had not ended."""


class Doubts(Value, frozen=True):
    """How it stands after a restore."""

    last: Restore | None
    doubted: int
    """Tasks that have not ended and are doubted still."""
    waiting: int
    """Those of them that wait for a person to say what became of a call."""
    tells_identity: bool
    """Whether the server tells its ``system_identifier``."""
    tells_position: bool
    """Whether it tells its timeline, and how far its log is."""
