"""The next step decided ahead, in the commit that ends this one: only where nothing has to be looked at before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.domain.agent import AgentLimits
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited, NotNow
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.flow.execution import StepResult
from orchestrator.flow.limits import Permit
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.rules import RulesPlanner
from tests.support.agents import reply
from tests.support.counts import READ, commits, counted, wal_of
from tests.support.step_world import World

FIELDS = ("a", "b", "c")


def always(_: Dispatch) -> bool:
    return True


@pytest.fixture
def chain(world: World) -> World:
    """Three agents, each of which needs what the one before gives, and the rules, which decide in memory."""
    before = "x"
    for name in FIELDS:
        world.add_agent(name, reply({name: name.upper()}), requires={"given": f"/{before}"}, idempotent=True)
        before = name
    world.planner = RulesPlanner()
    return world


def submit(world: World, task_id: str = "t-1") -> None:
    for name in FIELDS:
        world.agent.script(f"/{name}", reply({name: name.upper()}), idempotent=True)
    world.take(TaskMessage(task_id, "Do it", FIELDS, {"x": 1}))


def posts(world: World, agent: str) -> int:
    return len(world.agent.ledger().posts(f"/{agent}"))


def straight_on(world: World, task_id: str = "t-1") -> list[StepResult]:
    """A task done by one worker; how each step ended."""
    runner = world.runner()
    results = [runner.run(task_id, 1, always)]
    while results[-1].claim is not None:
        results.append(runner.go_on(results[-1], always))
    return results


def journal_of(world: World, task_id: str) -> list[Mapping[str, Any]]:
    """All that is kept of a task but ids and moments."""
    return [
        {
            "step": (entry.step.number, entry.step.state, entry.step.attempts),
            "versions": (entry.step.base_version, entry.step.result_version),
            "decision": entry.step.decision and replace(entry.step.decision, usage=None),  # type: ignore[arg-type]  # timed
            "asked": entry.step.asked,
            "moments": [moment is not None for moment in (entry.step.decided_at, entry.step.finished_at)],
            "calls": [
                (one.agent, one.arguments, one.task, one.state, one.attempts, one.reply, one.sent_at is not None)
                for one in entry.delegations
            ],
        }
        for entry in world.store.history(task_id)
    ]


def told_of(world: World, task_id: str) -> list[Mapping[str, Any]]:
    def without_moments(body: Mapping[str, Any]) -> dict[str, Any]:
        progress = {name: value for name, value in body["progress"].items() if name != "since"}
        return {
            **{
                name: value
                for name, value in body.items()
                if name not in {"update_id", "task_id", "occurred_at", "source"}
            },
            "progress": progress,
        }

    return [without_moments(row.body) for row in world.store.updates(task_id)]


def test_what_is_kept_and_told_is_the_same_as_by_messages(chain: World) -> None:
    submit(chain)
    for step in (1, 2, 3):
        chain.run_step(step)
    submit(chain, "t-2")
    results = straight_on(chain, "t-2")
    assert [result.outcome for result in results] == ["next", "next", "completed"]
    assert [result.gate is not None for result in results] == [True, True, False]
    assert journal_of(chain, "t-2") == journal_of(chain, "t-1")
    assert told_of(chain, "t-2") == told_of(chain, "t-1")
    one, other = chain.store.task("t-1"), chain.store.task("t-2")
    assert (one.spent, one.idle_steps, one.state) == (other.spent, other.idle_steps, other.state)
    assert other.state is TaskState.COMPLETED


def test_what_a_worker_knows_of_the_task_without_being_told_is_what_is_on_record(chain: World) -> None:
    submit(chain)
    straight_on(chain)  # a commit that has an offer to keep is told everything
    submit(chain, "t-2")
    runner = chain.runner()
    result, seen = runner.run("t-2", 1, always), 0
    while result.claim is not None:
        seen += 1
        claim, task = result.claim, chain.store.task("t-2")
        assert replace(claim.task, updated_at=task.updated_at) == task
        assert claim.context == chain.store.context("t-2")
        with chain.store.engine.connect() as connection:
            row = connection.execute(text("SELECT epoch, lease_owner, as_left FROM tasks WHERE task_id = 't-2'")).one()
        # Nobody else has changed it: nothing was told.
        assert tuple(row) == (claim.lease.epoch, claim.lease.owner, True)
        step = chain.store.history("t-2")[-1]
        assert claim.step == replace(step.step, started_at=None, decided_at=None)
        assert [replace(one, sent_at=None) for one in claim.delegations] == [
            replace(one, sent_at=None) for one in step.delegations
        ]
        result = runner.go_on(result, always)
    assert (seen, result.outcome) == (2, "completed")


def test_what_others_change_meanwhile_is_told(chain: World) -> None:
    submit(chain)
    straight_on(chain)
    submit(chain, "t-2")

    def meanwhile(_: Dispatch) -> bool:
        chain.sql("UPDATE tasks SET priority = 9, budget_raised = CAST('{\"steps\": 7}' AS jsonb)")
        return True

    first = chain.runner().run("t-2", 1, meanwhile)
    assert first.claim is not None and first.claim.begun
    assert (first.claim.task.priority, first.claim.task.raised) == (9, {"steps": 7})
    task = chain.store.task("t-2")
    assert replace(first.claim.task, updated_at=task.updated_at) == task
    second = chain.runner().go_on(first, always)
    assert second.claim is not None
    assert second.claim.task.priority == 9


def test_a_lease_that_was_renewed_meanwhile_goes_on(chain: World) -> None:
    submit(chain)
    straight_on(chain)
    submit(chain, "t-2")
    runner = chain.runner()

    def meanwhile(_: Dispatch) -> bool:
        chain.sql("UPDATE tasks SET lease_until = lease_until + interval '1 second'")
        return True

    first = runner.run("t-2", 1, meanwhile)
    assert first.claim is not None
    task = chain.store.task("t-2")
    assert replace(first.claim.task, updated_at=task.updated_at) == task
    assert runner.go_on(first, always).outcome == "next"


def test_the_decision_and_its_call_are_on_record_before_the_request_leaves(chain: World) -> None:
    submit(chain)
    first = chain.runner().run("t-1", 1, always)
    assert first.claim is not None and first.claim.begun
    step = chain.store.history("t-1")[-1]
    assert step.step.number == 2 and step.step.decision is not None
    (delegation,) = step.delegations
    assert (delegation.agent, delegation.state, delegation.attempts) == ("b", DelegationState.IN_FLIGHT, 1)
    assert posts(chain, "b") == 0
    assert chain.store.task("t-1").spent.delegations == 2
    # A worker that is told to stop now sends what is marked as sent, and hands back the step after it.
    told = chain.runner(stopping=lambda: True).go_on(first, always)
    assert (told.outcome, told.next, told.claim) == ("next", Dispatch("t-1", 3), None)
    assert posts(chain, "b") == 1


def test_what_came_in_meanwhile_is_looked_at_before_anything_is_decided(chain: World) -> None:
    submit(chain)
    runner = chain.runner()
    first = runner.run("t-1", 1, lambda _: bool(chain.take(EventMessage("t-1", {"b": "from the event"}, None))))
    assert first.claim is not None
    assert (first.claim.begun, first.gate) == (False, None)
    assert len(chain.store.history("t-1")) == 1
    second = runner.go_on(first, always)
    assert second.outcome == "completed"
    assert chain.data()["b"] == "from the event"
    assert posts(chain, "b") == 0, "the event gave what the agent would have"


@pytest.mark.parametrize("hand", ["pause", "cancel"])
def test_a_person_who_stops_the_task_meanwhile_stops_it_before_the_next_call(chain: World, hand: str) -> None:
    submit(chain)

    def meanwhile(_: Dispatch) -> bool:
        getattr(chain.store, hand)("t-1", who="ann", why="wait")
        return True

    first = chain.runner().run("t-1", 1, meanwhile)
    assert (first.claim, first.gate) == (None, None)
    assert posts(chain, "b") == 0
    assert [len(entry.delegations) for entry in chain.store.history("t-1")] == [1]
    assert chain.store.task("t-1").spent.delegations == 1


def test_a_worker_that_dies_before_the_request_leaves_it_to_the_next(chain: World) -> None:
    submit(chain)
    first = chain.runner().run("t-1", 1, always)
    assert first.claim is not None and first.claim.begun
    chain.sql("UPDATE tasks SET lease_until = now() - interval '1 second', due_at = now()")
    assert chain.run_step(2).outcome == "next"
    assert posts(chain, "b") == 1


def test_a_call_that_only_a_person_could_tell_of_is_decided_in_a_step_of_its_own(chain: World) -> None:
    """Marked as sent, it would wait for a person should the worker die before the request leaves."""
    chain.specs["b"] = replace(chain.specs["b"], idempotent=False)
    submit(chain)
    first = chain.runner().run("t-1", 1, always)
    assert first.claim is not None and not first.claim.begun
    chain.sql("UPDATE tasks SET lease_until = now() - interval '1 second', due_at = now()")
    assert chain.run_step(2).outcome == "next"
    assert posts(chain, "b") == 1


def test_a_worker_that_dies_is_missed_when_its_lease_ends_however_long_the_stall_time_is(chain: World) -> None:
    chain.store.stall = timedelta(minutes=5)
    submit(chain)
    first = chain.runner().run("t-1", 1, always)
    assert first.claim is not None
    lease = chain.limits.lease_for
    with chain.store.engine.begin() as connection:
        late = connection.execute(text("SELECT due_at - lease_until FROM tasks")).scalar_one()
    assert timedelta(0) <= late <= 0.3 * lease
    # The sweep of its own machine need not wait so long.
    assert chain.store.end_leases("", lambda _: True, lease) == 1
    assert chain.run_step(2).outcome == "next"


class Puzzled(RulesPlanner):
    """A planner that fails, in a way that nobody foresaw, in the step that it is asked about next."""

    def decide_at_once(self, request: PlanRequest) -> Decision | None:
        raise ZeroDivisionError(f"step {request.step}")


def test_whatever_goes_wrong_in_looking_ahead_the_reply_in_hand_is_written(chain: World) -> None:
    chain.planner = Puzzled()
    submit(chain)
    assert [result.outcome for result in straight_on(chain)] == ["next", "next", "completed"]
    assert [posts(chain, name) for name in FIELDS] == [1, 1, 1]


class Counting:
    """Limits that count permits, and refuse those of some agents."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.held = 0
        self.entered: Counter[str] = Counter()

    def enter(self, what: Limited, waiter: Dispatch) -> Permit | NotNow:  # noqa: ARG002 - the port's signature
        if what.name in self.refused:
            return NotNow("agent_at_capacity", f"{what.name} is at capacity", 5.0)
        self.held += 1
        self.entered[what.name] += 1
        return _Held(self)


class _Held:
    def __init__(self, limits: Counting) -> None:
        self._limits = limits
        self._left = False

    def leave(self, well: bool | None) -> None:  # noqa: ARG002 - the port's signature
        if not self._left:
            self._limits.held -= 1
        self._left = True


def test_an_agent_at_capacity_is_not_marked_as_called(chain: World) -> None:
    chain.calls = limits = Counting("b")
    submit(chain)
    first, second = straight_on(chain)
    assert first.claim is not None and not first.claim.begun
    (delegation,) = chain.store.history("t-1")[-1].delegations
    assert (second.outcome, delegation.state, delegation.attempts) == ("waiting", DelegationState.PENDING, 0)
    assert limits.held == 0


def test_permits_are_given_back_whatever_becomes_of_the_call(chain: World) -> None:
    chain.calls = limits = Counting()
    submit(chain)
    assert len(straight_on(chain)) == 3
    assert limits.held == 0
    # One for a call that is not made after all, since something came in between.
    submit(chain, "t-2")
    first = chain.runner().run("t-2", 1, lambda _: bool(chain.take(EventMessage("t-2", {"y": 1}, None))))
    assert first.claim is not None and not first.claim.begun
    assert limits.held == 0


def test_no_permit_of_a_rate_is_used_up_for_a_call_that_may_not_come(chain: World) -> None:
    chain.calls = limits = Counting()
    chain.specs["b"] = replace(chain.specs["b"], limits=AgentLimits(rate=1.0))
    submit(chain)
    first = chain.runner().run("t-1", 1, lambda _: bool(chain.take(EventMessage("t-1", {"b": "told"}, None))))
    assert first.claim is not None and not first.claim.begun
    assert chain.runner().go_on(first, always).outcome == "completed"
    assert limits.entered["b"] == 0


def test_a_call_that_needs_approval_is_decided_in_a_step_of_its_own(chain: World) -> None:
    chain.specs["b"] = replace(chain.specs["b"], requires_approval=True)
    submit(chain)
    first, second = straight_on(chain)
    assert first.claim is not None and not first.claim.begun
    assert (second.outcome, chain.store.task("t-1").waits_for) == ("waiting", WaitsFor.PERSON)
    assert posts(chain, "b") == 0


def test_a_doubted_call_is_not_sent_ahead(chain: World) -> None:
    chain.specs["b"] = replace(chain.specs["b"], idempotent=False, lookup="http://127.0.0.1:9/{key}")
    submit(chain)
    chain.sql("UPDATE tasks SET doubted_at = now()")
    first, second = straight_on(chain)
    assert first.claim is not None and not first.claim.begun
    assert (second.outcome, posts(chain, "b")) == ("waiting", 0)


def test_three_steps_cost_five_round_trips_and_commits(chain: World) -> None:
    """The guard of docs/performance.md: claim, first decision, and one commit a step."""
    with counted(chain.store) as counts:
        submit(chain)
        straight_on(chain)
        submit(chain, "t-2")
        looks = -commits(chain.store) + commits(chain.store)
        before, sent = commits(chain.store), counts.statements
        straight_on(chain, "t-2")
        assert chain.store.task("t-2").state is TaskState.COMPLETED
        statements = counts.statements - sent - READ
        made = commits(chain.store) - before - looks - 1
    assert statements <= 5 and made <= 5


@pytest.mark.parametrize(("straight", "most_records", "most_bytes"), [(False, 108, 17_000), (True, 90, 15_500)])
def test_three_steps_write_so_much_to_the_log_of_postgresql(
    chain: World, straight: bool, most_records: int, most_bytes: int
) -> None:
    """The guard of docs/performance.md: some 33 records and 5 kB a step."""
    submit(chain)
    straight_on(chain)
    submit(chain, "t-2")
    before = wal_of(chain.store)
    if straight:
        straight_on(chain, "t-2")
    else:
        for step in (1, 2, 3):
            chain.run_step(step, "t-2")
    after = wal_of(chain.store)
    assert chain.store.task("t-2").state is TaskState.COMPLETED
    records, size = after[0] - before[0], after[1] - before[1]
    assert 30 < records <= most_records, records
    assert size <= most_bytes, size
