"""The store: all its parts in one object over one engine."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine

from orchestrator.domain.turns import TurnRules
from orchestrator.store.by_hand import ByHandPart
from orchestrator.store.cancellations import CancellationPart
from orchestrator.store.dead_letters import DeadLetterPart
from orchestrator.store.intake import IntakePart
from orchestrator.store.offers import OfferPart
from orchestrator.store.offsets import OffsetsPart
from orchestrator.store.outbox import OutboxPart
from orchestrator.store.questions import QuestionPart
from orchestrator.store.read import ReadPart
from orchestrator.store.resolve import ResolvePart
from orchestrator.store.restores import RestorePart
from orchestrator.store.retention import RetentionPart
from orchestrator.store.room import RoomPart
from orchestrator.store.steps import StepPart
from orchestrator.store.sweep import SweepPart
from orchestrator.store.undo import UndoPart
from orchestrator.store.undone import UndonePart


class PostgresStore(
    RestorePart,
    StepPart,
    SweepPart,
    IntakePart,
    OutboxPart,
    ByHandPart,
    ResolvePart,
    OffsetsPart,
    RetentionPart,
    RoomPart,
    ReadPart,
    OfferPart,
    DeadLetterPart,
    QuestionPart,
    UndoPart,
    CancellationPart,
    UndonePart,
):
    """Implements every store Protocol of `orchestrator.flow.ports`. Safe to share between threads.

    Args:
        engine: from `make_engine`.
        stall: how long a rung doorbell may stay unanswered before the sweep rings again.
        turns: ageing, and what tenants may have in flight.
        replicas_complete: whether a replica that takes over has all that was confirmed.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        stall: timedelta = timedelta(seconds=10),
        turns: TurnRules | None = None,
        replicas_complete: bool = False,
    ) -> None:
        super().__init__(engine, replicas_complete=replicas_complete)
        self.stall = stall
        self.kept_offers = set()
        self.kinds = {}
        self.turns = turns or TurnRules()

    def forget_rows(self) -> None:
        """Of offers. By another set: a commit that is under way adds to the one that it began with."""
        self.kept_offers = set()

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()
