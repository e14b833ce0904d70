"""Calls under way that are not wanted any more: what agents are told, and what becomes of the calls by that."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.domain.agent import AgentTimeout, CancelRules, Compensate
from orchestrator.domain.cancellation import CancelState, CancelVerdict
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import TaskState
from tests.support.agents import Answer, job, poll, problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import World, call

WHO: dict[str, Any] = {"who": "ann", "why": "not needed"}
BY_LOCATION = CancelRules()
DELETED: Answer = {"status": 204, "body": None, "effect": False}


def delegation(world: World, step: int = 1, index: int = 0) -> Delegation:
    (found,) = [
        one for entry in world.store.history("t-1") for one in entry.delegations if one.ref == f"{step}.{index}"
    ]
    return found


def last_update(world: World) -> dict[str, Any]:
    return dict(world.store.updates("t-1")[-1].body)


def told(world: World) -> list[tuple[str, str, str]]:
    """Method, path and key of what agents were told, in order."""
    return [
        (seen.method, seen.path, seen.key)
        for seen in world.agent.ledger().requests
        if seen.method == "DELETE" or seen.path.endswith("/cancel")
    ]


def begin_job(world: World, *deleted: Answer, polls: tuple[Answer, ...] = (poll("running"),), **parts: Any) -> str:
    """A task that waits for a job of an agent; gives the job's path."""
    parts = {"cancel": BY_LOCATION, "timeout": AgentTimeout(1, 2, 60), **parts}
    world.add_agent("score", job(*polls, retry_after=60), **parts)
    world.answers = [call("score")]
    world.submit("score")
    assert world.run().outcome == "waiting"
    path = (delegation(world).remote_url or "").removeprefix(world.agent.base_url)
    if deleted:
        world.agent.script(path, *deleted, method="DELETE", idempotent=False)
    return path


def test_the_job_of_a_canceled_task_is_deleted_and_its_end_is_told(world: World) -> None:
    path = begin_job(world, DELETED)
    assert world.store.cancel("t-1", **WHO).state is TaskState.CANCELED
    (noted,) = world.store.cancellations("t-1")
    assert (noted.state, noted.reason, noted.attempts) == (CancelState.TELLING, "canceled", 0)
    assert last_update(world)["cancellations"][0]["state"] == "telling"

    (result,) = world.tell_all()
    assert result.outcome == "canceled"
    call_key = delegation(world).key
    assert told(world) == [("DELETE", path, f"{call_key}:cancel")]
    assert (delegation(world).state, delegation(world).error_code) == (DelegationState.FAILED, "agent_canceled")
    update = last_update(world)
    assert update["state"] == "canceled"
    assert update["cancellations"] == [
        {"delegation": "1.0", "agent": "score", "key": call_key, "because": "canceled", "state": "canceled",
         "detail": "canceled", "attempts": 1}
    ]  # fmt: skip
    assert world.tell_all() == []


def test_an_agent_that_declares_nothing_is_told_nothing(world: World) -> None:
    begin_job(world, DELETED, cancel=None)
    world.store.cancel("t-1", **WHO)
    (result,) = world.tell_all()
    assert result.outcome == "not_offered"
    assert "does not declare" in result.detail
    assert told(world) == []
    assert delegation(world).state is DelegationState.IN_FLIGHT


def test_a_job_that_was_done_before_keeps_its_reply(world: World) -> None:
    done: Answer = {"status": 200, "body": {"status": "succeeded", "output": {"score": 7}}, "effect": False}
    begin_job(world, done)
    world.store.cancel("t-1", **WHO)
    assert [one.outcome for one in world.tell_all()] == ["done"]
    assert (delegation(world).state, delegation(world).reply) == (DelegationState.SUCCEEDED, {"score": 7})
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert "score" not in world.store.context("t-1").collected_data


@pytest.mark.parametrize(
    ("deleted", "polls", "outcome", "state"),
    [
        ([{"status": 202, "body": None}], [poll("canceled")], "canceled", DelegationState.FAILED),
        ([problem(409)], [poll("succeeded", {"score": 7})], "done", DelegationState.SUCCEEDED),
        ([problem(409)], [poll("failed", detail="no data")], "done", DelegationState.FAILED),
        ([problem(503), problem(500), DELETED], [], "canceled", DelegationState.FAILED),
        ([{"status": 200, "body": {}}], [poll("canceled")], "canceled", DelegationState.FAILED),
        ([problem(404)], [], "unknown", DelegationState.UNKNOWN),
    ],
)
def test_what_an_agent_answers_decides_what_became_of_the_call(
    world: World, deleted: list[Answer], polls: list[Answer], outcome: str, state: DelegationState
) -> None:
    begin_job(world, *deleted, polls=(poll("running", retry_after=1), *polls)[1:] or (poll("running"),))
    world.store.cancel("t-1", **WHO)
    assert world.tell_until_closed()[-1].outcome == outcome
    found = delegation(world)
    assert found.state is state
    assert found.parked is (state is DelegationState.UNKNOWN)
    assert len(told(world)) == len(deleted)


def test_what_nobody_can_tell_is_left_to_a_person(world: World) -> None:
    begin_job(world, problem(404))
    world.store.cancel("t-1", **WHO)
    world.tell_all()
    (unknown,) = world.store.unknown_delegations("t-1")
    assert unknown.error_code == "cancel_unknown"


def test_a_look_up_tells_what_a_lost_job_came_to(world: World) -> None:
    begin_job(world, problem(404), lookup=world.agent.url("/score/replies/{key}"))
    world.agent.script("/score", reply({"score": 8}), idempotent=True)
    world.store.cancel("t-1", **WHO)
    # The scripted agent's look-up gives what it remembers of the key: the 202, and the job that it runs.
    results = [world.tell(place) for place in world.store.unwanted_calls("t-1")]
    assert [one.outcome for one in results] == ["asking"]
    assert delegation(world).state is DelegationState.UNKNOWN
    assert delegation(world).remote_url is None


def cancelable(world: World, *answers: Answer, **parts: Any) -> None:
    """An agent that is told by its key."""
    world.add_agent(
        "draft",
        *answers,
        **{"cancel": CancelRules(world.agent.url("/calls/{key}/cancel")), "idempotent": True, **parts},
    )
    world.answers = [call("draft")]
    world.submit("draft")


def script_cancel(world: World, *answers: Answer) -> str:
    """Script what is answered at the address for the call's key, once the key is known."""
    path = f"/calls/{quote(delegation(world).key, safe='')}/cancel"
    world.agent.script(path, *answers, idempotent=False)
    return path


def test_a_call_in_flight_is_canceled_by_its_key_while_a_worker_waits_for_it(world: World) -> None:
    cancelable(world, {"status": 200, "body": {"status": "canceled"}, "gate": "told"})
    step = threading.Thread(target=world.run)
    step.start()
    world.agent.wait_for_requests("/draft")
    path = script_cancel(world, {"status": 200, "body": {"status": "canceled"}, "effect": False})
    assert world.store.cancel("t-1", **WHO).state is TaskState.PROCESSING
    assert [one.outcome for one in world.tell_all()] == ["canceled"]
    (seen,) = [one for one in world.agent.ledger().requests if one.path == path]
    assert seen.body == {
        "cancel": delegation(world).key,
        "reason": "canceled",
        "context": {"task_id": "t-1", "step": 1},
    }
    world.agent.open_gate("told")
    step.join(20)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert (delegation(world).state, delegation(world).error_code) == (DelegationState.FAILED, "agent_canceled")
    assert world.tell_all() == []


def test_a_reply_that_is_lost_after_the_cancel_does_not_unsettle_the_call(world: World) -> None:
    cancelable(world, reply({"draft": 1}, gate="told", drop="after"), idempotent=False)
    step = threading.Thread(target=world.run)
    step.start()
    world.agent.wait_for_requests("/draft")
    script_cancel(world, DELETED)
    world.store.cancel("t-1", **WHO)
    world.tell_all()
    world.agent.open_gate("told")
    step.join(20)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert (delegation(world).state, delegation(world).error_code) == (DelegationState.FAILED, "agent_canceled")


def test_an_unknown_key_counts_only_past_the_deadline_of_the_call(world: World) -> None:
    cancelable(world, reply({"draft": 1}, gate="late"), timeout=AgentTimeout(1, 2, 2))
    step = threading.Thread(target=world.run)
    step.start()
    world.agent.wait_for_requests("/draft")
    script_cancel(world, problem(404))
    world.store.cancel("t-1", **WHO)
    assert [one.outcome for one in world.tell_all()] == ["telling"]
    world.agent.open_gate("late")
    step.join(20)
    # The worker brought the reply meanwhile: there is nothing left to cancel.
    assert world.tell_until_closed()[-1].outcome == "done"
    assert delegation(world).state is DelegationState.SUCCEEDED


def test_the_calls_of_a_parallel_step_are_canceled_one_by_one(world: World) -> None:
    parts: dict[str, Any] = {"cancel": BY_LOCATION, "timeout": AgentTimeout(1, 2, 60)}
    world.add_agent("one", job(poll("running"), retry_after=60), **parts)
    world.add_agent("two", job(poll("running"), retry_after=60), **parts)
    world.add_agent("three", reply({"three": 3}))
    world.answers = [call("one", "two", "three")]
    world.submit("one", "two", "three")
    for bell in world.run_step().doorbells:
        world.run_delegation(bell)
    for index in (0, 1):
        path = (delegation(world, 1, index).remote_url or "").removeprefix(world.agent.base_url)
        world.agent.script(path, DELETED, method="DELETE", idempotent=False)
    world.store.cancel("t-1", **WHO)
    assert [one.outcome for one in world.tell_all()] == ["canceled", "canceled"]
    states = [delegation(world, 1, index).state for index in range(3)]
    assert states == [DelegationState.FAILED, DelegationState.FAILED, DelegationState.SUCCEEDED]
    assert world.sweep() == []


def test_a_deadline_that_passes_cancels_the_job_and_a_retry_sends_the_call_anew(world: World) -> None:
    world.add_agent("score", job(poll("running"), retry_after=60), cancel=BY_LOCATION, timeout=AgentTimeout(1, 2, 60))
    world.answers = [call("score")]
    deadline = datetime.now(UTC) + timedelta(seconds=2)
    world.take(TaskMessage("t-1", "Do it", ("score",), {}, deadline=deadline))
    world.run()
    path = (delegation(world).remote_url or "").removeprefix(world.agent.base_url)
    world.agent.script(path, DELETED, method="DELETE", idempotent=False)
    wait_for(lambda: world.run().outcome == "failed", what="the deadline passes")
    (noted,) = world.store.cancellations("t-1")
    assert noted.reason == "deadline_passed"
    assert last_update(world)["cancellations"][0]["state"] == "telling"
    assert [one.outcome for one in world.tell_all()] == ["canceled"]
    assert world.store.task("t-1").state is TaskState.FAILED
    world.agent.script("/score", reply({"score": 9}), idempotent=False)
    world.store.retry("t-1", raise_budget={"seconds": 600}, **WHO)
    assert world.run().outcome == "completed"
    keys = {seen.key for seen in world.agent.ledger().posts("/score")}
    assert len(keys) == 1


def test_a_retry_takes_back_what_an_agent_was_not_told_yet(world: World) -> None:
    world.add_agent("score", job(poll("running"), retry_after=60), cancel=BY_LOCATION, timeout=AgentTimeout(1, 2, 60))
    world.answers = [call("score")]
    world.take(TaskMessage("t-1", "Do it", ("score",), {}, deadline=datetime.now(UTC) + timedelta(seconds=1)))
    world.run()
    wait_for(lambda: world.run().outcome == "failed", what="the deadline passes")
    bells = world.store.unwanted_calls("t-1")
    world.store.retry("t-1", raise_budget={"seconds": 600}, **WHO)
    assert [one.state for one in world.store.cancellations("t-1")] == [CancelState.WITHDRAWN]
    assert [world.tell(bell).outcome for bell in bells] == ["skipped"]
    assert told(world) == []


def test_an_undo_cancels_what_runs_and_compensates_what_was_done_before(world: World) -> None:
    undone = world.agent.script("/undone", reply({"gone": True}))
    compensate = Compensate(undone, {"key": "/key"}, idempotent=True)
    parts: dict[str, Any] = {"timeout": AgentTimeout(1, 2, 60), "cancel": BY_LOCATION, "compensate": compensate}
    world.add_agent("first", reply({"first": 1}), compensate=compensate)
    world.add_agent("runs", job(poll("running"), retry_after=60), **parts)
    world.add_agent("ended", job(poll("running"), retry_after=60), **parts)
    world.answers = [call("first"), call("runs", "ended")]
    world.submit("first", "runs", "ended")
    world.run()
    for bell in world.run_step(2).doorbells:
        world.run_delegation(bell)
    answers = [DELETED, {"status": 200, "body": {"status": "succeeded", "output": {"ended": 2}}, "effect": False}]
    for index, answer in enumerate(answers):
        path = (delegation(world, 2, index).remote_url or "").removeprefix(world.agent.base_url)
        world.agent.script(path, answer, method="DELETE", idempotent=False)
    assert world.store.cancel("t-1", undo=True, **WHO).state is TaskState.COMPENSATING
    # The undo waits for the agents' word, and is woken by it.
    assert world.run_step(2).outcome == "undoing"
    results = world.tell_all()
    assert sorted(one.outcome for one in results) == ["canceled", "done"]
    assert all(bell.step == 2 and bell.index is None for one in results for bell in one.doorbells)
    assert world.run_step(2).outcome == "undone"
    assert world.store.task("t-1").state is TaskState.CANCELED
    compensated = [seen.body["input"]["key"] for seen in world.agent.ledger().posts("/undone")]
    assert compensated == [delegation(world, 2, 1).key, delegation(world, 1, 0).key]
    update = last_update(world)
    assert [one["state"] for one in update["cancellations"]] == ["canceled", "done"]
    assert [one["delegation"] for one in update["undo"]["undone"]] == ["2.1", "1.0"]


def test_an_agent_that_does_not_answer_is_told_again_and_given_up_in_the_end(world: World) -> None:
    begin_job(world, problem(503), retry=RetryPolicy(3, 0.01, 0.02))
    world.store.cancel("t-1", **WHO)
    assert [one.outcome for one in world.tell_all()] == ["telling"]
    (noted,) = world.store.cancellations("t-1")
    assert noted.attempts == 1 and "503" in (noted.error or "")
    world.sql("UPDATE cancellations SET asked_at = now() - interval '2 hours'")
    world.sql("UPDATE delegations SET deadline_at = now() - interval '1 hour'")
    assert world.tell_until_closed()[-1].outcome == "gave_up"
    assert delegation(world).parked
    assert last_update(world)["cancellations"][0]["state"] == "gave_up"


def test_a_try_whose_worker_is_gone_is_followed_by_another_and_fenced(world: World) -> None:
    begin_job(world, DELETED)
    world.store.cancel("t-1", **WHO)
    (place,) = world.store.unwanted_calls("t-1")
    lost = world.store.claim_cancellation(place, timedelta(0))
    assert not isinstance(lost, str)
    assert world.tell_until_closed()[-1].outcome == "canceled"
    assert not world.store.write_cancellation(lost, CancelVerdict(CancelState.GAVE_UP, "too late")).stored
    assert [one.state for one in world.store.cancellations("t-1")] == [CancelState.CANCELED]
