"""Going straight on with a task's next step, and what a step costs in statements, commits and bytes.

The counts do not depend on the machine: they are the guard of docs/performance.md. Whoever raises one says why there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.domain.journal import Claim, Dispatch, HistoryEntry, StepState
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.domain.task import TaskState
from orchestrator.domain.value import replace
from orchestrator.flow.step import StepResult
from orchestrator.worker.chain import message_of, ring_of
from tests.support.agents import reply
from tests.support.counts import READ, Counts, commits, counted
from tests.support.step_world import World, call

FIELDS = ("a", "b", "c")


def always(_: Dispatch) -> bool:
    return True


@pytest.fixture
def three(world: World) -> World:
    """A task of three steps, each with one call."""
    for name in FIELDS:
        world.add_agent(name, reply({name: name.upper()}))
    world.answers = [call(name) for name in FIELDS]
    return world


def claimed(result: StepResult) -> Claim:
    assert result.claim is not None, result
    return result.claim


def shown(entry: HistoryEntry) -> HistoryEntry:
    """What of an entry a planner is shown: no moments, which two clocks tell, and nothing that explains it later."""
    return replace(
        entry,
        step=replace(entry.step, started_at=None, decided_at=None, finished_at=None, asked=None),
        delegations=tuple(replace(one, sent_at=None, finished_at=None) for one in entry.delegations),
    )


def test_each_step_is_journaled_as_if_it_had_come_by_message(three: World) -> None:
    three.submit(*FIELDS, x=1)
    runner = three.runner()
    first = runner.run("t-1", 1, always)
    assert (first.outcome, claimed(first).lease.step) == ("next", 2)
    assert three.store.task("t-1").next_step == 2
    second = runner.go_on(first, always)
    third = runner.go_on(second, always)
    assert (third.outcome, third.claim) == ("completed", None)

    history = three.store.history("t-1")
    assert [(entry.step.number, entry.step.state) for entry in history] == [(n, StepState.FINISHED) for n in (1, 2, 3)]
    assert three.data() == {"x": 1, "a": "A", "b": "B", "c": "C"}
    assert [version for version, _, _ in three.store.versions("t-1")] == [1, 2, 3, 4]
    told = [(row.body["state"], row.body["step"]) for row in three.store.updates("t-1")]
    assert told == [("received", 1), ("processing", 2), ("processing", 3), ("completed", 3)]
    # What the planner was shown is what it would have been shown after a claim of its own.
    for request, entry in zip(three.asked, history, strict=True):
        before = [one for one in history if one.step.number < entry.step.number]
        assert [shown(one) for one in request.history] == [shown(one) for one in before]


def test_a_step_that_merged_an_event_and_brought_nothing_is_known_as_it_is_on_record(three: World) -> None:
    three.add_agent("a", reply({"other": 1e22, "one": -0.0}))
    three.submit(*FIELDS, x=1)
    three.take(EventMessage("t-1", {"z": 1}, None))
    claim = claimed(three.runner().run("t-1", 1, always))
    history = three.store.history("t-1")
    assert [(entry.step.base_version, entry.step.result_version) for entry in history] == [(1, 1)]
    assert claim.context.version == 2
    assert claim.history is not None
    assert [shown(entry) for entry in claim.history] == [shown(entry) for entry in history]
    (known,), (kept,) = claim.history[0].delegations, history[0].delegations
    assert json.dumps(known.reply) == json.dumps(kept.reply), "to the letter"


def test_a_pause_a_cancel_or_a_stop_ends_it_at_the_boundary(three: World) -> None:
    three.submit(*FIELDS)
    runner = three.runner()
    planned = three.decide

    def paused_meanwhile(request: Any) -> Any:
        three.store.pause("t-1", who="ann", why="wait")
        return planned(request)

    three.decide = paused_meanwhile  # type: ignore[method-assign]  # the test's own planner
    first = runner.run("t-1", 1, always)
    assert (first.outcome, first.claim) == ("next", None)
    assert three.store.task("t-1").paused
    three.decide = planned  # type: ignore[method-assign]  # and back
    three.store.resume("t-1", who="ann", why="go on")

    second = runner.run("t-1", 2, always)
    stopping = three.runner(stopping=lambda: True)
    handed = stopping.go_on(second, always)
    assert (handed.outcome, handed.next) == ("handed back", Dispatch("t-1", 3))
    assert three.store.task("t-1").lost_leases == 0

    def canceled_meanwhile(request: Any) -> Any:
        three.store.cancel("t-1", who="ann", why="enough")
        return planned(request)

    three.decide = canceled_meanwhile  # type: ignore[method-assign]  # the same
    third = runner.run("t-1", 3, always)
    assert (third.outcome, third.claim) == ("canceled", None)


def test_an_event_that_came_meanwhile_is_merged_by_the_step_that_follows(three: World) -> None:
    three.submit(*FIELDS)
    runner = three.runner()
    first = runner.run("t-1", 1, lambda _: bool(three.take(EventMessage("t-1", {"seen": 1}, None))))
    runner.go_on(first, always)
    assert three.data()["seen"] == 1


# -- the guard ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counts(three: World) -> Iterator[Counts]:
    with counted(three.store) as found:
        yield found


def play(world: World, *, straight_on: bool) -> None:
    """A task of three steps."""
    runner = world.runner()
    if straight_on:
        result = runner.run("t-2", 1, always)
        while result.claim is not None:
            result = runner.go_on(result, always)
    else:
        for step in (1, 2, 3):
            runner.run("t-2", step)
    assert world.store.task("t-2").state is TaskState.COMPLETED


@pytest.mark.parametrize(("straight_on", "most"), [(False, 3 * 3), (True, 1 + 2 * 3)])
def test_a_step_costs_three_round_trips_and_commits_and_two_where_it_goes_straight_on(
    three: World, counts: Counts, straight_on: bool, most: int
) -> None:
    three.submit(*FIELDS)
    three.run_step(1)
    three.answers = [call(name) for name in FIELDS]
    for name in FIELDS:
        three.agent.script(f"/{name}", reply({name: name.upper()}))
    three.take(TaskMessage("t-2", "Do it", FIELDS, {}))
    # A look at the counters commits as well, and so does the read at the end of `play`.
    looks = -commits(three.store) + commits(three.store)
    before, sent = commits(three.store), counts.statements
    play(three, straight_on=straight_on)
    statements = counts.statements - sent - READ
    made = commits(three.store) - before - looks - 1
    assert statements <= most, f"{statements} round trips for three steps"
    assert made <= most, f"{made} commits for three steps"


def test_a_message_is_small_and_holds_no_more_than_ids_and_numbers() -> None:
    ring = ring_of(Dispatch("order-2026-000017", 3, priority=4, lane=1), "order-2026-000017:2:0a1b2c3d")
    message = message_of(ring)
    assert len(message) <= 1_100
    content = json.loads(message)
    assert content["headers"]["root_id"] == "order-2026-000017"
    assert content["headers"]["parent_id"] == "order-2026-000017:2:0a1b2c3d"
    assert content["headers"]["kwargsrepr"] == "{'task_id': 'order-2026-000017', 'step': 3}"
