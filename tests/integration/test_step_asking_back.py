"""Agents that ask a person in the middle of their work, and are told the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from orchestrator.domain.agent import AgentTimeout, AskingRules
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.question import MAX_TEXT
from orchestrator.domain.task import PartialFailure, WaitsFor
from orchestrator.errors import AnswerRefused
from orchestrator.fault_points import FaultPoint
from tests.support.agents import Answer, Seen, job, poll, problem, reply
from tests.support.stack import wait_for
from tests.support.step_world import World, call

TAKEN: Answer = {"status": 202, "body": {}}


def asks(question: str = "Which account?", **parts: Any) -> Answer:
    body = {"status": "input_required", "question": question, "answer_url": "/answers", **parts}
    return {"status": 200, "body": body}


def posts_of(world: World, path: str) -> list[Seen]:
    """What was posted there, whatever its query."""
    found = world.agent.ledger().requests
    return [one for one in found if one.method == "POST" and one.path.partition("?")[0] == path]


def marks(world: World) -> list[datetime | None]:
    """Since when each answer may have left."""
    return [one.sent_at for entry in world.store.history("t-1") for one in entry.questions]


def answer(world: World, value: Any, ref: str | None = None) -> None:
    world.store.answer("t-1", ref, value, who="ann", why="")


def test_the_answer_goes_to_the_agent_and_its_work_goes_on(world: World) -> None:
    schema = {"type": "object", "properties": {"iban": {"type": "string", "minLength": 10}}, "required": ["iban"]}
    asked_for = asks(schema=schema, who="treasury")
    world.add_agent("pay", job(asked_for, poll("succeeded", {"pay": "P-1"}), retry_after=0))
    world.agent.script("/answers", TAKEN)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    (asked,) = world.store.questions(who="treasury")
    assert (asked.question.ref, asked.question.kind, asked.question.text) == ("1.0.1", "agent", "Which account?")
    assert asked.agent == "pay"
    with pytest.raises(AnswerRefused, match="too short"):
        answer(world, {"iban": "DE"})
    assert world.agent.ledger().posts("/answers") == []
    answer(world, {"iban": "DE02120300000000202051"})
    world.run_until_it_moves_on()
    assert world.data() == {"pay": "P-1"}
    (told,) = world.agent.ledger().posts("/answers")
    assert told.body["answer"] == {"iban": "DE02120300000000202051"}
    assert told.body["question"] == 1
    (sent,) = world.agent.ledger().posts("/pay")
    assert told.key == f"{sent.key}:answer:1"


def test_a_person_may_take_longer_than_the_agents_own_time(world: World) -> None:
    world.add_agent("pay", job(asks(), poll("succeeded", {"pay": 1}), retry_after=0), timeout=AgentTimeout(1, 1, 2))
    world.agent.script("/answers", TAKEN)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    world.sql("UPDATE delegations SET deadline_at = now() - interval '1 hour'")
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}


def test_an_answer_that_the_agent_does_not_take_is_asked_for_again(world: World) -> None:
    world.add_agent("pay", job(asks(), poll("succeeded", {"pay": 1}), retry_after=0))
    world.agent.script("/answers", problem(422, "No such account"), TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    assert world.run().outcome == "waiting"
    (again,) = world.store.questions()
    assert again.question.ref == "1.0.2"
    assert "did not take 'the first'" in again.question.text and "No such account" in again.question.text
    answer(world, "the second")
    world.run()
    assert [one.body["question"] for one in world.agent.ledger().posts("/answers")] == [1, 2]


def test_an_answer_whose_way_was_cut_is_sent_again_under_its_key(world: World) -> None:
    world.add_agent("pay", job(asks(), poll("succeeded", {"pay": 1}), retry_after=0), idempotent=True)
    world.agent.script("/answers", {**TAKEN, "drop": "after"}, TAKEN)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    keys = [one.key for one in world.agent.ledger().posts("/answers")]
    assert len(keys) == 2 and len(set(keys)) == 1
    assert world.agent.ledger().effects[keys[0]] == 1


def test_an_answer_whose_way_was_cut_is_not_sent_again_where_the_job_has_it(world: World) -> None:
    """The agent does not honour keys: it is asked before it is told again, and does not ask any more."""
    world.add_agent("pay", job(asks(), poll("running"), poll("succeeded", {"pay": 1}), retry_after=0))
    world.agent.script("/answers", {**TAKEN, "drop": "after"}, TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert len(world.agent.ledger().posts("/answers")) == 1


def test_the_next_question_of_an_agent_is_not_given_the_answer_to_the_last(world: World) -> None:
    polls = (asks(), asks("Which day?"), poll("succeeded", {"pay": 1}))
    world.add_agent("pay", job(*polls, retry_after=0))
    world.agent.script("/answers", {**TAKEN, "drop": "after"}, TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the account")
    world.run_until_it_moves_on()
    (next_one,) = world.store.questions()
    assert (next_one.question.ref, next_one.question.text) == ("1.0.2", "Which day?")
    answer(world, "Monday")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    told = [(one.body["question"], one.body["answer"]) for one in world.agent.ledger().posts("/answers")]
    assert told == [(1, "the account"), (2, "Monday")]


def test_a_question_that_is_worded_otherwise_with_each_poll_is_answered_once(world: World) -> None:
    """The agent does not honour keys, and its question carries the time, or a signed address."""
    polls = [asks(f"Which account? (asked at {n}:00)", answer_url=f"/answers?signed={n}") for n in range(9)]
    world.add_agent("pay", job(polls[0], poll("succeeded", {"pay": 1}), *polls[1:], retry_after=0))
    world.agent.script("/answers", TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert [one.body["answer"] for one in posts_of(world, "/answers")] == ["the first"]
    assert len(world.store.history("t-1")[0].questions) == 1


@pytest.mark.parametrize("trouble", [problem(503), problem(429)], ids=["503", "429"])
def test_an_answer_that_certainly_did_not_arrive_is_sent_again_however_the_question_is_worded(
    world: World, trouble: Answer
) -> None:
    polls = [asks(f"Which account? (asked at {n}:00)") for n in range(9)]
    world.add_agent("pay", job(polls[0], poll("succeeded", {"pay": 1}), *polls[1:], retry_after=0))
    world.agent.script("/answers", trouble, TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert len(world.agent.ledger().posts("/answers")) == 2


def test_an_answer_to_an_agent_that_is_away_is_sent_once_it_is_back(world: World) -> None:
    polls = [asks(f"Which account? (asked at {n}:00)") for n in range(9)]
    world.add_agent("pay", job(polls[0], poll("succeeded", {"pay": 1}), *polls[1:], retry_after=0))
    world.agent.script("/answers", TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.agent.stop()
    assert world.run().outcome == "waiting"
    assert marks(world) == [None]
    world.agent.start()
    world.run_until_it_moves_on()
    assert len(world.agent.ledger().posts("/answers")) == 1


def test_the_mark_is_there_before_the_answer_leaves(world: World) -> None:
    world.add_agent("pay", job(asks(), poll("succeeded", {"pay": 1}), retry_after=0))
    world.agent.script("/answers", TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    send, found = world.client.answer, []

    def look_and_send(agent: Any, request: Any, number: int, answer: Any) -> Any:
        found.extend(marks(world))
        return send(agent, request, number, answer)

    world.client.answer = look_and_send  # type: ignore[method-assign]  # seen from within
    world.run_until_it_moves_on()
    assert len(found) == 1 and found[0] is not None


def test_no_answer_leaves_once_a_cancel_has_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_agent("pay", job(asks(), retry_after=0))
    world.agent.script("/answers", TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")

    def cancel(point: FaultPoint, task_id: str) -> None:
        if point is FaultPoint.ANSWER_IN_HAND:
            world.store.cancel(task_id, who="ann", why="")

    monkeypatch.setattr("orchestrator.flow.asking_back.reach", cancel)
    assert world.run().outcome == "canceled"
    assert world.agent.ledger().posts("/answers") == []
    assert marks(world) == [None]


def test_a_cancel_leaves_what_became_of_a_call_as_it_was_recorded(world: World) -> None:
    world.add_agent("pay", job(asks(), retry_after=0), questions=AskingRules(timeout=60))
    world.add_agent("book", job(asks("Which room?"), retry_after=0))
    world.submit("pay", "book")
    world.answers = [call("pay", "book")]
    world.run_until_it_moves_on()
    world.sql("UPDATE questions SET timeout_at = now() WHERE index = 0; UPDATE tasks SET due_at = now()")
    world.run()
    failed = world.store.history("t-1")[0].delegations[0]
    assert (failed.state, failed.error_code) == (DelegationState.FAILED, "no_answer")
    world.store.cancel("t-1", who="ann", why="")
    world.tell_all()
    failed = world.store.history("t-1")[0].delegations[0]
    assert (failed.state, failed.error_code) == (DelegationState.FAILED, "no_answer")


def test_where_it_may_have_been_told_and_asks_in_other_words_the_person_is_asked(world: World) -> None:
    """Nobody can know whether it is the same question or the next one, and nobody is told twice."""
    polls = (asks("Which account? (9:00)"), asks("Which account? (9:01)"), poll("succeeded", {"pay": 1}))
    world.add_agent("pay", job(*polls, retry_after=0))
    world.agent.script("/answers", {**TAKEN, "drop": "after"}, TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    world.run_until_it_moves_on()
    (again,) = world.store.questions()
    assert (again.question.ref, again.question.text) == ("1.0.2", "Which account? (9:01)")
    assert len(world.agent.ledger().posts("/answers")) == 1
    answer(world, "the second")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert [one.body["question"] for one in world.agent.ledger().posts("/answers")] == [1, 2]


def test_where_it_may_have_been_told_a_long_question_that_was_refused_before_is_known_again(world: World) -> None:
    """The reason that is put behind it leaves no room for its end."""
    long = asks("Which account?".ljust(MAX_TEXT - 5, "!"))
    world.add_agent("pay", job(long, long, poll("succeeded", {"pay": 1}), retry_after=0))
    world.agent.script("/answers", problem(422), {**TAKEN, "drop": "before"}, TAKEN, idempotent=False)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    answer(world, "the first")
    assert world.run().outcome == "waiting"
    answer(world, "the second")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert [one.body["question"] for one in world.agent.ledger().posts("/answers")] == [1, 2, 2]


def test_an_agent_may_ask_at_once_and_give_its_result_for_the_answer(world: World) -> None:
    world.add_agent("pay", asks(choices=["yes", "no"]))
    world.agent.script("/answers", reply({"pay": "P-9"}))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    answer(world, "yes")
    assert world.run().outcome == "completed"


def test_of_several_calls_the_one_that_asks_back_waits_for_its_answer(world: World) -> None:
    world.add_agent("pay", job(asks(), retry_after=0))
    world.add_agent("look", reply({"look": 1}))
    world.agent.script("/answers", reply({"pay": "P-9"}))
    world.submit("pay", "look")
    world.answers = [call("pay", "look")]
    world.run_until_it_moves_on()
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    (asked,) = wait_for(lambda: world.store.questions(), what="the question")
    assert asked.question.ref == "1.0.1"
    answer(world, "the first")
    assert world.run().outcome == "completed"
    assert world.data() == {"pay": "P-9", "look": 1}


@pytest.mark.parametrize(
    "parts", [{"schema": {"$ref": "http://a.example"}}, {"answer_url": "http://elsewhere.example/x"}, {"choices": "no"}]
)
def test_what_cannot_be_asked_fails_the_call(world: World, parts: dict[str, Any]) -> None:
    world.add_agent("pay", asks(**parts))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run().detail.startswith("reply_invalid: ")


def test_without_a_question_it_has_ended(world: World) -> None:
    world.add_agent("pay", job(poll("input_required", detail="an account"), retry_after=0))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run_until_it_moves_on().detail.startswith("agent_input_required: ")
    (entry,) = world.store.history("t-1")
    assert entry.delegations[0].state is DelegationState.FAILED


def test_a_question_that_nobody_answers_is_escalated_and_fails_the_call_in_the_end(world: World) -> None:
    rules = AskingRules(who="treasury", timeout=60, escalate_to="head", escalate_after=30)
    world.add_agent("pay", job(asks(), retry_after=0), questions=rules)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    (asked,) = world.store.questions(who="treasury")
    assert asked.question.timeout_at is not None
    assert world.sql_due() == asked.question.escalate_at

    world.sql("UPDATE questions SET escalate_at = now(); UPDATE tasks SET due_at = now()")
    assert world.run().outcome == "waiting"
    assert [one.question.ref for one in world.store.questions(who="head")] == ["1.0.1"]
    assert "escalated to head" in world.store.updates("t-1")[-1].body["reason"]

    world.sql("UPDATE questions SET timeout_at = now(); UPDATE tasks SET due_at = now()")
    assert world.run().outcome == "failed"
    assert world.store.task("t-1").reason_code == "no_answer"
    assert world.store.questions() == []
    with pytest.raises(AnswerRefused):
        answer(world, "too late")


def test_a_question_without_an_answer_is_judged_like_any_failure_of_a_parallel_step(world: World) -> None:
    world.add_agent("pay", job(asks(), retry_after=0), questions=AskingRules(timeout=60))
    world.add_agent("mail", reply({"mail": "M-1"}))
    world.take(TaskMessage("t-1", "Do it", ("mail",), {}, partial_failure=PartialFailure.COLLECT))
    world.answers = [call("pay", "mail")]
    world.run_until_it_moves_on()
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    world.sql("UPDATE questions SET timeout_at = now(); UPDATE tasks SET due_at = now()")
    assert world.run().outcome == "completed"
    assert world.data() == {"mail": "M-1"}
