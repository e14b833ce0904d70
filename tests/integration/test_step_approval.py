"""Calls that a person must approve: asked once, made as recorded, or told to the planner as declined."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.domain.agent import AskingRules
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.task import WaitsFor
from orchestrator.errors import AnswerRefused
from tests.support.agents import problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import USAGE, World, call

GIVE_UP = Decision(DecisionKind.FAIL, "not allowed", USAGE, details={"code": "not_allowed"})
WHO = {"who": "ann", "why": "too expensive"}


def test_a_call_waits_for_its_approval_and_is_then_made_as_recorded(world: World) -> None:
    world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=True, approval=AskingRules(who="finance"))
    world.submit("pay", amount=5)
    world.answers = [call("pay", amount=5)]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.waits_for, task.next_step) == (WaitsFor.PERSON, 1)
    (asked,) = world.store.questions(who="finance")
    assert (asked.question.ref, asked.agent, asked.arguments) == ("1.0", "pay", {"amount": 5})
    world.store.retry("t-1", who="ann", why="")
    assert world.run().outcome == "waiting", "a retry approves nothing"
    with pytest.raises(AnswerRefused, match="one of: approve, decline"):
        world.store.answer("t-1", None, "maybe", **WHO)
    assert world.agent.ledger().posts("/pay") == []

    world.specs["pay"] = world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=False)
    world.store.answer("t-1", None, "approve", **WHO)
    assert world.run().outcome == "completed"
    (sent,) = world.agent.ledger().posts("/pay")
    assert sent.body["input"] == {"amount": 5}
    assert len(world.asked) == 1


def test_a_call_that_is_declined_is_not_made_and_the_planner_reads_why(world: World) -> None:
    world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=True)
    world.submit("pay")
    world.answers = [call("pay"), GIVE_UP]
    world.run()
    world.store.answer("t-1", None, "decline", **WHO)
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "failed"
    (told,) = world.asked[1].history[0].delegations
    assert (told.state, told.error_code) == (DelegationState.FAILED, "declined")
    assert told.error == "ann declined the call: too expensive"
    assert world.agent.ledger().requests == []


def test_nobody_is_asked_twice_when_the_approved_call_fails_and_is_retried(world: World) -> None:
    world.add_agent("pay", problem(422), reply({"pay": "P-1"}), requires_approval=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    world.store.answer("t-1", None, "approve", **WHO)
    assert world.run().outcome == "failed"
    world.store.retry("t-1", who="ann", why="")
    assert world.run().outcome == "completed"


def test_of_several_calls_none_goes_out_before_the_approval_and_the_declined_one_never(world: World) -> None:
    world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=True)
    world.add_agent("look", reply({"look": "L-1"}))
    world.submit("pay", "look")
    world.answers = [call("pay", "look"), GIVE_UP]
    assert world.run().outcome == "waiting"
    assert world.agent.ledger().requests == []
    world.store.answer("t-1", "1.0", "decline", **WHO)
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "failed"
    assert world.data() == {"look": "L-1"}
    assert world.agent.ledger().posts("/pay") == []
    assert {one.agent: one.state for one in world.asked[1].history[0].delegations} == {
        "pay": DelegationState.FAILED,
        "look": DelegationState.SUCCEEDED,
    }


def test_an_approval_that_nobody_gives_is_escalated_and_then_counts_as_declined(world: World) -> None:
    rules = AskingRules(who="finance", timeout=2.0, escalate_to="head", escalate_after=0.05)
    world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=True, approval=rules)
    world.submit("pay")
    world.answers = [call("pay"), GIVE_UP]
    world.run()
    wait_for(lambda: world.run().outcome == "waiting", what="the escalation is due")
    assert [one.question.ref for one in world.store.questions(who="head")] == ["1.0"]
    wait_for(lambda: world.run().outcome == "next", what="the time-out is due")
    assert world.run(2).outcome == "failed"
    assert world.asked[1].history[0].delegations[0].error == "nobody approved the call in time"
    assert world.agent.ledger().requests == []


def test_a_worker_that_dies_with_the_approval_in_hand_leaves_it_to_the_next(world: World) -> None:
    world.add_agent("pay", reply({"pay": "P-1"}), requires_approval=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    world.store.answer("t-1", None, "approve", **WHO)
    world.store.claim("t-1", 1, "dies here", timedelta(0))
    wait_for(lambda: world.run().outcome == "completed", what="another worker goes on")
    assert len(world.agent.ledger().posts("/pay")) == 1
