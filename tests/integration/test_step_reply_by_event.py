"""Agents that answer 202 and reply by an event: kept beside the call, whatever the two cross."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.domain.agent import AgentTimeout
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.delegation import BY_EVENT, DelegationState
from orchestrator.domain.journal import Claim, GoOn, Settlement, StepCommit, Wait
from orchestrator.domain.message import EventMessage
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.flow.ports import Intake, Taken
from tests.support.agents import Answer, reply
from tests.support.stack import wait_for
from tests.support.step_world import USAGE, World, call

ACCEPTED: Answer = {"status": 202, "body": {}}
GIVE_UP = Decision(DecisionKind.FAIL, "no way", USAGE, details={"code": "no_way"})


def token(world: World, agent: str = "appraise") -> str:
    """What the agent was sent with its last request."""
    return str(world.agent.ledger().posts(f"/{agent}")[-1].body["context"]["reply_token"])


def tell(world: World, with_token: str, **document: Any) -> Taken:
    return world.take(EventMessage("t-1", {"token": with_token, **document}, "agent.reply"))


def only(world: World) -> Any:
    (delegation,) = world.store.history("t-1")[0].delegations
    return delegation


@pytest.fixture
def asked(world: World) -> World:
    """A task whose agent has accepted the call."""
    world.add_agent(
        "appraise",
        ACCEPTED,
        reply="event",
        output_schema={"type": "object", "required": ["appraise"]},
        timeout=AgentTimeout(1, 2, 3600),
    )
    world.submit("appraise")
    world.answers = [call("appraise"), GIVE_UP]
    assert world.run().outcome == "waiting"
    return world


def test_the_reply_that_comes_as_an_event_fills_the_field(asked: World) -> None:
    waiting = asked.store.task("t-1")
    assert (waiting.state, waiting.waits_for) == (TaskState.WAITING, WaitsFor.AGENT)
    assert only(asked).remote_url == BY_EVENT
    taken = tell(asked, token(asked), output={"appraise": 410_000})
    assert taken.outcome is Intake.REPLIED
    assert taken.dispatch is not None
    assert asked.run().outcome == "completed"
    assert asked.data() == {"appraise": 410_000}
    assert asked.store.context("t-1").origins["appraise"].name == "appraise"
    assert len(asked.agent.ledger().requests) == 1


def test_doubled_and_late_replies_change_nothing(asked: World) -> None:
    mine = token(asked)
    assert tell(asked, mine, output={"appraise": 1}).outcome is Intake.REPLIED
    assert tell(asked, mine, output={"appraise": 1}).outcome is Intake.DUPLICATE
    assert tell(asked, mine, output={"appraise": 2}).outcome is Intake.EVENT_LATE
    asked.run()
    assert tell(asked, mine, output={"appraise": 3}).outcome is Intake.EVENT_LATE
    assert asked.data() == {"appraise": 1}


def test_a_reply_with_a_wrong_token_is_a_dead_letter(asked: World) -> None:
    assert tell(asked, "guessed", output={"appraise": 1}).outcome is Intake.REPLY_REFUSED
    (letter,) = asked.store.dead_letters()
    assert letter.reason == "unknown_reply"
    assert asked.run().outcome == "skipped"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"status": "failed", "error": {"title": "House is gone"}}, "agent_failed"),
        ({"output": {"other": 1}}, "reply_invalid"),
        ({"status": "succeeded"}, "reply_invalid"),
    ],
)
def test_a_reply_that_fails_or_does_not_fit_fails_the_call(asked: World, document: dict[str, Any], code: str) -> None:
    tell(asked, token(asked), **document)
    assert asked.run().detail.startswith(f"{code}: ")


def test_after_a_reply_that_was_of_no_use_a_retry_waits_for_another(asked: World) -> None:
    asked.specs["appraise"] = asked.add_agent("appraise", ACCEPTED, reply="event", idempotent=True)
    tell(asked, token(asked), status="failed")
    asked.run()
    asked.store.retry("t-1", who="ann", why="")
    assert asked.run().outcome == "waiting"
    tell(asked, token(asked), output={"appraise": 5})
    assert asked.run().outcome == "completed"


def test_a_reply_that_is_quicker_than_our_commit_is_not_overwritten(world: World) -> None:
    """The worker has sent the call and not yet written that it was accepted."""
    world.add_agent("appraise", ACCEPTED, reply="event")
    world.submit("appraise")
    world.answers = [call("appraise")]
    world.run()
    mine = token(world)
    world.sql("UPDATE tasks SET due_at = now(), lease_until = NULL")
    claim = world.store.claim("t-1", 1, "slow", timedelta(seconds=30))
    assert isinstance(claim, Claim)
    assert tell(world, mine, output={"appraise": 7}).outcome is Intake.REPLIED
    later = datetime.now(UTC) + timedelta(hours=1)
    accepted = Settlement(0, DelegationState.IN_FLIGHT, remote_url=BY_EVENT)
    world.store.commit(claim.lease, StepCommit(GoOn()))
    world.store.commit(claim.lease, StepCommit(Wait(WaitsFor.AGENT, later), settlements=(accepted,)))
    assert world.run().outcome == "completed"


def test_a_reply_after_the_time_out_settles_what_waits_for_a_person(world: World) -> None:
    world.add_agent("appraise", ACCEPTED, reply="event", timeout=AgentTimeout(0.2, 0.2, 0.3))
    world.submit("appraise")
    world.answers = [call("appraise")]
    world.run()
    wait_for(lambda: world.run().outcome == "waiting", what="its time is over")
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    assert tell(world, token(world), output={"appraise": 9}).outcome is Intake.REPLIED
    assert world.run().outcome == "completed"


def test_replies_of_a_parallel_step_are_joined(world: World) -> None:
    world.add_agent("appraise", ACCEPTED, reply="event", timeout=AgentTimeout(1, 2, 3600))
    world.add_agent("look", reply({"look": 1}))
    world.submit("appraise", "look")
    world.answers = [call("appraise", "look")]
    assert world.run().outcome == "waiting"
    tell(world, token(world), output={"appraise": 3})
    for place in wait_for(lambda: world.sweep(), what="its delegation is due"):
        world.run_delegation(place)
    assert world.run().outcome == "completed"
    assert world.data() == {"appraise": 3, "look": 1}


def test_a_reply_for_a_canceled_task_is_kept_and_changes_nothing(asked: World) -> None:
    mine = token(asked)
    asked.store.cancel("t-1", who="ann", why="")
    assert tell(asked, mine, output={"appraise": 1}).outcome is Intake.EVENT_LATE
    assert only(asked).told == {"output": {"appraise": 1}}
    assert asked.store.task("t-1").state is TaskState.CANCELED
