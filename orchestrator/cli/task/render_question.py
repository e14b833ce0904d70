"""A question to a person, as `task show` writes it under its step."""

from __future__ import annotations

from orchestrator.cli.output import Output, shortened
from orchestrator.domain.question import Question, QuestionState


def write_question(out: Output, question: Question) -> None:
    """What was asked of whom, and what came of it."""
    out.line(f"      asked {question.who or 'a person'} ({question.ref}): {shortened(question.text, 300)}")
    if question.answered_by is not None:
        why = f", {question.why}" if question.why else ""
        out.line(f"          {question.answered_by} answered {shortened(question.answer, 300)}{why}")
    elif question.state is QuestionState.TIMED_OUT:
        out.line("          nobody answered in time")
