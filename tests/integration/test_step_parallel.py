"""A decision with several calls, played on a real store and a real agent: side by side, joined, failed by policy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from orchestrator.domain.budget import Budget
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import DelegationClaim, Dispatch
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.task import PartialFailure, TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.delegation_run import DelegationResult
from tests.support.agents import job, lost_reply, poll, problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import World, call


def states(world: World, step: int = 1) -> list[DelegationState]:
    return [one.state for one in world.store.history("t-1")[step - 1].delegations]


def test_several_calls_are_joined_and_filled_in_by_index(world: World) -> None:
    for name in "abc":
        world.add_agent(name, reply({name: name.upper(), "last": name}), provides={name: f"/{name}", "last": "/last"})
    world.submit("a", "b", "c")
    world.answers = [call("a", "b", "c")]
    started = world.run_step()
    assert started.outcome == "waiting"
    assert [bell.index for bell in started.doorbells] == [0, 1, 2]
    rung = [world.run_delegation(bell).doorbells for bell in reversed(started.doorbells)]
    assert rung == [(), (), (Dispatch("t-1", 1),)]
    assert world.run_step().outcome == "completed"
    assert world.data() == {"a": "A", "b": "B", "c": "C", "last": "c"}
    assert world.store.context("t-1").version == 2


def test_delegations_of_a_step_are_with_their_agents_at_the_same_time(world: World) -> None:
    world.add_agent("slow", reply({"slow": 1}, gate="go"))
    world.submit("slow")
    world.answers = [call(*["slow"] * 6)]
    world.client = type(world.client)(concurrency=6)
    started = world.run_step()
    results: list[DelegationResult] = []
    threads = [
        threading.Thread(target=lambda bell=bell: results.append(world.run_delegation(bell)))
        for bell in started.doorbells
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: world.agent.ledger().in_flight.get("/slow") == 6, what="six calls in flight")
    world.agent.open_gate("go")
    for thread in threads:
        thread.join()
    assert sorted(len(result.doorbells) for result in results) == [0, 0, 0, 0, 0, 1]
    assert world.run_step().outcome == "completed"


def test_a_doubled_message_of_a_delegation_ends_quietly(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a")
    world.answers = [call("a", "a")]
    started = world.run_step()
    assert world.run_delegation(started.doorbells[0]).outcome == "succeeded"
    again = world.run_delegation(started.doorbells[0])
    assert (again.outcome, again.detail, again.doorbells) == ("skipped", "ended", ())
    assert len(world.agent.ledger().posts("/a")) == 1


def test_a_claim_whose_answer_was_lost_is_still_ours_and_its_call_is_sent_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the call would be in flight without anybody who sent it, and a person asked about nothing."""
    world.add_agent("pay", reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay", "pay")]
    started = world.run_step()
    transact = world.store.transact
    cut: list[DelegationClaim] = []

    def cut_off_once(work: Callable[[Connection], Any], **options: Any) -> Any:
        done = transact(work, **options)
        if not cut and isinstance(done, DelegationClaim):
            cut.append(done)
            raise StoreUnavailable("the connection was cut after the commit")
        return done

    monkeypatch.setattr(world.store, "transact", cut_off_once)
    assert [world.run_delegation(bell).outcome for bell in started.doorbells] == ["succeeded", "succeeded"]
    assert cut
    assert world.run_step().outcome == "completed"
    assert [one.attempts for one in world.store.history("t-1")[0].delegations] == [1, 1]
    assert len(world.agent.ledger().posts("/pay")) == 2


def test_retries_and_polls_of_one_do_not_wake_the_others(world: World) -> None:
    world.add_agent("busy", problem(503), reply({"busy": 1}))
    world.add_agent("late", job(poll("running"), poll("succeeded", {"late": 2})))
    world.add_agent("quick", reply({"quick": 3}))
    world.submit("busy", "late", "quick")
    world.answers = [call("busy", "late", "quick")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.state, task.waits_for) == (TaskState.WAITING, WaitsFor.AGENT)
    assert world.run_until_it_moves_on().outcome == "completed"
    ledger = world.agent.ledger()
    assert [len(ledger.posts(path)) for path in ("/busy", "/late", "/quick")] == [2, 1, 1]
    assert ledger.posts("/busy")[0].key == ledger.posts("/busy")[1].key
    # Once to begin, once to end.
    assert world.store.history("t-1")[0].step.attempts == 2


def test_a_failure_fails_the_step_after_the_others_and_a_retry_sends_only_what_did_not_succeed(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.add_agent("b", problem(422), reply({"b": 2}))
    world.add_agent("c", reply({"c": 3}))
    world.submit("a", "b", "c")
    world.answers = [call("b", "a", "c")]
    failed = world.run()
    assert failed.outcome == "failed"
    assert failed.detail.startswith("agent_rejected: b: ")
    assert states(world) == [DelegationState.FAILED, DelegationState.SUCCEEDED, DelegationState.SUCCEEDED]
    assert world.data() == {}

    world.store.retry("t-1", who="ann", why="b is mended")
    assert world.run().outcome == "completed"
    assert world.data() == {"a": 1, "b": 2, "c": 3}
    ledger = world.agent.ledger()
    assert [len(ledger.posts(path)) for path in ("/a", "/b", "/c")] == [1, 2, 1]


def test_several_failures_are_told_together(world: World) -> None:
    for name in ("a", "b"):
        world.add_agent(name, problem(422))
    world.submit("a", "b")
    world.answers = [call("a", "b")]
    result = world.run()
    assert result.detail.startswith("agent_rejected: 2 of 2 delegations failed: a: ")


def test_any_is_content_with_one_success(world: World) -> None:
    world.add_agent("a", problem(422))
    world.add_agent("b", reply({"a": 2}), provides={"a": "/a"})
    world.limits = replace(world.limits, partial_failure=PartialFailure.ANY)
    world.submit("a")
    world.answers = [call("a", "b")]
    assert world.run().outcome == "completed"
    assert world.data() == {"a": 2}


def test_any_fails_where_none_succeeded(world: World) -> None:
    world.add_agent("a", problem(422))
    world.limits = replace(world.limits, partial_failure=PartialFailure.ANY)
    world.submit("a")
    world.answers = [call("a", "a")]
    assert world.run().outcome == "failed"


@pytest.mark.parametrize("times", [1, 2])
def test_collect_tells_the_planner_which_decides_on(world: World, times: int) -> None:
    world.add_agent("a", problem(422))
    world.add_agent("b", reply({"a": 2}), provides={"a": "/a"})
    world.limits = replace(world.limits, partial_failure=PartialFailure.COLLECT)
    world.submit("a")
    world.answers = [call(*["a"] * times), call("b")]
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "completed"
    told = world.asked[1].history[0].delegations
    assert [one.state for one in told] == [DelegationState.FAILED] * times
    assert "scripted 422" in (told[0].error or "")


def test_a_task_may_have_a_policy_of_its_own(world: World) -> None:
    world.add_agent("a", problem(422))
    world.add_agent("b", reply({"a": 2}), provides={"a": "/a"})
    world.take(TaskMessage("t-1", "Do it", ("a",), partial_failure=PartialFailure.ANY))
    world.answers = [call("a", "b")]
    assert world.run().outcome == "completed"


def test_an_unknown_outcome_waits_for_a_person_once_the_others_have_settled(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}))
    world.add_agent("b", reply({"b": 2}))
    world.submit("pay", "b")
    world.answers = [call("pay", "b")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.waits_for, task.reason_code) == (WaitsFor.PERSON, "outcome_unknown")
    assert "delegation 1.0 waits until a person says" in (task.reason or "")
    assert states(world) == [DelegationState.UNKNOWN, DelegationState.SUCCEEDED]
    world.store.retry("t-1", who="ann", why="look again")
    assert world.run().outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_what_two_lost_replies_wait_for_is_told_of_both(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay", "pay")]
    world.run()
    task = world.store.task("t-1")
    assert task.wait["delegations"] == ["1.0", "1.1"]
    assert "the same holds for 1.1 (pay)" in (task.reason or "")


def test_a_killed_workers_delegation_goes_on_under_its_own_key(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay", "pay")]
    started = world.run_step()
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=100))

    class Killed(BaseException):
        """Stands for the end of the process."""

    send = world.client.call

    def dies_after_sending(*arguments: object) -> object:
        send(*arguments)  # type: ignore[arg-type]  # handed on as they came
        raise Killed

    world.client.call = dies_after_sending  # type: ignore[method-assign,assignment]  # dies once
    with pytest.raises(Killed):
        world.run_delegation(started.doorbells[0])
    world.client.call = send  # type: ignore[method-assign]  # and is whole again
    assert world.run_delegation(started.doorbells[1]).outcome == "succeeded"
    due = wait_for(world.sweep, what="the lease ran out")
    assert due is not None
    assert [bell.index for bell in due] == [0]
    assert world.run_delegation(due[0]).doorbells == (Dispatch("t-1", 1),)
    assert world.run_step().outcome == "completed"
    ledger = world.agent.ledger()
    assert len({seen.key for seen in ledger.posts("/pay")}) == 2
    assert ledger.doubled == []


def test_a_delegation_that_kills_its_workers_is_set_aside(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay", "pay")]
    started = world.run_step()
    world.limits = replace(world.limits, max_lost_leases=2, lease_for=timedelta(milliseconds=20))

    class Killed(BaseException):
        """Stands for the end of the process."""

    def dies(*_: object) -> object:
        raise Killed

    world.client.call = dies  # type: ignore[method-assign,assignment]  # each time

    def executed() -> DelegationResult | None:
        world.sweep()
        try:
            result = world.run_delegation(started.doorbells[0])
        except Killed:
            return None
        return result if result.outcome != "skipped" else None

    result = wait_for(executed, what="it is set aside")
    assert result is not None
    assert result.detail.startswith("poison: pay: the call lost its worker 2 times")


def test_the_number_of_calls_is_bounded_for_a_step_and_for_a_task(world: World) -> None:
    world.add_agent("a", reply({"x": 1}))
    world.limits = replace(world.limits, max_fan_out=3, budget=Budget(delegations=5), bad_answers=1)
    world.submit("a")
    world.answers = [call(*["a"] * 3), call(*["a"] * 3)]
    assert world.run().outcome == "next"
    assert world.asked[0].max_calls == 3
    result = world.run(2)
    assert world.asked[1].max_calls == 2
    assert result.detail.startswith("bad_decision: 1 answers of the planner could not be used; the last: 3 calls in")


def test_a_task_that_has_used_its_delegations_fails_with_that_reason(world: World) -> None:
    world.add_agent("a", reply({"x": 1}))
    world.limits = replace(world.limits, bad_answers=1)
    world.take(TaskMessage("t-1", "Do it", ("a",), budget={"delegations": 2}))
    world.answers = [call("a", "a"), call("a")]
    assert world.run().outcome == "next"
    assert world.run(2).detail.startswith("budget_delegations: ")


def test_a_deadline_ends_the_step_while_a_delegation_is_out(world: World) -> None:
    world.add_agent("late", job(poll("running")))
    deadline = datetime.now(UTC) + timedelta(seconds=1)
    world.take(TaskMessage("t-1", "Do it", ("late",), deadline=deadline))
    world.answers = [call("late", "late")]
    world.run()
    failed = world.run_until_it_moves_on()
    assert failed.detail.startswith("deadline_passed: ")


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "never_happened"])
def test_a_persons_word_on_one_of_several_lets_the_step_go_on(world: World, outcome: str) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}), reply({"pay": 2}))
    world.add_agent("b", reply({"b": 2}))
    world.submit("pay", "b")
    world.answers = [call("pay", "b")]
    world.run()
    (unknown,) = world.store.unknown_delegations("t-1")
    word = Resolution(Outcome(outcome), {"pay": 3} if outcome == "succeeded" else None)
    doorbell = world.store.resolve(unknown, word, who="ann", why="asked them")
    assert doorbell == Dispatch("t-1", 1)
    assert world.run().outcome == ("failed" if outcome == "failed" else "completed")
    assert (
        world.data() == {"succeeded": {"pay": 3, "b": 2}, "failed": {}, "never_happened": {"pay": 2, "b": 2}}[outcome]
    )
