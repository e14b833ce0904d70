"""A person's answer to what a task asks: stored first, then the doorbell is rung."""

from __future__ import annotations

import logging
from typing import Any

from orchestrator.domain.journal import Dispatch
from orchestrator.errors import AnswerRefused, DispatchFailed
from orchestrator.flow.ports import Dispatcher
from orchestrator.flow.question_port import QuestionStore

log = logging.getLogger(__name__)


class Answers:
    """Takes answers. Every method raises `TaskNotFound`, and `AnswerRefused` where the answer does not fit."""

    def __init__(self, store: QuestionStore, dispatcher: Dispatcher) -> None:
        self.store = store
        self.dispatcher = dispatcher

    def answer(self, task_id: str, ref: str | None, answer: Any, *, who: str, why: str) -> Dispatch:
        """Answer a question; ``ref`` names it where several are open. Returns the step that now goes on."""
        doorbell = self.store.answer(task_id, ref, answer, who=who, why=why)
        try:
            self.dispatcher.dispatch([doorbell])
        except DispatchFailed as error:
            # The task is due in its row: the sweep rings as soon as the broker is back.
            log.warning("answer.broker_away", extra={"task_id": task_id, "why": str(error)})
        return doorbell

    def choose(self, task_id: str, ref: str | None, number: int, *, who: str, why: str) -> Dispatch:
        """Answer with one of the choices by its number, from 1."""
        asked = [one.question for one in self.store.questions(task_id=task_id) if ref in (None, one.question.ref)]
        choices = asked[0].choices if len(asked) == 1 else ()
        if asked and not choices:
            raise AnswerRefused(
                f"task {task_id!r}: which question is meant is not clear, or it has no choices",
                hint=f"See `orchestrator task questions --task {task_id}`.",
                task_id=task_id,
            )
        if choices and not 1 <= number <= len(choices):
            raise AnswerRefused(f"there are choices 1 to {len(choices)}, not {number}", task_id=task_id)
        return self.answer(task_id, ref, choices[number - 1] if choices else number, who=who, why=why)
