"""What is set aside with its reason, and what the flow needs of the store for it. Part of `orchestrator.flow.ports`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from orchestrator.domain.message import Record
from orchestrator.domain.value import Value


class DeadLetter(Value, frozen=True):
    """Something set aside, with the reason and the original bytes."""

    id: int
    reason: str
    detail: str
    record: Record | None
    task_id: str | None
    created_at: datetime
    replayed_at: datetime | None = None


class DeadLetterStore(Protocol):
    """Dead letters; all but ``dead_letters`` raise `DeadLetterNotFound`."""

    def dead_letters(self, *, reason: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """Newest first, without those discarded."""

    def dead_letter(self, letter_id: int) -> DeadLetter:
        """One, with its bytes."""

    def mark_replayed(self, letter_id: int, *, who: str, why: str) -> None:
        """Note that its record was produced again; audited."""

    def discard(self, letter_id: int, *, who: str, why: str) -> None:
        """Remove it for good; audited."""
