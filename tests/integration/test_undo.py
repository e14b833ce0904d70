"""Undo on a real PostgreSQL against real HTTP agents: what is compensated, in which order, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.agent import AgentTimeout, Compensate
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import TaskState
from orchestrator.domain.undo import undo_report
from orchestrator.domain.value import replace
from orchestrator.errors import NotAllowed
from orchestrator.flow.step import StepResult
from tests.support.agents import hang, job, lost_reply, poll, problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import World, call

WHO: dict[str, Any] = {"who": "ann", "why": "withdrawn"}


def add_undoable(world: World, name: str, *undone: dict[str, Any], idempotent: bool = True, **parts: Any) -> None:
    """An agent that acts and can undo it at ``/{name}-undo``."""
    url = world.agent.script(f"/{name}-undo", *(undone or (reply({"gone": True}),)), idempotent=idempotent)
    compensate = Compensate(url, {"id": f"/reply/{name}", "key": "/key"}, idempotent=idempotent)
    answers = parts.pop("answers", (reply({name: f"{name}-1"}),))
    world.add_agent(name, *answers, **{"idempotent": True, "compensate": compensate, **parts})


def submit(world: World, *required: str, on_failure: str = "undo", **data: Any) -> None:
    from orchestrator.domain.message import TaskMessage

    world.take(TaskMessage("t-1", "Do it", required, data, on_failure=on_failure))  # type: ignore[arg-type]  # a literal


def run_until_ended(world: World) -> StepResult:
    """Ring whatever step is next until the task has ended; gives the last execution."""
    results: list[StepResult] = []

    def ended() -> bool:
        task = world.store.task("t-1")
        if not task.state.is_terminal:
            result = world.run(task.next_step)
            if result.outcome != "skipped":
                results.append(result)
        return world.store.task("t-1").state.is_terminal

    wait_for(ended, what="the task ended", every=0.02)
    return results[-1]


def report(world: World) -> dict[str, Any]:
    return undo_report(world.store.task("t-1").undo or {}, world.store.undo_items("t-1"))


def undone_order(world: World) -> list[str]:
    return [seen.path for seen in world.agent.ledger().requests if seen.path.endswith("-undo")]


def three_and_a_refusal(world: World) -> None:
    """Two agents act, one only looks, then one refuses for good."""
    add_undoable(world, "reserve")
    world.add_agent("look", reply({"look": 1}), side_effects=False)
    add_undoable(world, "draft")
    world.add_agent("sign", problem(422))
    submit(world, "reserve", "look", "draft", "sign", name="Acme")
    world.answers = [call("reserve", n=1), call("look"), call("draft"), call("sign")]


def test_a_failure_undoes_what_was_done_newest_first_and_tells_of_it(world: World) -> None:
    three_and_a_refusal(world)
    result = run_until_ended(world)
    assert result.outcome == "undone"
    assert undone_order(world) == ["/draft-undo", "/reserve-undo"]

    task = world.store.task("t-1")
    assert (task.state, task.reason_code) == (TaskState.FAILED, "agent_rejected")
    assert "undone: draft (3.0), reserve (1.0)" in (task.reason or "")
    states = {d.agent: d.state.value for entry in world.store.history("t-1") for d in entry.delegations}
    assert states == {"reserve": "compensated", "look": "succeeded", "draft": "compensated", "sign": "failed"}
    # What the undone calls had given is not so any more.
    assert world.data() == {"name": "Acme", "look": 1}

    (undo,) = world.agent.ledger().posts("/reserve-undo")
    original = world.store.history("t-1")[0].delegations[0]
    assert undo.key == f"{original.key}:undo"
    assert undo.body["input"] == {"id": "reserve-1", "key": original.key}
    assert undo.body["context"]["compensates"] == original.key

    updates = [row.body for row in world.store.updates("t-1")]
    states_told = [body["state"] for body in updates]
    assert states_told[-4:] == ["compensating", "compensating", "compensating", "failed"]
    assert [line["agent"] for line in updates[-1]["undo"]["undone"]] == ["draft", "reserve"]
    assert updates[-1]["undo"]["not_undone"] == updates[-1]["undo"]["open"] == []
    assert len(updates[-4]["undo"]["open"]) == 2


def test_after_an_undo_only_a_restart_is_possible(world: World) -> None:
    three_and_a_refusal(world)
    run_until_ended(world)
    with pytest.raises(NotAllowed) as refused:
        world.store.retry("t-1", **WHO)
    assert "task restart t-1" in (refused.value.hint or "")
    with pytest.raises(NotAllowed, match="was undone"):
        world.store.rerun("t-1", 2, {}, **WHO)

    world.agent.script("/sign", reply({"sign": "S-1"}))
    doorbell = world.store.restart("t-1", {"name": "Acme AG"}, **WHO)
    assert doorbell.step == 5
    assert world.data() == {"name": "Acme AG"}
    assert all(entry.step.superseded for entry in world.store.history("t-1"))
    world.answers = [call("reserve", n=1), call("look"), call("draft"), call("sign")]
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.COMPLETED
    ledger = world.agent.ledger()
    assert len(ledger.posts("/reserve")) == 2 and ledger.doubled == []


def test_without_on_failure_undo_effects_stay_until_a_person_undoes_them(world: World) -> None:
    add_undoable(world, "reserve")
    world.add_agent("sign", problem(422))
    submit(world, "reserve", "sign", on_failure="stop")
    world.answers = [call("reserve"), call("sign")]
    run_until_ended(world)
    assert undone_order(world) == []
    assert world.store.undo("t-1", **WHO).step == 2
    run_until_ended(world)
    task = world.store.task("t-1")
    assert (task.state, task.reason_code) == (TaskState.FAILED, "agent_rejected")
    assert undone_order(world) == ["/reserve-undo"]
    with pytest.raises(NotAllowed, match="nothing that is left"):
        world.store.undo("t-1", **WHO)


def test_a_completed_task_can_be_undone_by_hand(world: World) -> None:
    add_undoable(world, "reserve")
    submit(world, "reserve")
    world.answers = [call("reserve")]
    run_until_ended(world)
    world.store.undo("t-1", **WHO)
    run_until_ended(world)
    task = world.store.task("t-1")
    assert task.state is TaskState.CANCELED
    assert "undone by ann: withdrawn" in (task.reason or "")


def test_a_failed_task_that_did_nothing_just_fails_and_can_be_retried(world: World) -> None:
    world.add_agent("sign", problem(422), reply({"sign": 1}))
    submit(world, "sign")
    world.answers = [call("sign")]
    assert world.run().outcome == "failed"
    assert world.store.task("t-1").undo is None
    world.store.retry("t-1", **WHO)
    assert world.run().outcome == "completed"


def test_what_cannot_be_undone_is_listed_and_the_rest_is_undone(world: World) -> None:
    add_undoable(world, "reserve")
    world.add_agent("mail", reply({"mail": 1}), idempotent=True)
    add_undoable(world, "draft", problem(409, "Contract is signed"))
    world.add_agent("sign", problem(422))
    submit(world, "reserve", "mail", "draft", "sign")
    world.answers = [call("reserve"), call("mail"), call("draft"), call("sign")]
    run_until_ended(world)
    found = report(world)
    assert [line["agent"] for line in found["undone"]] == ["reserve"]
    assert [(line["agent"], line["reason_code"]) for line in found["not_undone"]] == [
        ("draft", "agent_rejected"),
        ("mail", "no_compensate"),
    ]
    assert "Contract is signed" in found["not_undone"][0]["reason"]
    assert "left for a person: draft (3.0), mail (2.0)" in (world.store.task("t-1").reason or "")

    # Once that is mended, the same command tries again what is left, and repeats nothing.
    world.agent.script("/draft-undo", reply({"gone": True}))
    world.store.undo("t-1", **WHO)
    run_until_ended(world)
    found = report(world)
    assert [line["agent"] for line in found["undone"]] == ["draft", "reserve"]
    assert [line["agent"] for line in found["not_undone"]] == ["mail"]
    assert len(world.agent.ledger().posts("/reserve-undo")) == 1


def test_a_compensation_is_retried_and_polled_like_any_call(world: World) -> None:
    add_undoable(world, "reserve", problem(503), job(poll("running"), poll("succeeded", {"gone": True})))
    world.add_agent("sign", problem(422))
    submit(world, "reserve", "sign")
    world.answers = [call("reserve"), call("sign")]
    run_until_ended(world)
    assert [line["reply"] for line in report(world)["undone"]] == [{"gone": True}]
    posts = world.agent.ledger().posts("/reserve-undo")
    assert len(posts) == 2 and posts[0].key == posts[1].key


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_compensation_whose_reply_is_lost_is_never_doubled(world: World, idempotent: bool) -> None:
    add_undoable(world, "reserve", lost_reply({"gone": True}), idempotent=idempotent)
    world.add_agent("sign", problem(422))
    submit(world, "reserve", "sign")
    world.answers = [call("reserve"), call("sign")]
    run_until_ended(world)
    assert world.agent.ledger().doubled == []
    found = report(world)
    if idempotent:
        assert [line["agent"] for line in found["undone"]] == ["reserve"]
    else:
        assert [(line["agent"], line["reason_code"]) for line in found["not_undone"]] == [("reserve", "reply_lost")]
        # A person's second try may not double it either.
        world.store.undo("t-1", **WHO)
        run_until_ended(world)
        assert len(world.agent.ledger().posts("/reserve-undo")) == 1


@pytest.mark.parametrize("acted", [True, False])
def test_an_unknown_call_is_looked_up_before_anything_is_undone(world: World, acted: bool) -> None:
    add_undoable(world, "reserve")
    answers = (lost_reply({"pay": "P-1"}),) if acted else (hang(effect=False),)
    add_undoable(world, "pay", answers=answers, idempotent=False, timeout=AgentTimeout(1, 0.3, 0.6))
    pay = world.specs["pay"]
    world.specs["pay"] = replace(pay, idempotent=False, lookup=f"{pay.url}/replies/{{key}}")
    submit(world, "reserve", "pay")
    world.answers = [call("reserve"), call("pay")]
    world.run(1)
    world.run(2)
    assert world.store.cancel("t-1", undo=True, **WHO).state is TaskState.COMPENSATING
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert undone_order(world) == (["/pay-undo", "/reserve-undo"] if acted else ["/reserve-undo"])
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_an_unknown_call_of_an_agent_that_honours_keys_is_settled_by_its_key(world: World) -> None:
    add_undoable(world, "pay", answers=(lost_reply({"pay": "P-1"}),), retry=RetryPolicy(3, 30, 60))
    submit(world, "pay")
    world.answers = [call("pay")]
    world.run()
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    ledger = world.agent.ledger()
    assert undone_order(world) == ["/pay-undo"] and ledger.doubled == []
    assert len({seen.key for seen in ledger.posts("/pay")}) == 1


def test_an_unknown_call_that_only_a_person_can_settle_is_listed(world: World) -> None:
    add_undoable(world, "reserve")
    add_undoable(world, "pay", answers=(lost_reply({"pay": "P-1"}),))
    world.specs["pay"] = replace(world.specs["pay"], idempotent=False)
    submit(world, "reserve", "pay")
    world.answers = [call("reserve"), call("pay")]
    world.run(1)
    world.run(2)
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    found = report(world)
    assert [(line["agent"], line["reason_code"]) for line in found["not_undone"]] == [("pay", "outcome_unknown")]
    assert undone_order(world) == ["/reserve-undo"]

    # A person looks there and says that it did act: now it can be undone.
    (unknown,) = world.store.unknown_delegations("t-1")
    word = Resolution(Outcome.SUCCEEDED, {"pay": "P-1"})
    assert world.store.resolve(unknown, word, **WHO) is None
    world.store.undo("t-1", **WHO)
    run_until_ended(world)
    assert undone_order(world) == ["/reserve-undo", "/pay-undo"]
    assert report(world)["not_undone"] == []


def test_an_agent_that_failed_after_it_may_have_acted_is_not_taken_for_one_that_did_nothing(world: World) -> None:
    """The first reply was lost, then the agent was away until the tries were used up."""
    add_undoable(world, "pay", answers=(lost_reply({"pay": "P-1"}), problem(503), problem(503), problem(503)))
    world.agent.script("/pay", lost_reply({"pay": "P-1"}), problem(503), idempotent=False)
    submit(world, "pay")
    world.answers = [call("pay")]
    run_until_ended(world)
    assert [line["agent"] for line in report(world)["not_undone"]] == ["pay"]


def test_cancel_with_undo_while_a_call_is_in_flight_waits_for_it(world: World) -> None:
    add_undoable(world, "pay", answers=(reply({"pay": "P-1"}),))
    submit(world, "pay", "more")
    send = world.client.call

    def canceled_meanwhile(agent: Any, request: Any) -> Any:
        world.client.call = send  # type: ignore[method-assign]  # the first call only
        assert world.store.cancel("t-1", undo=True, **WHO).state is TaskState.PROCESSING
        return send(agent, request)

    world.client.call = canceled_meanwhile  # type: ignore[method-assign]  # see above
    world.answers = [call("pay")]
    assert world.run().outcome == "undoing"
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert undone_order(world) == ["/pay-undo"]


def test_cancel_with_undo_wins_over_a_completion(world: World) -> None:
    add_undoable(world, "pay", answers=(reply({"pay": "P-1"}),))
    submit(world, "pay")
    send = world.client.call

    def canceled_meanwhile(agent: Any, request: Any) -> Any:
        world.client.call = send  # type: ignore[method-assign]  # the first call only
        world.store.cancel("t-1", undo=True, **WHO)
        return send(agent, request)

    world.client.call = canceled_meanwhile  # type: ignore[method-assign]  # see above
    world.answers = [call("pay")]
    world.run()
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.CANCELED


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


def dying(work: Callable[..., Any], after: bool, count: list[int], at: int) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        count[0] += 1
        if count[0] == at and not after:
            raise Killed
        result = work(*arguments, **keywords)
        if count[0] == at and after:
            raise Killed
        return result

    return wrapped


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_or_call_nothing_is_doubled_and_nothing_lost(world: World, after: bool) -> None:
    """The worker dies once at its n-th write or call; for each n the task ends with everything undone once."""
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=150))
    add_undoable(world, "reserve")
    add_undoable(world, "draft", problem(503), reply({"gone": True}))
    world.add_agent("sign", problem(422))
    survived = False
    for at in range(1, 100):
        if survived:
            break
        task_id = f"t-{at}"
        survived = undo_with_a_death(world, task_id, at, after)
        items = world.store.undo_items(task_id)
        assert [item.delegation.state for item in items] == [DelegationState.COMPENSATED] * 2, (at, items)
        assert world.store.task(task_id).state is TaskState.FAILED
    assert survived
    assert world.agent.ledger().doubled == []


def undo_with_a_death(world: World, task_id: str, at: int, after: bool) -> bool:
    """Undo one task with a worker that dies at its ``at``-th write or call; whether it never came to that."""
    from orchestrator.domain.message import TaskMessage

    world.take(TaskMessage(task_id, "Do it", ("reserve", "draft", "sign"), on_failure="undo"))
    world.answers = [call("reserve", t=task_id), call("draft", t=task_id), call("sign", t=task_id)]
    for step in (1, 2, 3):
        world.run(step, task_id)
    assert world.store.task(task_id).state is TaskState.COMPENSATING
    count = [0]
    write, send = world.store.write_undo, world.client.call
    world.store.write_undo = dying(write, after, count, at)  # type: ignore[method-assign]  # dies once
    world.client.call = dying(send, after, count, at)  # type: ignore[method-assign]  # dies once

    def ended() -> bool:
        with suppress(Killed):
            world.run(3, task_id)
        return world.store.task(task_id).state.is_terminal

    try:
        wait_for(ended, what=f"{task_id} ended", every=0.02)
    finally:
        world.store.write_undo, world.client.call = write, send  # type: ignore[method-assign]  # whole again
    return count[0] < at
