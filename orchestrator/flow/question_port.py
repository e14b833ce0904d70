"""What the flow needs of the store to let people answer what tasks ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.question import Question
from orchestrator.domain.value import Value


class OpenQuestion(Value, frozen=True):
    """What waits for a person: the question, of which task, and the call that it is about where it is about one."""

    task_id: str
    description: str
    question: Question
    agent: str | None = None
    arguments: Mapping[str, Any] | None = None


class QuestionStore(Protocol):
    """What tasks ask people."""

    def questions(
        self, *, task_id: str | None = None, who: str | None = None, limit: int = 100
    ) -> Sequence[OpenQuestion]:
        """What is open, oldest first; only what is for ``who`` (or was escalated to them) where given."""

    def answer(self, task_id: str, ref: str | None, answer: Any, *, who: str, why: str) -> Dispatch:
        """Store an answer, audited, and make the task due; ``ref`` may be None where one question is open.

        Raises:
            TaskNotFound: no such task.
            AnswerRefused: nothing is asked, it is not clear which question is meant, or the answer does not fit;
                nothing was changed.
        """
