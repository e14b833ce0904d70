"""A PostgreSQL that went back to an older state: what the bridge notes of it, and what people do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.restore import Doubts, Restore
from orchestrator.domain.server import Seen
from orchestrator.flow.control import ring
from orchestrator.flow.ports import Dispatcher, IntakeStore


class RestoreStore(Protocol):
    """Noticing that PostgreSQL went back to an older state. Every other call notices what the server itself tells."""

    @property
    def seen(self) -> Seen | None:
        """The furthest that this process has seen of the server; None before the first look."""

    def remember(self, told: Seen) -> None:
        """Compare the server with what another process has seen of it, when it is looked at first."""

    def compare(self, told: Seen) -> None:
        """Look at the server with what another process has seen of it."""

    def records_forgotten(
        self, below: Mapping[tuple[str, int], int], seen: Collection[Seen | None], *, who: str
    ) -> bool:
        """Records of these (topic, partition) were taken in before, up to these offsets, and are to be read again.

        Tasks that come of them are doubted. That PostgreSQL is older is marked, unless that was done since ``seen``
        (what was seen of the server when these offsets were current; None: not known). Offsets that a person has set
        back are no sign of it. Where the next offset of a partition is not known it is 0 by now. Returns whether
        PostgreSQL is older.
        """

    def topics_made_anew(self, topics: Collection[str]) -> None:
        """These begin at 0 again: none of their records was taken in before."""


class BridgeStore(IntakeStore, RestoreStore, Protocol):
    """What the bridge needs to read."""


class DoubtStore(Protocol):
    """Doubted tasks."""

    def restored_by_hand(self, *, who: str, why: str) -> int:
        """A person says that PostgreSQL is older than it was; how many tasks are doubted. Audited."""

    def trust(self, task_id: str, *, who: str, why: str) -> Dispatch | None:
        """A person says that nothing of a task was forgotten; the doorbell where a call waited for that word.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: it is not doubted.
        """

    def restore_of(self, task_id: str) -> Restore | None:
        """Why a task is doubted; None where it is not."""

    def doubts(self) -> Doubts:
        """How it stands after the last restore."""


class Restores:
    """A person's word on what was forgotten."""

    def __init__(self, store: DoubtStore, dispatcher: Dispatcher) -> None:
        self.store = store
        self.dispatcher = dispatcher

    def restored(self, *, who: str, why: str) -> int:
        """Doubt every task that has not ended; how many they are."""
        return self.store.restored_by_hand(who=who, why=why)

    def trust(self, task_id: str, *, who: str, why: str) -> Dispatch | None:
        """End the doubt of a task; the doorbell that was rung, where a call waited for it.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: it is not doubted.
        """
        doorbell = self.store.trust(task_id, who=who, why=why)
        if doorbell is not None:
            ring(self.dispatcher, doorbell)
        return doorbell
