"""Steps on a real PostgreSQL against a real HTTP agent: what is written when, and what a second execution finds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.flow.step import StepResult
from tests.support.agents import job, lost_reply, poll, problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import World, call


def test_a_step_decides_delegates_and_writes_down_what_came_back(world: World) -> None:
    world.add_agent("score", reply({"score": 80}))
    world.submit("score", name="Acme")
    world.answers = [call("score", name="Acme")]

    result = world.run()

    assert result.outcome == "completed"
    assert world.data() == {"name": "Acme", "score": 80}
    origin = world.store.context("t-1").origins["score"]
    assert (origin.kind, origin.name, origin.step, origin.pointer) == ("agent", "score", 1, "/score")
    (entry,) = world.store.history("t-1")
    assert entry.step.decision is not None and entry.step.decision.reason == "because"
    assert entry.delegations[0].reply == {"score": 80}
    assert world.store.context_row("t-1")["context"]["current_state"] == "completed"


def test_the_next_step_is_named_while_fields_are_missing(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a", "b")
    world.answers = [call("a")]
    result = world.run()
    assert result.outcome == "next"
    assert result.next is not None and (result.next.task_id, result.next.step) == ("t-1", 2)


def test_a_doorbell_for_a_step_that_is_done_ends_quietly(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a", "b")
    world.answers = [call("a")]
    world.run()
    assert world.run().outcome == "skipped"
    assert len(world.agent.ledger().posts("/a")) == 1


def test_several_calls_are_carried_out_one_after_another(world: World) -> None:
    for name in "abc":
        world.add_agent(name, reply({name: name.upper()}))
    world.submit("a", "b", "c")
    world.answers = [call("a", "b", "c")]
    assert world.run().outcome == "completed"
    assert world.data() == {"a": "A", "b": "B", "c": "C"}
    assert [seen.path for seen in world.agent.ledger().requests if seen.method == "POST"] == ["/a", "/b", "/c"]


def test_a_busy_agent_is_called_again_under_the_same_key_and_the_decision_stands(world: World) -> None:
    world.add_agent("a", problem(503, retry_after=0), reply({"a": 1}))
    world.submit("a")
    world.answers = [call("a")]
    first = world.run()
    assert first.outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.RETRY

    assert world.run_until_it_moves_on().outcome == "completed"

    posts = world.agent.ledger().posts("/a")
    assert len(posts) == 2 and posts[0].key == posts[1].key
    assert len(world.asked) == 1


def test_an_agent_that_answers_later_is_polled(world: World) -> None:
    world.add_agent("a", job(poll("running"), poll("succeeded", {"a": 1})))
    world.submit("a")
    world.answers = [call("a")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.state, task.waits_for) == (TaskState.WAITING, WaitsFor.AGENT)
    assert world.run_until_it_moves_on().outcome == "completed"
    assert len(world.agent.ledger().posts("/a")) == 1


def test_an_agent_that_stays_away_fails_the_step_and_a_retry_goes_on(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.add_agent("b", problem(503), problem(503), problem(503), reply({"b": 2}))
    world.submit("a", "b")
    world.answers = [call("a", "b")]
    world.run()
    failed = world.run_until_it_moves_on()
    assert failed.outcome == "failed"
    task = world.store.task("t-1")
    assert task.state is TaskState.FAILED and task.next_step == 1
    assert "b" in (task.reason or "") and "attempt 3 of 3" in (task.reason or "")

    dispatch = world.store.retry("t-1", who="ann", why="b is back")
    assert (dispatch.task_id, dispatch.step) == ("t-1", 1)
    assert world.run().outcome == "completed"
    assert len(world.agent.ledger().posts("/a")) == 1
    assert world.data() == {"a": 1, "b": 2}


def test_a_lost_reply_of_a_careless_agent_waits_for_a_person_and_is_never_repeated(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.waits_for, task.reason_code) == (WaitsFor.PERSON, "outcome_unknown")
    assert world.run().outcome == "skipped"
    world.store.retry("t-1", who="ann", why="look again")
    assert world.run().outcome == "waiting"
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_lost_reply_of_an_agent_that_honours_keys_has_one_effect(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    assert world.run_until_it_moves_on().outcome == "completed"
    ledger = world.agent.ledger()
    assert len(ledger.posts("/pay")) == 2 and ledger.doubled == []


def test_a_lost_reply_is_looked_up_where_the_agent_offers_it(world: World) -> None:
    spec = world.add_agent("pay", lost_reply({"pay": 1}))
    world.specs["pay"] = replace(spec, lookup=f"{spec.url}/replies/{{key}}")
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    assert world.run_until_it_moves_on().outcome == "completed"
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_call_that_failed_by_a_persons_word_fails_the_step_without_another_call(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": "P-1"}))
    world.answers = [call("pay")]
    world.submit("pay")
    assert world.run().outcome == "waiting"
    (delegation,) = world.store.unknown_delegations("t-1")
    world.store.resolve(delegation, Resolution(Outcome.FAILED), who="ann", why="they say no")
    result = world.run()
    assert (result.outcome, result.detail) == ("failed", "agent_failed: pay did not do it, says ann")
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_crash_after_the_decision_carries_out_the_recorded_one(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=200))

    class Killed(BaseException):
        """Stands for the end of the process between commit and request."""

    send = world.client.call
    world.client.call = lambda *_: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]  # dies once
    with pytest.raises(Killed):
        world.run()
    world.client.call = send  # type: ignore[method-assign]  # and is whole again

    result = wait_for(lambda: (r := world.run()).outcome != "skipped" and r, what="the lease ended")
    assert isinstance(result, StepResult) and result.outcome == "completed"
    assert len(world.asked) == 1
    assert world.agent.ledger().doubled == []


def test_a_fenced_worker_writes_nothing_but_its_late_reply_settles_the_delegation(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}, gate="go"))
    world.submit("pay")
    world.answers = [call("pay")]
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=100))
    send = world.client.call
    overtaken: list[StepResult] = []

    def overtaken_while_calling(agent: AgentSpec, request: Any) -> Any:
        world.client.call = send  # type: ignore[method-assign]  # only the first call is overtaken
        result = wait_for(lambda: (r := world.run()).outcome != "skipped" and r, what="the lease ended")
        assert isinstance(result, StepResult)
        overtaken.append(result)
        world.agent.open_gate("go")
        return send(agent, request)

    world.client.call = overtaken_while_calling  # type: ignore[method-assign]  # see above
    assert world.run().outcome == "fenced"
    assert overtaken[0].outcome == "waiting"
    assert world.store.history("t-1")[0].delegations[0].state is DelegationState.SUCCEEDED
    assert wait_for(lambda: (r := world.run()).outcome == "completed" and r, what="the late reply completes the task")
    assert len(world.agent.ledger().posts("/pay")) == 1
