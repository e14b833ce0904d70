"""Waiting for an event or a person: how a wait begins, goes on and ends. A wait is a row; no worker is in it.

The step after the one that decided to wait is the one that wakes: by an event, an answer, or its time. It looks what
came, and either goes back to the wait, or goes on to the planner, or fails as the wait was told to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from orchestrator.domain.context import has_value
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.journal import Fail, HistoryEntry, Then, Wait
from orchestrator.domain.question import OnTimeout, Question, QuestionKind, QuestionState
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.value import replace
from orchestrator.domain.wait import EventWait
from orchestrator.flow.turn import Turn, now


def begin_wait(turn: Turn, decision: Decision) -> Then:
    """Wait for an event; where the one that is wanted came already and ended no other wait, go on at once.

    A wait for just any event is for a new one: the planner knows of all that came.
    """
    wait = EventWait.begun(decision.details, turn.lease.step, now())
    if wait.is_for_some and (event := wait.ended_by(turn.store.unused_events(turn.task.task_id))):
        turn.end_wait(event, turn.lease.step)
        return turn.forward()
    return Wait(WaitsFor.EVENT, wait.until, wait.to_json(), same_step=False, reason=decision.reason)


def begin_question(turn: Turn, decision: Decision) -> Then:
    """Ask a person, and wait for the answer."""
    question = question_of(decision, turn.lease.step, now())
    turn.ask(question)
    return wait_for_people([question], same_step=False)


def take_answers(turn: Turn) -> None:
    """Put what people answered to the planner's questions into the context, as theirs."""
    for question in list(turn.questions.values()):
        if question.kind is QuestionKind.QUESTION and question.state is QuestionState.ANSWERED:
            turn.change(question.changes())
            turn.ask(replace(question, state=QuestionState.SETTLED))


def after_wait(turn: Turn, history: Sequence[HistoryEntry]) -> Wait | Fail | bool:
    """What follows a wait that the step before began.

    Returns:
        The wait to go back to; or the failure that its time-out asks for; or, where the planner is to decide,
        whether it is to be told that the wait ended in vain (False also where nothing was waited for).
    """
    if (wait := EventWait.in_force(turn.task.wait)) is not None:
        return _after_event_wait(turn, wait)
    asked = turn.task.wait.get("questions", ())
    question = next((q for q in turn.questions.values() if q.ref in asked and q.kind is QuestionKind.QUESTION), None)
    if question is not None:
        return _after_question(turn, question)
    return _waited_in_vain(history)


def as_it_now_is(turn: Turn, history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """The history with what this execution knows of the wait before it and has not written yet."""
    event, step = turn.ended_wait or (None, None)

    def now(entry: HistoryEntry) -> HistoryEntry:
        ended = entry.step.number == step
        if not ended and not entry.questions:
            return entry
        questions = tuple(turn.questions.get(question.ref, question) for question in entry.questions)
        return replace(entry, questions=questions, ended_by=event if ended else entry.ended_by)

    return [now(entry) for entry in history]


def wait_for_people(questions: Iterable[Question], *, same_step: bool) -> Wait:
    """The wait for answers to these questions, due at the next escalation or time-out."""
    asked = list(questions)
    details: dict[str, Any] = {"questions": [question.ref for question in asked], "question": asked[0].text}
    for name in ("who", "choices", "schema"):
        if value := getattr(asked[0], name):
            details[name] = list(value) if isinstance(value, tuple) else value
    if fields := asked[0].all_fields():
        details["fields"] = list(fields)
    if escalated := {q.ref: q.escalate_to for q in asked if q.escalated_at}:
        details["escalated"] = escalated
    due = min((q.due_at for q in asked if q.due_at is not None), default=None)
    reason = "; ".join(_words(question) for question in asked[:5]) + ("; …" if len(asked) > 5 else "")
    return Wait(WaitsFor.PERSON, due, details, same_step=same_step, reason=reason)


def later(at: datetime, seconds: float | None) -> datetime | None:
    """So many seconds after a moment; None where none are given."""
    return None if seconds is None else at + timedelta(seconds=seconds)


def escalated(question: Question) -> Question:
    """The question, told to those to whom it goes when nobody has answered for so long; as it is before that."""
    if question.escalate_at is None or question.escalated_at is not None or now() < question.escalate_at:
        return question
    return replace(question, escalated_at=now())


def timed_out(question: Question) -> bool:
    """Whether the time for an answer has run out."""
    return question.timeout_at is not None and now() >= question.timeout_at


def _after_event_wait(turn: Turn, wait: EventWait) -> Wait | Fail | bool:
    if event := wait.ended_by(turn.came):
        turn.end_wait(event, wait.step)
        return False
    if wait.is_over_at(now()):
        if wait.on_timeout is OnTimeout.FAIL:
            return Fail(wait.timeout_code, f"{wait.words()} did not come by {_clock(wait.until)}")
        return wait.on_timeout is OnTimeout.ASK
    return Wait(WaitsFor.EVENT, wait.until, wait.to_json(), same_step=True, reason=turn.task.reason)


def _after_question(turn: Turn, question: Question) -> Wait | Fail | bool:
    if question.state is QuestionState.SETTLED:
        return False
    fields = question.all_fields()
    if fields and all(has_value(turn.context.collected_data.get(name)) for name in fields):
        turn.ask(replace(question, state=QuestionState.WITHDRAWN))
        return False
    if timed_out(question):
        turn.ask(replace(question, state=QuestionState.TIMED_OUT))
        if question.on_timeout is OnTimeout.FAIL:
            return Fail(question.timeout_code, f"nobody answered by {_clock(question.timeout_at)}: {question.text}")
        return question.on_timeout is OnTimeout.ASK
    if (told := escalated(question)) is not question:
        turn.ask(told)
    return wait_for_people([told], same_step=True)


def _waited_in_vain(history: Sequence[HistoryEntry]) -> bool:
    """Whether the step before was a wait that ran out of time; known from the journal once the wait itself is over."""
    last = history[-1] if history else None
    if last is None or last.step.decision is None or last.step.finished_at is None:
        return False
    if last.step.decision.kind is DecisionKind.ASK_HUMAN:
        return any(q.state is QuestionState.TIMED_OUT and q.on_timeout is not OnTimeout.GO_ON for q in last.questions)
    if last.step.decision.kind is not DecisionKind.WAIT_FOR_EVENT or last.ended_by is not None:
        return False
    wait = EventWait.begun(last.step.decision.details, last.step.number, last.step.finished_at)
    return wait.on_timeout is not OnTimeout.GO_ON and wait.is_over_at(now())


def question_of(decision: Decision, step: int, at: datetime) -> Question:
    """The question that an ``ask_human`` asks, put at this moment."""
    details = decision.details

    def later(name: str) -> Any:
        seconds = details.get(name)
        return None if seconds is None else at + timedelta(seconds=float(seconds))

    return Question(
        ref=str(step),
        kind=QuestionKind.QUESTION,
        step=step,
        text=str(details["question"]).strip(),
        asked_at=at,
        choices=tuple(details.get("choices") or ()),
        schema=details.get("schema"),
        field=details.get("field"),
        fields=tuple(details.get("fields") or ()),
        who=details.get("who"),
        timeout_at=later("timeout_seconds"),
        on_timeout=OnTimeout(details.get("on_timeout") or OnTimeout.ASK),
        timeout_code=str(details.get("timeout_code") or "no_answer"),
        escalate_to=details.get("escalate_to"),
        escalate_at=later("escalate_after_seconds"),
    )


def _words(question: Question) -> str:
    if question.escalated_at is not None:
        return f"escalated to {question.escalate_to}: {question.text}"
    return f"asks {question.who}: {question.text}" if question.who else question.text


def _clock(moment: Any) -> str:
    return str(moment.isoformat(timespec="seconds")) if moment is not None else "its end"
