"""An undo beside other things: what a person undid themselves, limits, replies that come as events."""

from __future__ import annotations

import pytest

from orchestrator.domain.agent import AgentTimeout
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited, NotNow
from orchestrator.domain.message import EventMessage
from orchestrator.errors import NotAllowed
from orchestrator.flow.limits import Unlimited
from orchestrator.flow.ports import Intake
from tests.integration.test_undo import WHO, add_undoable, report, run_until_ended, submit, undone_order
from tests.support.agents import reply
from tests.support.step_world import World, call


def test_what_a_person_undid_themselves_counts_as_undone(world: World) -> None:
    world.add_agent("sign", reply({"sign": 1}))
    world.add_agent("post", reply({"post": 2}))
    add_undoable(world, "draft")
    submit(world, "draft", "sign", "post", "more")
    world.answers = [call("draft"), call("sign"), call("post")]
    for step in (1, 2, 3):
        world.run(step)
    with pytest.raises(NotAllowed, match="no undo of it has ended"):
        world.store.undone_by_hand("t-1", None, **WHO)
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    with pytest.raises(NotAllowed, match=r"say which with --delegation: 3.0 \(post\), 2.0 \(sign\)"):
        world.store.undone_by_hand("t-1", None, **WHO)
    with pytest.raises(NotAllowed, match=r"no call 1\.0"):
        world.store.undone_by_hand("t-1", "1.0", **WHO)
    assert world.store.undone_by_hand("t-1", "2.0", **WHO).agent == "sign"
    assert world.store.undone_by_hand("t-1", None, **WHO).agent == "post"
    with pytest.raises(NotAllowed, match="no call that is left"):
        world.store.undone_by_hand("t-1", None, **WHO)
    with pytest.raises(NotAllowed, match="did nothing that is left"):
        world.store.undo("t-1", **WHO)
    found = report(world)
    assert found["not_undone"] == []
    assert [line.get("by_hand") for line in found["undone"]] == ["undone by hand by ann: withdrawn"] * 2 + [None]
    assert world.data() == {}
    task, told = world.store.task("t-1"), world.store.updates("t-1")[-1].body
    assert "left for a person" not in (task.reason or "")
    assert told["undo"]["undone"] == found["undone"] and told["state"] == "canceled"
    assert [entry.what for entry in world.store.audit_of("t-1")] == ["cancel", "undone", "undone"]


def test_the_calls_of_an_undo_wait_for_room_at_their_agent(world: World) -> None:
    add_undoable(world, "pay")
    submit(world, "pay", "more")
    world.answers = [call("pay")]
    world.run()
    world.store.cancel("t-1", undo=True, **WHO)
    world.calls = full = Full()
    assert world.run(2).outcome == "undoing"
    assert undone_order(world) == [] and full.asked == ["pay"]
    world.calls = Unlimited()
    run_until_ended(world)
    assert undone_order(world) == ["/pay-undo"]


class Full:
    """Limits without room, for a moment."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def enter(self, what: Limited, waiter: Dispatch) -> NotNow:  # noqa: ARG002 - the port's signature
        self.asked.append(what.name)
        return NotNow("agent_at_capacity", "no room", retry_in=0.01)


def test_a_reply_by_an_event_that_comes_during_an_undo_is_compensated(world: World) -> None:
    add_undoable(
        world, "appraise", answers=({"status": 202, "body": {}},), reply="event", timeout=AgentTimeout(1, 2, 3600)
    )
    submit(world, "appraise")
    world.answers = [call("appraise")]
    world.run()
    world.store.cancel("t-1", undo=True, **WHO)
    assert world.run().outcome == "undoing"
    token = world.agent.ledger().posts("/appraise")[0].body["context"]["reply_token"]
    told = {"token": token, "status": "succeeded", "output": {"appraise": 5}}
    taken = world.take(EventMessage("t-1", told, "agent.reply"))
    assert taken.outcome is Intake.REPLIED
    run_until_ended(world)
    assert undone_order(world) == ["/appraise-undo"]
    (sent,) = world.agent.ledger().posts("/appraise-undo")
    assert sent.body["input"]["id"] == 5
