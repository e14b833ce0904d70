"""A real store and short words for what bridge, worker and person do with it. A pytest plugin (``store_world``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.journal import (
    Claim,
    Committed,
    GoOn,
    NewDelegation,
    NotClaimed,
    Start,
    StepCommit,
    Then,
)
from orchestrator.domain.message import EventMessage, Message, Record, TaskMessage
from orchestrator.flow.ports import Invalid, Received, Taken
from orchestrator.store import PostgresStore, make_engine

LEASE = timedelta(seconds=30)
STALL = timedelta(seconds=10)
AT_ONCE = timedelta(0)


class StoreWorld:
    """The store, and a Kafka partition whose offsets it counts."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.offset = 0

    # -- the bridge

    def record(self, value: bytes = b"{}", topic: str = "tasks") -> Record:
        self.offset += 1
        return Record(topic, 0, self.offset, 1_700_000_000_000 + self.offset, b"key", value)

    def accept(self, *messages: Message | Invalid, due_in: timedelta = STALL) -> Sequence[Taken]:
        """Take messages in as one batch."""
        return self.store.accept([Received(self.record(), message) for message in messages], due_in=due_in)

    def task(self, task_id: str = "t-1", *required: str, due_in: timedelta = STALL, **data: Any) -> Taken:
        (taken,) = self.accept(TaskMessage(task_id, "Do it", required or ("a",), data), due_in=due_in)
        return taken

    def event(self, task_id: str = "t-1", event_type: str | None = None, **data: Any) -> Taken:
        (taken,) = self.accept(EventMessage(task_id, data, event_type))
        return taken

    # -- a worker

    def claim(self, step: int = 1, task_id: str = "t-1", owner: str = "w1", lease: timedelta = LEASE) -> Claim:
        claim = self.store.claim(task_id, step, owner, lease)
        assert isinstance(claim, Claim), claim
        return claim

    def refused(self, step: int = 1, task_id: str = "t-1") -> NotClaimed:
        refused = self.store.claim(task_id, step, "other", LEASE)
        assert isinstance(refused, NotClaimed), refused
        return refused

    def decide(self, claim: Claim, agent: str = "score", key: str = "key-1") -> Committed:
        """Record a decision with one call, begun."""
        return self.store.commit(
            claim.lease,
            StepCommit(
                GoOn(),
                decision=Decision(DecisionKind.CALL, "because", Usage("m"), calls=(AgentCall(agent, {}),)),
                delegations=(NewDelegation(0, agent, {"n": 1}, "do", key, side_effects=True),),
                starts=(Start(0, datetime.now(UTC) + LEASE),),
            ),
        )

    def end(self, claim: Claim, then: Then, **values: Any) -> Committed:
        """Commit new values (given by an agent) and what follows; events of the claim are merged."""
        changes = tuple(change(name, value, step=claim.lease.step) for name, value in values.items())
        return self.store.commit(
            claim.lease,
            StepCommit(
                then,
                context=claim.context.apply(changes) if changes else None,
                changes=changes,
                merged_events=tuple(event.inbox_id for event in claim.events),
            ),
        )

    # -- time

    def expire(self, task_id: str = "t-1") -> None:
        """Let the task's lease and due time be over."""
        self.sql(
            "UPDATE tasks SET due_at = now() - interval '1 second', lease_until = lease_until - interval '1 day' "
            "WHERE task_id = :id",
            id=task_id,
        )

    def sql(self, statement: str, **parameters: Any) -> list[Any]:
        with self.store.engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []


def change(name: str, value: Any, step: int | None = None) -> Change:
    return Change(name, value, Origin("agent", "score", datetime.now(UTC), step=step))


@pytest.fixture
def store_world(database_url: str) -> Iterator[StoreWorld]:
    """An empty, migrated database."""
    store = PostgresStore(make_engine(database_url))
    yield StoreWorld(store)
    store.close()
