"""A person in the place of planner or agent, on a real PostgreSQL against real HTTP agents."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed
from orchestrator.flow.by_hand import ByHand
from tests.support.agents import lost_reply, problem, reply
from tests.support.step_world import World, call

WHO: dict[str, Any] = {"who": "ann", "why": "by telephone"}
INPUT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Bell:
    """A dispatcher that notes what was rung."""

    def __init__(self) -> None:
        self.rung: list[Dispatch] = []

    def dispatch(self, doorbells: Any) -> None:
        self.rung += doorbells

    def backlog(self, *_: Any) -> Any:
        raise AssertionError("not asked")


def by_hand(world: World) -> ByHand:
    return ByHand(world.store, Bell(), world)  # type: ignore[arg-type]  # the world plays the registry


def refused_calls(world: World) -> None:
    """A step with two calls, of which the second is refused."""
    world.add_agent("a", reply({"a": 1}), input_schema=INPUT)
    world.add_agent("b", problem(422), reply({"b": 2}), input_schema=INPUT, output_schema={"type": "object"})
    world.submit("a", "b")
    world.answers = [call("a", "b", n=1)]
    assert world.run().outcome == "failed"


def test_the_calls_of_a_step_are_made_again_with_other_arguments_and_new_keys(world: World) -> None:
    refused_calls(world)
    doorbell = by_hand(world).rerun_arguments("t-1", 1, {1: {"n": 2}}, **WHO)
    assert doorbell.step == 2
    assert world.run(2).outcome == "completed"
    assert len(world.asked) == 1
    posts = [*world.agent.ledger().posts("/a"), *world.agent.ledger().posts("/b")]
    assert [seen.body["input"]["n"] for seen in posts] == [1, 1, 1, 2]
    assert len({seen.key for seen in posts}) == 4
    first, second = world.store.history("t-1")
    assert first.step.superseded
    assert second.step.decision is not None
    assert "corrected by ann (b: n)" in second.step.decision.reason


def test_arguments_that_do_not_fit_are_refused_and_nothing_is_changed(world: World) -> None:
    refused_calls(world)
    for edits, said in (({1: {"n": "two"}}, "input_schema of b"), ({2: {"n": 1}}, "there is no 2")):
        with pytest.raises(NotAllowed, match=said):
            by_hand(world).rerun_arguments("t-1", 1, edits, **WHO)
    assert world.store.task("t-1").state is TaskState.FAILED
    assert list(world.store.audit_of("t-1")) == []


def test_a_call_with_other_arguments_is_approved_anew(world: World) -> None:
    world.add_agent("pay", problem(422), reply({"pay": 7}), requires_approval=True, input_schema=INPUT)
    world.submit("pay")
    world.answers = [call("pay", n=1)]
    world.run()
    world.store.answer("t-1", None, "approve", who="head", why="")
    assert world.run().outcome == "failed"
    by_hand(world).rerun_arguments("t-1", 1, {0: {"n": 2}}, **WHO)
    assert world.run(2).outcome == "waiting"
    assert len(world.agent.ledger().posts("/pay")) == 1
    (asked,) = world.store.questions()
    assert (asked.question.ref, asked.arguments) == ("2.0", {"n": 2})
    world.store.answer("t-1", None, "approve", who="head", why="")
    assert world.run(2).outcome == "completed"
    assert [seen.body["input"]["n"] for seen in world.agent.ledger().posts("/pay")] == [1, 2]


def test_a_step_is_skipped_with_a_reply_and_a_value(world: World) -> None:
    refused_calls(world)
    doorbell = by_hand(world).skip("t-1", {"note": "called"}, {1: {"b": 7}}, **WHO)
    assert doorbell.step == 2
    assert world.run(2).outcome == "completed"
    assert world.data() == {"a": 1, "b": 7, "note": "called"}
    origins = world.store.context("t-1").origins
    assert [(origins[name].kind, origins[name].name) for name in ("a", "b", "note")] == [
        ("agent", "a"),
        ("person", "ann"),
        ("person", "ann"),
    ]
    assert len(world.agent.ledger().posts("/b")) == 1
    (entry,) = world.store.audit_of("t-1")
    assert (entry.what, entry.details["replies"]) == ("skip", [1])


def test_a_skip_refuses_what_does_not_fit(world: World) -> None:
    refused_calls(world)
    hand = by_hand(world)
    for replies, said in (({0: {}}, "has succeeded"), ({1: []}, "output_schema of b"), ({5: {}}, "has no call 5")):
        with pytest.raises(NotAllowed, match=said):
            hand.skip("t-1", {}, replies, **WHO)
    hand.skip("t-1", {"b": 1}, {}, **WHO)
    world.run(2)
    with pytest.raises(NotAllowed, match="is completed"):
        hand.skip("t-1", {"b": 2}, {}, **WHO)


def test_a_skipped_call_that_never_acted_is_not_undone_and_one_that_may_have_is_found_out(world: World) -> None:
    world.add_agent("refused", problem(422))
    world.submit("refused", "pay")
    world.answers = [call("refused")]
    assert world.run().outcome == "failed"
    by_hand(world).skip("t-1", {}, {0: {"refused": "by hand"}}, **WHO)
    assert list(world.store.undo_items("t-1")) == []
    world.add_agent("pay", lost_reply({"pay": 1}))
    world.answers = [call("pay")]
    assert world.run(2).outcome == "waiting"
    by_hand(world).skip("t-1", {"pay": "by hand"}, {}, **WHO)
    (item,) = world.store.undo_items("t-1")
    assert item.delegation.state is DelegationState.UNKNOWN
