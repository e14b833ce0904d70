"""Questions on real PostgreSQL: asked in a step's commit, answered under the task's lock, taken up by the next step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.domain.journal import Claim, Committed, NotClaimed, PendingEvent, StepCommit, Wait
from orchestrator.domain.question import Question, QuestionKind, QuestionState
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import AnswerRefused, TaskNotFound
from orchestrator.flow.ports import Intake
from tests.support.store_world import StoreWorld

AT = datetime(2026, 11, 2, tzinfo=UTC)
WHO = {"who": "ann", "why": "she knows"}


def ask(world: StoreWorld, claim: Claim, *questions: Question, due_at: datetime | None = None) -> Committed:
    refs = {"questions": [question.ref for question in questions]}
    wait = Wait(WaitsFor.PERSON, due_at, refs, same_step=False, reason=questions[0].text)
    return world.store.commit(claim.lease, StepCommit(wait, questions=questions))


def question(ref: str = "1", **parts: Any) -> Question:
    return Question(ref, QuestionKind.QUESTION, 1, "Which terms?", AT, **parts)


FULL = question(
    choices=("Net 30", "Net 60"),
    field="terms",
    who="finance",
    timeout_at=AT + timedelta(days=900),
    escalate_to="head",
    escalate_at=AT + timedelta(days=800),
)


@pytest.fixture
def world(store_world: StoreWorld) -> StoreWorld:
    store_world.task("t-1", "terms")
    return store_world


def test_a_question_is_listed_told_and_answered_and_the_next_step_finds_the_answer(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL)
    (listed,) = world.store.questions()
    assert (listed.task_id, listed.question, listed.agent) == ("t-1", FULL, None)
    told = world.store.updates("t-1")[-1].body
    assert told["waits_for"] == "person"
    assert told["questions"][0] | {"question": "1", "choices": ["Net 30", "Net 60"]} == told["questions"][0]
    assert world.refused(2) is NotClaimed.NOT_DUE

    doorbell = world.store.answer("t-1", None, "Net 60", **WHO)
    assert (doorbell.task_id, doorbell.step) == ("t-1", 2)
    claim = world.claim(2)
    (answered,) = claim.questions
    assert (answered.state, answered.answer, answered.answered_by) == (QuestionState.ANSWERED, "Net 60", "ann")
    assert world.store.questions() == []
    (audited,) = world.sql("SELECT who, what, why, details FROM audit")
    assert (audited.who, audited.what, audited.details["answer"]) == ("ann", "answer", "Net 60")
    (entry,) = [entry for entry in world.store.history("t-1") if entry.questions]
    assert entry.questions[0].answer == "Net 60"


def test_a_wrong_answer_is_refused_and_loses_nothing(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL)
    with pytest.raises(AnswerRefused, match="one of: Net 30, Net 60"):
        world.store.answer("t-1", None, "Net 90", **WHO)
    with pytest.raises(AnswerRefused, match="no open question '7'"):
        world.store.answer("t-1", "7", "Net 30", **WHO)
    with pytest.raises(TaskNotFound):
        world.store.answer("nobody", None, "Net 30", **WHO)
    assert world.refused(2) is NotClaimed.NOT_DUE
    assert world.sql("SELECT 1 FROM audit") == []
    world.store.answer("t-1", "1", "Net 30", **WHO)
    with pytest.raises(AnswerRefused, match="asks nobody anything"):
        world.store.answer("t-1", "1", "Net 60", **WHO)


def test_of_several_questions_one_must_be_named(world: StoreWorld) -> None:
    ask(world, world.claim(), question("1.0"), question("1.1"))
    with pytest.raises(AnswerRefused, match=r"open are: 1\.0, 1\.1"):
        world.store.answer("t-1", None, "yes", **WHO)
    world.store.answer("t-1", "1.1", "yes", **WHO)
    assert [one.question.ref for one in world.store.questions(task_id="t-1")] == ["1.0"]


def test_an_answer_that_comes_while_a_step_runs_ends_the_wait_at_once(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL, due_at=AT)
    claim = world.claim(2)
    world.store.answer("t-1", None, "Net 30", **WHO)
    told = replace(FULL, escalated_at=AT)
    wait = Wait(WaitsFor.PERSON, None, {"questions": ["1"]}, reason="escalated")
    world.store.commit(claim.lease, StepCommit(wait, questions=(told,)))
    (answered,) = world.claim(2).questions
    assert (answered.state, answered.answer) == (QuestionState.ANSWERED, "Net 30")


def test_an_answer_is_not_overwritten_by_a_time_out_that_crosses_it(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL, due_at=AT)
    claim = world.claim(2)
    world.store.answer("t-1", None, "Net 30", **WHO)
    late = replace(FULL, state=QuestionState.TIMED_OUT)
    world.store.commit(claim.lease, StepCommit(Wait(WaitsFor.RETRY, AT), questions=(late,)))
    assert world.claim(2).questions[0].state is QuestionState.ANSWERED


def test_questions_of_ended_tasks_and_of_steps_gone_back_before_are_asked_no_more(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL)
    world.store.rerun("t-1", 1, {}, who="ann", why="")
    assert world.store.questions() == []
    with pytest.raises(AnswerRefused):
        world.store.answer("t-1", "1", "Net 30", **WHO)
    ask(world, world.claim(3), replace(FULL, ref="3", step=3))
    assert len(world.store.questions()) == 1
    world.store.cancel("t-1", who="ann", why="")
    assert world.store.questions() == []
    with pytest.raises(AnswerRefused, match="is canceled and asks nobody"):
        world.store.answer("t-1", "3", "Net 30", **WHO)


def test_questions_are_listed_by_who_they_are_for_or_were_escalated_to(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL, due_at=AT)
    assert len(world.store.questions(who="finance")) == 1
    assert world.store.questions(who="head") == []
    world.store.commit(
        world.claim(2).lease,
        StepCommit(Wait(WaitsFor.PERSON, None, {"questions": ["1"]}), questions=(replace(FULL, escalated_at=AT),)),
    )
    assert len(world.store.questions(who="head")) == 1


# -- answers over Kafka


def test_an_answer_over_kafka_is_taken_once(world: StoreWorld) -> None:
    ask(world, world.claim(), FULL)
    taken = world.event("t-1", "task.answer", question="1", answer="Net 30", by="M. Okafor")
    assert taken.outcome is Intake.ANSWERED
    assert taken.dispatch is not None and taken.dispatch.step == 2
    again = world.event("t-1", "task.answer", question="1", answer="Net 30", by="M. Okafor")
    assert again.outcome is Intake.DUPLICATE
    claim = world.claim(2)
    assert claim.events == ()
    assert claim.questions[0].answered_by == "M. Okafor"


@pytest.mark.parametrize(
    ("task_id", "data", "said"),
    [
        ("t-1", {"answer": "Net 90"}, "one of: Net 30, Net 60"),
        ("t-1", {"answer": "Net 30", "question": "9"}, "no open question"),
        ("t-9", {"answer": "Net 30"}, "no such task"),
    ],
)
def test_a_wrong_answer_over_kafka_is_a_dead_letter_and_the_question_stays_open(
    world: StoreWorld, task_id: str, data: dict[str, Any], said: str
) -> None:
    ask(world, world.claim(), FULL)
    taken = world.event(task_id, "task.answer", **data)
    assert taken.outcome is Intake.ANSWER_REFUSED
    (letter,) = world.store.dead_letters()
    assert letter.reason == "answer_refused" and said in letter.detail
    assert len(world.store.questions()) == 1


# -- which event ended which wait


def test_an_event_ends_one_wait_of_the_present_course(world: StoreWorld) -> None:
    world.event("t-1", "paid", order="O-1")
    world.event("t-1", "paid", order="O-2")
    claim = world.claim()
    first, second = claim.events

    def unused() -> list[PendingEvent]:
        return list(world.store.unused_events("t-1"))

    assert unused() == [first, second]
    merged = tuple(event.inbox_id for event in claim.events)
    wait = Wait(WaitsFor.RETRY, AT)
    world.store.commit(claim.lease, StepCommit(wait, merged_events=merged, ending_event=(first.inbox_id, 1)))
    assert unused() == [second]
    assert world.store.history("t-1")[0].ended_by == first
    world.store.rerun("t-1", 1, {}, who="ann", why="")
    assert unused() == [first, second], "the wait that it ended is no part of the course any more"
