"""Undo while an agent asks a person back: nobody is asked any more, its job is ended or waited out, the task ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.agent import AgentTimeout, AskingRules, CancelRules
from orchestrator.domain.message import EventMessage
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import AnswerRefused
from orchestrator.flow.delegate import LOOK_UP_FOR
from orchestrator.flow.ports import Intake
from tests.integration.test_step_asking_back import TAKEN, answer, asks
from tests.integration.test_undo import WHO, add_undoable, report, run_until_ended, submit, undone_order
from tests.support.agents import Answer, job, poll, problem
from tests.support.step_world import World, call

SHORT = AgentTimeout(1, 0.5, 1.0)
DELETED: Answer = {"status": 204, "body": None, "effect": False}


def begin(world: World, *polls: Answer, **parts: Any) -> None:
    """A task whose first call is done, and whose second asks a person."""
    add_undoable(world, "reserve")
    keyed = parts.pop("idempotent", False)
    add_undoable(world, "pay", idempotent=keyed, answers=(job(*(polls or (asks(),)), retry_after=0),), timeout=SHORT)
    world.specs["pay"] = replace(world.specs["pay"], idempotent=keyed, **parts)
    submit(world, "reserve", "pay")
    world.answers = [call("reserve"), call("pay")]
    world.run(1)
    world.run_until_it_moves_on(2)
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON


def not_undone(world: World) -> list[tuple[str, str]]:
    return [(line["agent"], line["reason_code"]) for line in report(world)["not_undone"]]


def states(world: World) -> list[str]:
    return [question.state.value for entry in world.store.history("t-1") for question in entry.questions]


def test_nobody_is_asked_any_more_by_a_task_that_is_being_undone(world: World) -> None:
    begin(world)
    world.store.cancel("t-1", undo=True, **WHO)
    assert world.store.questions() == []
    assert states(world) == ["withdrawn"]
    with pytest.raises(AnswerRefused, match="is being undone and asks nobody") as refused:
        answer(world, "the first")
    assert "task watch t-1" in (refused.value.hint or "")
    assert world.store.audit_of("t-1")[-1].what == "cancel"
    taken = world.take(EventMessage("t-1", {"question": "2.0.1", "answer": "the first"}, "task.answer"))
    assert taken.outcome is Intake.ANSWER_REFUSED and "is being undone" in (taken.reason or "")
    run_until_ended(world)
    with pytest.raises(AnswerRefused, match="is canceled and asks nobody"):
        answer(world, "the first")
    assert world.agent.ledger().posts("/answers") == []


@pytest.mark.parametrize("idempotent", [True, False], ids=["keys", "no keys"])
def test_a_job_that_goes_on_asking_holds_no_undo_up(world: World, idempotent: bool) -> None:
    begin(world, idempotent=idempotent)
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert not_undone(world) == [("pay", "outcome_unknown")]
    assert "it asks: Which account?" in report(world)["not_undone"][0]["reason"]
    assert undone_order(world) == ["/reserve-undo"]
    # Under its key it is sent again, but only as often as its retries say.
    ledger = world.agent.ledger()
    assert ledger.doubled == []
    assert len(ledger.posts("/pay")) == (world.specs["pay"].retry.max_attempts if idempotent else 1)


def test_a_keyed_job_that_runs_on_holds_no_undo_up(world: World) -> None:
    begin(world, asks(), poll("running"), idempotent=True)
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    assert not_undone(world) == [("pay", "outcome_unknown")]
    assert len(world.agent.ledger().posts("/pay")) == world.specs["pay"].retry.max_attempts


def test_a_task_that_asks_when_its_time_is_over_asks_nobody_while_it_is_undone(world: World) -> None:
    begin(world)
    world.sql("UPDATE tasks SET deadline = now(), due_at = now()")
    world.run(2)
    assert world.store.task("t-1").state is TaskState.COMPENSATING
    assert (states(world), world.store.questions()) == (["withdrawn"], [])
    run_until_ended(world)
    assert world.store.task("t-1").reason_code == "deadline_passed"
    assert undone_order(world) == ["/reserve-undo"]


def test_a_job_that_gives_up_by_itself_needs_nobody(world: World) -> None:
    begin(world, asks(), asks(), poll("failed", detail="nobody told me"), timeout=AgentTimeout(1, 2, 60))
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    assert not_undone(world) == []
    assert undone_order(world) == ["/reserve-undo"]


@pytest.mark.parametrize("idempotent", [True, False], ids=["keys", "no keys"])
def test_an_agent_that_can_cancel_ends_its_job_though_it_asks(world: World, idempotent: bool) -> None:
    begin(world, idempotent=idempotent, cancel=CancelRules())
    path = (world.store.history("t-1")[1].delegations[0].remote_url or "").removeprefix(world.agent.base_url)
    world.agent.script(path, DELETED, method="DELETE", idempotent=False)
    world.store.cancel("t-1", undo=True, **WHO)
    assert [one.outcome for one in world.tell_all()] == ["canceled"]
    run_until_ended(world)
    assert not_undone(world) == []
    assert undone_order(world) == ["/reserve-undo"]
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_look_up_that_says_that_it_asks_is_given_up_after_its_hour(world: World) -> None:
    begin(world)
    pay = world.specs["pay"]
    asking = asks()
    world.agent.script("/pay/state", asking, method="GET", idempotent=False)
    world.specs["pay"] = replace(pay, lookup=f"{pay.url}/state?key={{key}}")
    world.store.cancel("t-1", undo=True, **WHO)
    over = timedelta(seconds=LOOK_UP_FOR + 60)
    world.sql(f"UPDATE delegations SET deadline_at = now() - interval '{over.total_seconds()} s' WHERE step_number = 2")
    run_until_ended(world)
    assert not_undone(world) == [("pay", "outcome_unknown")]
    assert undone_order(world) == ["/reserve-undo"]


@pytest.mark.parametrize("idempotent", [True, False], ids=["keys", "no keys"])
def test_a_question_that_nobody_answers_fails_the_task_and_its_undo_ends(world: World, idempotent: bool) -> None:
    begin(world, idempotent=idempotent, questions=AskingRules(timeout=60))
    world.sql("UPDATE questions SET timeout_at = now(); UPDATE tasks SET due_at = now()")
    world.run(2)
    assert world.store.task("t-1").state is TaskState.COMPENSATING
    run_until_ended(world)
    task = world.store.task("t-1")
    assert (task.state, task.reason_code) == (TaskState.FAILED, "no_answer")
    assert not_undone(world) == [("pay", "outcome_unknown")]


def test_the_job_of_a_question_that_nobody_answered_is_canceled_by_the_undo(world: World) -> None:
    begin(world, cancel=CancelRules(), questions=AskingRules(timeout=60))
    path = (world.store.history("t-1")[1].delegations[0].remote_url or "").removeprefix(world.agent.base_url)
    world.agent.script(path, DELETED, method="DELETE", idempotent=False)
    world.sql("UPDATE questions SET timeout_at = now(); UPDATE tasks SET due_at = now()")
    world.run(2)
    assert [one.outcome for one in world.tell_all()] == ["canceled"]
    run_until_ended(world)
    assert world.store.task("t-1").reason_code == "no_answer"
    assert not_undone(world) == []


def test_an_answer_that_is_on_its_way_when_the_undo_is_asked_for_is_compensated(world: World) -> None:
    begin(world, asks(), poll("succeeded", {"pay": "P-1"}))
    world.agent.script("/answers", TAKEN, idempotent=False)
    answer(world, "the first")
    send = world.client.answer

    def canceled_meanwhile(agent: Any, request: Any, number: int, answer: Any) -> Any:
        world.store.cancel("t-1", undo=True, **WHO)
        return send(agent, request, number, answer)

    world.client.answer = canceled_meanwhile  # type: ignore[method-assign]  # from within
    world.run(2)
    run_until_ended(world)
    assert world.store.task("t-1").state is TaskState.CANCELED
    assert undone_order(world) == ["/pay-undo", "/reserve-undo"]
    assert len(world.agent.ledger().posts("/answers")) == 1


def test_an_answer_given_and_not_yet_sent_is_not_sent_by_an_undo(world: World) -> None:
    begin(world)
    world.agent.script("/answers", TAKEN, idempotent=False)
    answer(world, "the first")
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    assert world.agent.ledger().posts("/answers") == []
    assert undone_order(world) == ["/reserve-undo"]


def test_of_several_calls_those_that_ask_are_not_waited_for_by_an_undo(world: World) -> None:
    add_undoable(world, "reserve")
    for name in ("pay", "book"):
        world.add_agent(name, job(asks(f"{name}?"), retry_after=0), timeout=SHORT)
    submit(world, "reserve", "pay", "book")
    world.answers = [call("reserve", "pay", "book")]
    world.run_until_it_moves_on()
    assert [one.question.text for one in world.store.questions()] == ["pay?", "book?"]
    world.store.cancel("t-1", undo=True, **WHO)
    run_until_ended(world)
    assert not_undone(world) == [("book", "outcome_unknown"), ("pay", "outcome_unknown")]
    assert undone_order(world) == ["/reserve-undo"]
    assert states(world) == ["withdrawn", "withdrawn"]


def test_a_compensation_that_asks_back_is_left_to_a_person(world: World) -> None:
    add_undoable(world, "pay", job(asks(), retry_after=0), idempotent=False, timeout=SHORT)
    world.add_agent("sign", problem(422))
    submit(world, "pay", "sign")
    world.answers = [call("pay"), call("sign")]
    run_until_ended(world)
    assert not_undone(world) == [("pay", "agent_input_required")]
    assert world.store.questions() == []


@pytest.mark.parametrize("idempotent", [True, False], ids=["keys", "no keys"])
def test_a_retry_after_nobody_answered_asks_the_job_again_and_begins_no_second(world: World, idempotent: bool) -> None:
    rules = AskingRules(timeout=60)
    polls = (asks(), asks(), poll("succeeded", {"pay": 1}))
    world.add_agent("pay", job(*polls, retry_after=0), questions=rules, idempotent=idempotent)
    world.agent.script("/answers", TAKEN, idempotent=idempotent)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run_until_it_moves_on()
    world.sql("UPDATE questions SET timeout_at = now(); UPDATE tasks SET due_at = now()")
    assert world.run().outcome == "failed"
    world.store.retry("t-1", **WHO)
    world.run_until_it_moves_on()
    (again,) = world.store.questions()
    assert again.question.ref == "1.0.2"
    answer(world, "the first")
    world.run_until_it_moves_on()
    assert world.data() == {"pay": 1}
    assert len(world.agent.ledger().posts("/pay")) == 1
