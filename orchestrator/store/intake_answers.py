"""Answers that come over Kafka: stored with their batch, or refused with the reason and set aside."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.message import EventMessage
from orchestrator.domain.question import QuestionState
from orchestrator.errors import AnswerRefused
from orchestrator.flow.ports import Intake, Taken
from orchestrator.store.questions import question_to_answer, questions_by_step, store_answer


def take_answer(connection: Connection, message: EventMessage, task: Any | None) -> Taken:
    """Store the answer in the message; ``task`` is its row, locked, or None where there is none. Rings no doorbell."""
    if task is None:
        return Taken(Intake.ANSWER_REFUSED, message.task_id, reason="there is no such task")
    data = message.event_data
    ref, answer = data.get("question"), data["answer"]
    who, why = data.get("by") or "kafka", data.get("why") or ""
    try:
        question = question_to_answer(connection, message.task_id, task.state, ref)
        store_answer(connection, message.task_id, question, answer, who=who, why=why)
    except AnswerRefused as error:
        if _is_known(connection, message.task_id, ref, answer):
            return Taken(Intake.DUPLICATE, message.task_id, reason="the question was answered so before")
        return Taken(Intake.ANSWER_REFUSED, message.task_id, reason=str(error))
    return Taken(Intake.ANSWERED, message.task_id)


def _is_known(connection: Connection, task_id: str, ref: str | None, answer: Any) -> bool:
    answered = {QuestionState.ANSWERED, QuestionState.SETTLED}
    return any(
        question.ref == ref and question.state in answered and question.answer == answer
        for asked in questions_by_step(connection, task_id).values()
        for question in asked
    )
