"""Questions to people in the tables: written by steps, answered under the task's lock, listed for whoever looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.event_type import RESERVED
from orchestrator.domain.journal import Dispatch, PendingEvent, StepCommit
from orchestrator.domain.question import OnTimeout, Question, QuestionKind, QuestionState, answer_problem
from orchestrator.domain.task import TaskState
from orchestrator.domain.turns import urgency_of
from orchestrator.errors import AnswerRefused
from orchestrator.flow.question_port import OpenQuestion
from orchestrator.store.audit import audit
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.published import iso
from orchestrator.store.read import not_found
from orchestrator.store.rows import Row, pending_event_of

# An answer that is there wins over whatever a step thought of the question meanwhile.
_WRITE = text("""
    INSERT INTO questions (task_id, ref, kind, step_number, index, question, choices, schema, field, fields, who,
        timeout_at, on_timeout, timeout_code, escalate_to, escalate_at, escalated_at, answer_url, state, asked_at,
        sent_at)
    SELECT :task_id, r.ref, r.kind, r.step_number, r.index, r.question, r.choices, nullif(r.schema, 'null'), r.field,
        r.fields, r.who, r.timeout_at, r.on_timeout, r.timeout_code, r.escalate_to, r.escalate_at, r.escalated_at,
        r.answer_url, r.state, r.asked_at, r.sent_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        ref text, kind text, step_number int, index int, question text, choices jsonb, schema jsonb, field text,
        fields jsonb, who text, timeout_at timestamptz, on_timeout text, timeout_code text, escalate_to text,
        escalate_at timestamptz, escalated_at timestamptz, answer_url text, state text, asked_at timestamptz,
        sent_at timestamptz)
    ON CONFLICT (task_id, ref) DO UPDATE SET state = excluded.state, escalated_at = excluded.escalated_at,
        sent_at = excluded.sent_at
    WHERE questions.state = 'open' OR (questions.state = 'answered' AND excluded.state IN ('answered', 'settled'))
""")

_OPEN_OF_TASK = text("""
    SELECT q.* FROM questions q
    LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
    WHERE q.task_id = :task_id AND CASE WHEN q.state = 'open' THEN NOT coalesce(s.superseded, false) ELSE false END
    ORDER BY q.asked_at, q.ref
""")
_OF_TASK = text("SELECT * FROM questions WHERE task_id = :task_id ORDER BY asked_at, ref")
_ANSWERED = text("SELECT 1 FROM questions WHERE task_id = :task_id AND ref = ANY(:refs) AND state = 'answered' LIMIT 1")
_LOCK = text("SELECT state, next_step, priority, aged, lane FROM tasks WHERE task_id = :task_id FOR UPDATE")

_OPEN = text("""
    SELECT q.*, t.description, t.priority, d.agent, d.arguments
    FROM questions q
    JOIN tasks t ON t.task_id = q.task_id AND t.state NOT IN ('completed', 'failed', 'canceled', 'compensating')
    LEFT JOIN steps s ON s.task_id = q.task_id AND s.step_number = q.step_number
    LEFT JOIN delegations d
        ON d.task_id = q.task_id AND d.step_number = q.step_number AND d.index = q.index
    WHERE q.state = 'open' AND NOT coalesce(s.superseded, false)
      AND (CAST(:task_id AS text) IS NULL OR q.task_id = :task_id)
      AND (CAST(:who AS text) IS NULL OR q.who = :who OR (q.escalate_to = :who AND q.escalated_at IS NOT NULL))
    ORDER BY q.asked_at, q.task_id, q.ref LIMIT :limit
""")

_STORE_ANSWER = text("""
    UPDATE questions SET state = 'answered', answer = CAST(:answer AS jsonb), answered_by = :who, why = :why,
        answered_at = now()
    WHERE task_id = :task_id AND ref = :ref AND CASE WHEN state = 'open' THEN true ELSE false END
""")

_WAKE = text("""
    UPDATE tasks SET woken = true, due_at = now() + CAST(:due_in AS interval), rings = 0, updated_at = now()
    WHERE task_id = :task_id
      AND CASE WHEN state = 'waiting' AND waits_for IN ('person', 'agent') THEN true ELSE false END
""")

_WITHDRAW = text("""
    UPDATE questions SET state = 'withdrawn'
    WHERE task_id = :task_id AND CASE WHEN state = 'open' THEN true ELSE false END
""")

_END_WAIT = text("UPDATE inbox SET ended_wait_of = :step WHERE id = :id")

_UNUSED_EVENTS = text("""
    SELECT e.id, e.event_type, e.body, e.received_at FROM inbox e
    LEFT JOIN steps s ON s.task_id = e.task_id AND s.step_number = e.ended_wait_of
    WHERE e.task_id = :task_id AND e.kind = 'event' AND e.state IN ('pending', 'early', 'merged')
      AND (e.ended_wait_of IS NULL OR coalesce(s.superseded, true))
      AND NOT coalesce(e.event_type = ANY(:reserved), false)
    ORDER BY e.id
""")

_ENDING_EVENTS = text("""
    SELECT id, event_type, body, received_at, ended_wait_of FROM inbox
    WHERE task_id = :task_id AND state IN ('pending', 'early', 'merged') AND ended_wait_of IS NOT NULL
""")


def question_of(row: Row) -> Question:
    """A row of ``questions``, also as JSON."""
    return Question(
        ref=row["ref"],
        kind=QuestionKind(row["kind"]),
        step=row["step_number"],
        text=row["question"],
        asked_at=_moment_of(row["asked_at"]),
        index=row["index"],
        choices=tuple(row["choices"]),
        schema=row["schema"],
        field=row["field"],
        fields=tuple(row["fields"]),
        who=row["who"],
        timeout_at=_moment(row["timeout_at"]),
        on_timeout=OnTimeout(row["on_timeout"]),
        timeout_code=row["timeout_code"],
        escalate_to=row["escalate_to"],
        escalate_at=_moment(row["escalate_at"]),
        escalated_at=_moment(row["escalated_at"]),
        answer_url=row["answer_url"],
        state=QuestionState(row["state"]),
        answer=row["answer"],
        answered_by=row["answered_by"],
        why=row["why"],
        answered_at=_moment(row["answered_at"]),
        sent_at=_moment(row["sent_at"]),
    )


def write_waiting(connection: Connection, task_id: str, commit: StepCommit) -> None:
    """Write a step's questions, asked or in a new state, and which event ended a wait, in its fenced transaction."""
    if commit.ending_event is not None:
        inbox_id, step = commit.ending_event
        connection.execute(_END_WAIT, {"id": inbox_id, "step": step})
    write_questions(connection, task_id, commit.questions)


def write_questions(connection: Connection, task_id: str, questions: Sequence[Question]) -> None:
    """Write questions, asked or in a new state."""
    if questions:
        connection.execute(_WRITE, {"task_id": task_id, "rows": jsonb([_row(one) for one in questions])})


def withdraw_questions(connection: Connection, task_id: str) -> None:
    """Ask nobody any more: the task is being undone, and can only be begun anew."""
    connection.execute(_WITHDRAW, {"task_id": task_id})


def answer_came(connection: Connection, task_id: str, wait: Mapping[str, Any]) -> bool:
    """Whether a question of this wait was answered, and no step has taken the answer up."""
    refs = list(wait.get("questions", ()))
    return bool(refs) and connection.execute(_ANSWERED, {"task_id": task_id, "refs": refs}).first() is not None


def questions_told(connection: Connection, task_id: str) -> dict[str, Any]:
    """The part of a task update that tells what is asked."""
    asked = open_questions(connection, task_id)
    return {"questions": [_question_body(question) for question in asked]} if asked else {}


def open_questions(connection: Connection, task_id: str) -> list[Question]:
    """What the task asks people now, oldest first; the task's own state is not looked at."""
    return [question_of(row) for row in connection.execute(_OPEN_OF_TASK, {"task_id": task_id}).mappings()]


def questions_by_step(connection: Connection, task_id: str) -> Mapping[int, tuple[Question, ...]]:
    """Everything the task asked, by step."""
    found: dict[int, tuple[Question, ...]] = {}
    for row in connection.execute(_OF_TASK, {"task_id": task_id}).mappings():
        question = question_of(row)
        found[question.step] = (*found.get(question.step, ()), question)
    return found


def ending_events(connection: Connection, task_id: str) -> Mapping[int, PendingEvent]:
    """The events that ended waits, by the step that decided on the wait."""
    rows = connection.execute(_ENDING_EVENTS, {"task_id": task_id}).mappings()
    return {row["ended_wait_of"]: pending_event_of(row) for row in rows}


class QuestionPart(Transactions):
    """Implements `orchestrator.flow.ports.QuestionStore`, and what steps ask about events that came earlier."""

    stall: timedelta

    def unused_events(self, task_id: str) -> Sequence[PendingEvent]:
        """The task's events that ended no wait of its present course, oldest first, merged or not."""
        parameters = {"task_id": task_id, "reserved": sorted(RESERVED)}
        rows = self.transact(lambda connection: connection.execute(_UNUSED_EVENTS, parameters).mappings().all())
        return [pending_event_of(row) for row in rows]

    def questions(
        self, *, task_id: str | None = None, who: str | None = None, limit: int = 100
    ) -> Sequence[OpenQuestion]:
        """What waits for a person, oldest first."""
        parameters = {"task_id": task_id, "who": who, "limit": limit}
        rows = self.transact(lambda connection: connection.execute(_OPEN, parameters).mappings().all())
        return [
            OpenQuestion(row["task_id"], row["description"], question_of(row), row["agent"], row["arguments"])
            for row in rows
        ]

    def answer(self, task_id: str, ref: str | None, answer: Any, *, who: str, why: str) -> Dispatch:
        """Store a person's answer and make the task due."""

        def work(connection: Connection) -> Dispatch:
            row = connection.execute(_LOCK, {"task_id": task_id}).first()
            if row is None:
                raise not_found(task_id)
            question = question_to_answer(connection, task_id, row.state, ref)
            store_answer(connection, task_id, question, answer, who=who, why=why)
            connection.execute(_WAKE, {"task_id": task_id, "due_in": self.stall})
            return Dispatch(task_id, row.next_step, urgency_of(row.priority, row.aged), row.lane)

        return self.transact(work)


def question_to_answer(connection: Connection, task_id: str, state: str, ref: str | None) -> Question:
    """The open question that an answer is for; the task's row is locked.

    Raises:
        AnswerRefused: there is none, or several and none was named.
    """
    if state == TaskState.COMPENSATING:
        raise AnswerRefused(
            f"task {task_id!r} is being undone and asks nobody anything any more",
            hint=f"Follow it with `orchestrator task watch {task_id}`; when it has ended it can be restarted.",
            task_id=task_id,
        )
    found = [] if TaskState(state).is_terminal else open_questions(connection, task_id)
    if not found:
        raise AnswerRefused(
            f"task {task_id!r} is {state} and asks nobody anything",
            hint="See what waits for a person: `orchestrator task questions`.",
            task_id=task_id,
        )
    named = [question for question in found if ref in (None, question.ref)]
    if len(named) != 1:
        refs = ", ".join(question.ref for question in found)
        asked = f"has no open question {ref!r}" if ref is not None else "asks several questions"
        raise AnswerRefused(
            f"task {task_id!r} {asked}; open are: {refs}",
            hint=f"Name one with --question; `orchestrator task questions --task {task_id}` shows them.",
            task_id=task_id,
        )
    return named[0]


def store_answer(connection: Connection, task_id: str, question: Question, answer: Any, *, who: str, why: str) -> None:
    """Check an answer, store and audit it; the task's row is locked, and the caller wakes it.

    Raises:
        AnswerRefused: it does not fit the question, which stays open.
    """
    if problem := answer_problem(question, answer):
        raise AnswerRefused(
            f"question {question.ref} of task {task_id!r}: {problem}",
            hint=f"It is still open: {question.text[:500]}",
            task_id=task_id,
        )
    parameters = {"task_id": task_id, "ref": question.ref, "answer": jsonb(answer), "who": who, "why": why}
    connection.execute(_STORE_ANSWER, parameters)
    details = {"question": question.ref, "kind": question.kind.value, "answer": answer}
    audit(connection, who=who, what="answer", why=why, task_id=task_id, details=details)


def _row(question: Question) -> dict[str, Any]:
    return {
        "ref": question.ref,
        "kind": question.kind.value,
        "step_number": question.step,
        "index": question.index,
        "question": question.text,
        "choices": list(question.choices),
        "schema": None if question.schema is None else dict(question.schema),
        "field": question.field,
        "fields": list(question.fields),
        "who": question.who,
        "timeout_at": _iso(question.timeout_at),
        "on_timeout": question.on_timeout.value,
        "timeout_code": question.timeout_code,
        "escalate_to": question.escalate_to,
        "escalate_at": _iso(question.escalate_at),
        "escalated_at": _iso(question.escalated_at),
        "answer_url": question.answer_url,
        "state": question.state.value,
        "asked_at": question.asked_at.isoformat(),
        "sent_at": _iso(question.sent_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(value: Any) -> datetime | None:
    return None if value is None else _moment_of(value)


def _moment_of(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _question_body(question: Question) -> dict[str, Any]:
    """An open question as task updates tell of it."""
    parts = {
        "question": question.ref,
        "kind": question.kind.value,
        "text": question.text,
        "choices": list(question.choices) or None,
        "schema": question.schema,
        "fields": list(question.all_fields()) or None,
        "who": question.who,
        "asked_at": iso(question.asked_at),
        "timeout_at": None if question.timeout_at is None else iso(question.timeout_at),
        "escalate_to": question.escalate_to,
        "escalated_at": None if question.escalated_at is None else iso(question.escalated_at),
    }
    return {name: value for name, value in parts.items() if value is not None}
