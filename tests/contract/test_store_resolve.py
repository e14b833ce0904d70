"""A person's word on a delegation whose outcome is unknown: what the store keeps, what the flow refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Dispatch, Settlement, StepCommit, Wait
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.turns import PLACES
from orchestrator.errors import NotAllowed, TaskNotFound
from orchestrator.flow.resolve import Resolver
from tests.support.store_world import StoreWorld

WHO: dict[str, Any] = {"who": "ann", "why": "asked there"}
SUCCEEDED = Resolution(Outcome.SUCCEEDED, {"a": 1})
NEVER = Resolution(Outcome.NEVER_HAPPENED)
FAILED = Resolution(Outcome.FAILED)


def parked(world: StoreWorld) -> Delegation:
    """A task that waits for a person, since its agent may have acted."""
    world.task()
    claim = world.claim()
    world.decide(claim)
    unknown = Settlement(0, DelegationState.UNKNOWN, error_code="agent_timeout", error="no answer")
    world.store.commit(claim.lease, StepCommit(Wait(WaitsFor.PERSON, None), settlements=(unknown,)))
    (delegation,) = world.store.unknown_delegations("t-1")
    return delegation


@pytest.mark.parametrize(
    ("said", "state", "reply", "by"),
    [
        (SUCCEEDED, DelegationState.SUCCEEDED, {"a": 1}, ("person", "ann")),
        (NEVER, DelegationState.PENDING, None, ("agent", "score")),
        (FAILED, DelegationState.FAILED, None, ("person", "ann")),
    ],
    ids=lambda value: value.outcome.value if isinstance(value, Resolution) else "",
)
def test_the_word_is_kept_and_the_step_goes_on(
    store_world: StoreWorld, said: Resolution, state: DelegationState, reply: Any, by: tuple[str, str]
) -> None:
    delegation = parked(store_world)
    assert store_world.store.resolve(delegation, said, **WHO) == Dispatch("t-1", 1, 4)
    (found,) = store_world.claim().delegations
    assert (found.state, found.reply, found.key, found.attempts) == (state, reply, "key-1", 1)
    assert found.told_by == by
    (noted,) = store_world.sql("SELECT * FROM audit")
    assert (noted.who, noted.what, noted.why) == ("ann", "resolve", "asked there")
    assert noted.details == {"delegation": "1.0", "agent": "score", "outcome": said.outcome}


def test_a_second_word_and_a_late_reply_change_nothing(store_world: StoreWorld) -> None:
    delegation = parked(store_world)
    store_world.store.resolve(delegation, NEVER, **WHO)
    with pytest.raises(NotAllowed, match="meanwhile"):
        store_world.store.resolve(delegation, FAILED, **WHO)
    late = Settlement(0, DelegationState.SUCCEEDED, reply={"a": 2})
    assert not store_world.store.settle_late(delegation.key, delegation.attempts, late)


def test_not_while_a_worker_is_at_it(store_world: StoreWorld) -> None:
    delegation = parked(store_world)
    store_world.store.retry("t-1", **WHO)
    store_world.claim()
    with pytest.raises(NotAllowed, match="at this moment"):
        store_world.store.resolve(delegation, NEVER, **WHO)


def test_of_an_ended_task_it_is_noted_only(store_world: StoreWorld) -> None:
    delegation = parked(store_world)
    store_world.store.cancel("t-1", **WHO)
    assert store_world.store.resolve(delegation, SUCCEEDED, **WHO) is None
    assert store_world.store.unknown_delegations("t-1") == []
    assert store_world.store.task("t-1").state == "canceled"


def test_an_unknown_task_is_told(store_world: StoreWorld) -> None:
    with pytest.raises(TaskNotFound):
        store_world.store.unknown_delegations("t-9")


def test_waiting_tasks_are_listed_by_what_they_wait_for(store_world: StoreWorld) -> None:
    parked(store_world)
    store_world.task("t-2")
    assert [task.task_id for task in store_world.store.tasks(waits_for="person")] == ["t-1"]
    assert store_world.store.tasks(waits_for="event") == []


# -- the flow's checks


class Registry:
    """One agent, or none."""

    def __init__(self, agent: AgentSpec | None) -> None:
        self.agent = agent

    def get(self, _name: str) -> AgentSpec | None:
        return self.agent

    def enabled(self, _allowed: Sequence[str] | None = None) -> Sequence[AgentSpec]:
        return []


class Bell:
    """Notes what is rung."""

    def __init__(self) -> None:
        self.rung: list[Dispatch] = []

    def dispatch(self, doorbells: Sequence[Dispatch]) -> None:
        self.rung.extend(doorbells)

    def waiting(self) -> Sequence[int]:
        return [0] * PLACES


def resolver(world: StoreWorld, agent: AgentSpec | None, bell: Bell) -> Resolver:
    return Resolver(world.store, bell, Registry(agent))


def test_a_reply_must_fit_the_agents_schema(store_world: StoreWorld) -> None:
    parked(store_world)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    bell = Bell()
    checking = resolver(store_world, AgentSpec("score", "", "http://a", output_schema=schema), bell)
    with pytest.raises(NotAllowed, match="output_schema of score"):
        checking.resolve("t-1", None, Resolution(Outcome.SUCCEEDED, {"a": "one"}), **WHO)
    assert bell.rung == []
    checking.resolve("t-1", "1.0", SUCCEEDED, **WHO)
    assert bell.rung == [Dispatch("t-1", 1, 4)]


@pytest.mark.parametrize(("ref", "said"), [("2.0", "has no delegation 2.0"), (None, "agents.yaml has no agent")])
def test_what_cannot_be_settled_is_told(store_world: StoreWorld, ref: str | None, said: str) -> None:
    parked(store_world)
    with pytest.raises(NotAllowed, match=said):
        resolver(store_world, None, Bell()).resolve("t-1", ref, SUCCEEDED, **WHO)


def test_a_task_with_nothing_unknown_is_told(store_world: StoreWorld) -> None:
    store_world.task()
    with pytest.raises(NotAllowed, match="no delegation whose outcome is unknown"):
        resolver(store_world, None, Bell()).resolve("t-1", None, NEVER, **WHO)
