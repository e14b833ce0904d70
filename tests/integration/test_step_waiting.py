"""Waits in the course of a task: which event ends them, what a person's answer does, and what happens in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import AnswerRefused, PlannerUnavailable
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.step import StepResult
from tests.support.stack import wait_for
from tests.support.step_world import USAGE, World


def wait(**details: Any) -> Decision:
    return Decision(DecisionKind.WAIT_FOR_EVENT, "needs it", USAGE, details=details)


def ask(question: str = "Which terms?", **details: Any) -> Decision:
    return Decision(DecisionKind.ASK_HUMAN, "nobody else knows", USAGE, details={"question": question, **details})


FINISH = Decision(DecisionKind.FAIL, "that was all", USAGE, details={"code": "enough"})


def tell(world: World, event_type: str | None = "paid", **data: Any) -> None:
    world.take(EventMessage("t-1", data, event_type))


def run_when_due(world: World, step: int) -> StepResult:
    """Ring until the step is due."""
    result = wait_for(lambda: (r := world.run(step)).outcome != "skipped" and r, what=f"step {step} is due")
    assert isinstance(result, StepResult)
    return result


# -- events


def test_an_event_that_does_not_match_is_merged_and_the_wait_goes_on(world: World) -> None:
    world.submit("receipt")
    world.answers = [wait(event_type="paid", match={"/order": "O-1"}), FINISH]
    world.run()
    tell(world, order="O-2", note="another order")
    assert world.run(2).outcome == "waiting"
    assert world.data() == {"order": "O-2", "note": "another order"}
    tell(world, "shipped", order="O-1")
    assert world.run(2).outcome == "waiting"
    tell(world, order="O-1")
    assert world.run(2).detail == "enough: that was all"
    assert len(world.asked) == 2
    assert world.asked[1].wait_timed_out is False
    ended_by = world.asked[1].history[0].ended_by
    assert ended_by is not None and ended_by.event_data == {"order": "O-1"}


def test_an_event_that_came_before_the_wait_counts_once(world: World) -> None:
    """Merged in the first step, before the planner was even asked."""
    world.submit("receipt")
    tell(world, order="O-1")
    world.answers = [wait(event_type="paid"), wait(event_type="paid"), FINISH]
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "waiting", "the same event does not end a second wait"
    tell(world, order="O-9")
    assert world.run(3).outcome == "failed"
    ended = [entry.ended_by.event_data["order"] for entry in world.store.history("t-1") if entry.ended_by]
    assert ended == ["O-1", "O-9"]


def test_of_those_that_came_before_the_one_that_matches_counts(world: World) -> None:
    world.submit("receipt")
    tell(world, order="O-1")
    tell(world, order="O-2")
    world.answers = [wait(match={"/order": "O-2"}), wait(match={"/order": "O-3"})]
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "waiting"


def test_a_wait_for_just_any_event_is_for_a_new_one(world: World) -> None:
    world.submit("receipt")
    tell(world, order="O-1")
    world.answers = [wait(), FINISH]
    assert world.run().outcome == "waiting"
    tell(world, "anything")
    assert world.run(2).outcome == "failed"


def test_a_step_gone_back_before_gives_its_event_back(world: World) -> None:
    world.submit("receipt")
    world.answers = [wait(event_type="paid"), FINISH]
    world.run()
    tell(world, order="O-1")
    world.run(2)
    world.store.rerun("t-1", 1, {}, who="ann", why="")
    world.answers = [wait(event_type="paid")]
    assert world.run(3).outcome == "next"


def test_the_end_of_a_wait_survives_a_planner_that_is_away(world: World) -> None:
    world.submit("receipt")
    world.answers = [wait(event_type="paid", timeout_seconds=0.05), PlannerUnavailable("503"), FINISH]
    world.run()
    tell(world, order="O-1")
    assert world.run(2).outcome == "waiting"
    run_when_due(world, 2)
    assert [request.wait_timed_out for request in world.asked] == [False, False, False]


@pytest.mark.parametrize(
    ("on_timeout", "told"), [({}, True), ({"on_timeout": "ask"}, True), ({"on_timeout": "go_on"}, False)]
)
def test_a_wait_in_vain_asks_the_planner_or_goes_on(world: World, on_timeout: dict[str, str], told: bool) -> None:
    world.submit("receipt")
    world.answers = [wait(event_type="paid", timeout_seconds=0.05, **on_timeout), PlannerUnavailable("503"), FINISH]
    world.run()
    run_when_due(world, 2)
    run_when_due(world, 2)
    assert [request.wait_timed_out for request in world.asked] == [False, told, told]


def test_a_wait_in_vain_fails_under_its_code(world: World) -> None:
    world.submit("receipt")
    world.answers = [wait(event_type="paid", timeout_seconds=0.05, on_timeout="fail", timeout_code="not_paid")]
    world.run()
    assert run_when_due(world, 2).outcome == "failed"
    task = world.store.task("t-1")
    assert task.reason_code == "not_paid"
    assert "the event paid did not come" in (task.reason or "")


def test_a_deadline_ends_a_wait_by_itself(world: World) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=0.3)
    world.take(TaskMessage("t-1", "Do it", ("receipt",), deadline=deadline))
    world.answers = [wait(event_type="paid", timeout_seconds=3600)]
    assert world.run().outcome == "waiting"
    assert world.sql_due() == deadline
    assert run_when_due(world, 2).detail.startswith("deadline_passed")


# -- people


def test_an_answer_fills_the_field_as_the_persons_own(world: World) -> None:
    world.submit("terms")
    world.answers = [ask(choices=["Net 30", "Net 60"], field="terms", who="finance")]
    result = world.run()
    assert result.outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.state, task.waits_for, task.reason) == (
        TaskState.WAITING,
        WaitsFor.PERSON,
        "asks finance: Which terms?",
    )
    with pytest.raises(AnswerRefused):
        world.store.answer("t-1", None, "Net 90", who="ann", why="")
    world.store.answer("t-1", None, "Net 60", who="ann", why="they are new")
    assert world.run(2).outcome == "completed"
    origin = world.store.context("t-1").origins["terms"]
    assert (origin.kind, origin.name, origin.step) == ("person", "ann", 1)


def test_an_answer_without_a_field_goes_to_the_planner(world: World) -> None:
    world.submit("terms")
    world.answers = [ask(), FINISH]
    world.run()
    world.store.answer("t-1", None, {"terms": "it depends"}, who="ann", why="")
    assert world.run(2).outcome == "failed"
    (asked,) = world.asked[1].history[0].questions
    assert (asked.answer, asked.answered_by) == ({"terms": "it depends"}, "ann")
    assert world.data() == {}


def test_an_answer_survives_a_planner_that_is_away(world: World) -> None:
    world.submit("terms", "other")
    world.answers = [ask(field="terms"), PlannerUnavailable("503"), FINISH]
    world.run()
    world.store.answer("t-1", None, "Net 30", who="ann", why="")
    assert world.run(2).outcome == "waiting"
    run_when_due(world, 2)
    assert world.data() == {"terms": "Net 30"}
    assert [request.wait_timed_out for request in world.asked] == [False, False, False]


def test_an_event_that_is_no_answer_is_merged_and_the_question_stays(world: World) -> None:
    world.submit("terms", "other")
    world.answers = [ask(field="terms"), FINISH]
    world.run()
    tell(world, None, other=1)
    assert world.run(2).outcome == "waiting"
    assert len(world.store.questions()) == 1
    tell(world, None, terms="Net 30")
    assert world.run(2).outcome == "completed", "the event brought what was asked for"
    assert world.store.questions() == []


def test_a_question_is_escalated_once_and_then_times_out(world: World) -> None:
    world.submit("terms")
    world.answers = [
        ask(field="terms", who="finance", escalate_to="head", escalate_after_seconds=0.05, timeout_seconds=2,
            on_timeout="fail", timeout_code="nobody_there"),
    ]  # fmt: skip
    world.run()
    assert run_when_due(world, 2).outcome == "waiting"
    told = world.store.updates("t-1")[-1].body
    assert told["reason"] == "escalated to head: Which terms?"
    assert told["questions"][0]["escalate_to"] == "head" and told["questions"][0]["escalated_at"]
    (listed,) = world.store.questions(who="head")
    assert listed.question.ref == "1"
    assert run_when_due(world, 2).detail.startswith("nobody_there: nobody answered")
    assert len([row for row in world.store.updates("t-1") if "escalated" in str(row.body["reason"])]) == 1


def test_a_question_in_vain_tells_the_planner(world: World) -> None:
    world.submit("terms")
    world.answers = [ask(field="terms", timeout_seconds=0.05), PlannerUnavailable("503"), FINISH]
    world.run()
    run_when_due(world, 2)
    run_when_due(world, 2)
    assert [request.wait_timed_out for request in world.asked] == [False, True, True]
    with pytest.raises(AnswerRefused):
        world.store.answer("t-1", None, "Net 30", who="ann", why="too late")


def test_a_retry_by_hand_answers_nothing(world: World) -> None:
    world.submit("terms")
    world.answers = [ask(field="terms")]
    world.run()
    world.store.retry("t-1", who="ann", why="")
    assert world.run(2).outcome == "waiting"
    assert len(world.asked) == 1


# -- what a planner may not ask


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (wait(event_type="task.answer"), "no event type 'task.answer'"),
        (wait(match={"order": "O-1"}), "no JSON pointer"),
        (wait(timeout_seconds=-1), "must lie between"),
        (wait(timeout_seconds=float("nan")), "beyond all bounds"),
        (wait(on_timeout="fail"), "goes with timeout_seconds"),
        (wait(timeout_seconds=5, on_timeout="hope"), "on_timeout must be one of"),
        (ask(" "), "needs a question"),
        (ask(schema={"$ref": "http://a.example"}), "may not use $ref"),
        (ask(escalate_to="head"), "go together"),
        (ask(escalate_to="head", escalate_after_seconds=9, timeout_seconds=5), "less than timeout_seconds"),
    ],
)
def test_what_cannot_be_waited_for_or_asked_goes_back_with_the_complaint(
    world: World, decision: Decision, said: str
) -> None:
    world.submit("terms")
    complaints: list[str] = []

    def again(request: PlanRequest) -> Decision:
        complaints.extend(request.complaints)
        return FINISH

    world.answers = [decision, again]
    world.run()
    assert len(complaints) == 1 and said in complaints[0]
