"""Waking those who wait for room at an agent or a model, on real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestrator.domain.journal import Dispatch, StepCommit, Wait
from orchestrator.domain.task import WaitsFor
from tests.support.store_world import STALL, StoreWorld


def wait(world: StoreWorld, task_id: str, code: str) -> None:
    """Let a task wait for an hour for this reason."""
    world.task(task_id)
    claim = world.claim(1, task_id)
    due_at = datetime.now(UTC) + timedelta(hours=1)
    world.store.commit(claim.lease, StepCommit(Wait(WaitsFor.AGENT, due_at, reason_code=code, reason="busy")))


def test_one_that_waits_for_room_is_woken_once(store_world: StoreWorld) -> None:
    wait(store_world, "t-1", "agent_at_capacity")
    assert store_world.store.wake([Dispatch("t-1", 1)]) == [Dispatch("t-1", 1, 4, 0)]
    assert store_world.store.wake([Dispatch("t-1", 1)]) == [], "its doorbell is on the way"
    store_world.claim(1, "t-1")


def test_one_that_waits_for_something_else_or_has_moved_is_left_alone(store_world: StoreWorld) -> None:
    wait(store_world, "t-1", "agent_down")
    wait(store_world, "t-2", "model_at_capacity")
    assert store_world.store.wake([Dispatch("t-1", 1), Dispatch("t-2", 2), Dispatch("unknown", 1)]) == []
    store_world.refused(1, "t-1")


def test_waiting_for_room_is_no_attempt_and_no_error_of_the_step(store_world: StoreWorld) -> None:
    wait(store_world, "t-1", "agent_at_capacity")
    (entry,) = store_world.store.history("t-1")
    assert (entry.step.attempts, entry.step.error_code) == (0, None)
    task = store_world.store.task("t-1")
    assert task.reason_code == "agent_at_capacity"
    assert store_world.store.ring_due(10, STALL) == []
