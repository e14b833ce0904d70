"""Pause, resume and restart, finding tasks by filter, and people who act at the same moment, in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.by_hand import TaskFilter
from orchestrator.domain.journal import Complete, Fail, NextStep, NotClaimed, StepCommit, Wait
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import NotAllowed, OrchestratorError, TaskNotFound
from tests.support.store_world import STALL, StoreWorld

WHO: dict[str, Any] = {"who": "ann", "why": "because"}


def test_a_running_step_ends_and_nothing_new_begins_while_paused(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b")
    claim = store_world.claim()
    assert store_world.store.pause("t-1", **WHO).paused
    told = store_world.store.updates("t-1")[-1].body
    assert (told["paused"], told["reason"], told["state"]) == (True, "paused by ann: because", "processing")
    # The epoch is untouched: the step that runs writes as always.
    assert store_world.end(claim, NextStep(), a=1).paused
    assert store_world.refused(2) is NotClaimed.PAUSED
    store_world.expire()
    assert store_world.store.ring_due(10, STALL) == []
    assert store_world.store.resume("t-1", **WHO).step == 2
    told = store_world.store.updates("t-1")[-1].body
    assert "paused" not in told and told["reason"] == "resumed by ann: because"
    assert store_world.claim(2).task.paused is False


def test_an_event_that_came_while_paused_ends_the_wait_at_the_resume(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    store_world.end(store_world.claim(), Wait(WaitsFor.EVENT, None, {"event_type": "go"}, same_step=False))
    store_world.store.pause("t-1", **WHO)
    assert store_world.event("t-1", "go", a=1).dispatch is None
    assert store_world.store.resume("t-1", **WHO).step == 2
    assert [event.event_type for event in store_world.claim(2).events] == ["go"]


def test_a_resume_without_news_goes_on_waiting(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    store_world.end(store_world.claim(), Wait(WaitsFor.EVENT, None, {"event_type": "go"}, same_step=False))
    store_world.store.pause("t-1", **WHO)
    store_world.store.resume("t-1", **WHO)
    assert store_world.refused(2) is NotClaimed.NOT_DUE


def test_what_pause_and_resume_do_not_fit_is_refused(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    with pytest.raises(NotAllowed, match="not paused"):
        store_world.store.resume("t-1", **WHO)
    store_world.store.pause("t-1", **WHO)
    with pytest.raises(NotAllowed, match="paused already"):
        store_world.store.pause("t-1", **WHO)
    store_world.store.cancel("t-1", **WHO)
    with pytest.raises(NotAllowed, match="already ended"):
        store_world.store.pause("t-1", **WHO)
    with pytest.raises(TaskNotFound):
        store_world.store.pause("nobody", **WHO)


def test_a_task_that_ended_while_it_stood_paused_is_told_to_be_completed_once(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    running = store_world.claim()
    store_world.store.pause("t-1", **WHO)
    store_world.end(running, Complete("done"), a=1)
    with pytest.raises(NotAllowed, match="already ended"):
        store_world.store.resume("t-1", **WHO)
    assert [row.body["state"] for row in store_world.store.updates("t-1")].count("completed") == 1


def test_a_restart_begins_from_the_first_context_with_edits_and_new_numbers(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b", x=1)
    store_world.end(store_world.claim(), NextStep(), a=1)
    store_world.end(store_world.claim(2), Fail("agent_down", "away"))
    assert store_world.store.restart("t-1", {"x": 2}, **WHO).step == 3
    assert store_world.store.context("t-1").collected_data == {"x": 2}
    assert all(entry.step.superseded for entry in store_world.store.history("t-1"))
    claim = store_world.claim(3)
    assert claim.task.steps_before == 2
    with pytest.raises(NotAllowed, match="a worker is at step 3"):
        store_world.store.restart("t-1", {}, **WHO)


def at_once(*acts: Callable[[], object]) -> list[object]:
    """What each gave, or the error that it raised; all begun at the same moment."""
    ready = threading.Barrier(len(acts))
    found: list[object] = [None] * len(acts)

    def run(place: int, act: Callable[[], object]) -> None:
        ready.wait()
        try:
            found[place] = act()
        except OrchestratorError as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_two_who_retry_at_once_one_is_told_that_it_goes_on_already(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    store_world.end(store_world.claim(), Fail("agent_down", "away"))
    found = at_once(*[lambda: store_world.store.retry("t-1", **WHO)] * 2)
    assert sum(isinstance(one, NotAllowed) for one in found) == 1
    assert len(store_world.store.audit_of("t-1")) == 1


def test_two_people_at_once_follow_one_another(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    store_world.end(store_world.claim(), Fail("agent_down", "away"))
    found = at_once(
        lambda: store_world.store.retry("t-1", who="ann", why=""),
        lambda: store_world.store.restart("t-1", {}, who="bob", why=""),
    )
    task = store_world.store.task("t-1")
    done = [entry.what for entry in store_world.store.audit_of("t-1")]
    assert task.state is TaskState.PROCESSING
    assert done in (["retry", "restart"], ["restart"])
    assert task.next_step == 2
    assert len(done) == sum(not isinstance(one, NotAllowed) for one in found)


def test_tasks_are_found_by_what_is_said_of_them(store_world: StoreWorld) -> None:
    for name in ("t-1", "t-2", "t-3", "t-4"):
        store_world.task(name, "a")
    for name, code in (("t-1", "agent_down"), ("t-2", "no_route")):
        claim = store_world.claim(task_id=name)
        if name == "t-1":
            store_world.decide(claim, agent="score", key="key-of-t-1")
        store_world.store.commit(claim.lease, StepCommit(Fail(code, "away")))
    store_world.end(store_world.claim(task_id="t-3"), Complete("done"), a=1)
    store_world.store.pause("t-4", **WHO)
    store_world.sql("UPDATE tasks SET tenant = 'acme', updated_at = now() - interval '3 hours' WHERE task_id = 't-2'")

    def found(**wanted: Any) -> list[str]:
        return [task.task_id for task in store_world.store.find_tasks(TaskFilter(**wanted), 10)]

    assert found(states=(TaskState.FAILED,)) == ["t-1", "t-2"]
    assert found(reason="agent_down") == found(agent="score") == ["t-1"]
    assert found(states=(TaskState.FAILED,), since=timedelta(hours=2)) == ["t-1"]
    assert found(tenant="acme") == ["t-2"]
    assert found(paused=True) == ["t-4"]
    assert len(store_world.store.find_tasks(TaskFilter(), 2)) == 2


def test_what_was_done_by_hand_is_on_record(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a")
    store_world.store.pause("t-1", who="ann", why="lunch")
    store_world.store.resume("t-1", who="bob", why="")
    assert [(one.who, one.what, one.why) for one in store_world.store.audit_of("t-1")] == [
        ("ann", "pause", "lunch"),
        ("bob", "resume", ""),
    ]
    with pytest.raises(TaskNotFound):
        store_world.store.audit_of("nobody")
