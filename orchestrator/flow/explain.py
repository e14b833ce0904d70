"""Explaining a task: for each step what was known, what was asked, the choice and why, what it cost, what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.context import Change, Context
from orchestrator.domain.decision import Usage
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.task import Task
from orchestrator.flow.past import Past, Question


@dataclass(frozen=True, slots=True)
class StepExplained:
    """One step, with its question and what had changed since the question before."""

    entry: HistoryEntry
    question: Question
    news: tuple[Change, ...]
    """What had become known since the question before: by replies, events or people."""
    learned: tuple[Change, ...]
    """What its own replies brought into the context."""

    @property
    def known(self) -> Context:
        """What was known when the planner was asked."""
        return self.question.request.context


@dataclass(frozen=True, slots=True)
class Costs:
    """What the choices of several steps cost together."""

    decisions: int
    answers: int
    """Bad ones included."""
    tokens_in: int
    tokens_out: int
    cost: float | None
    """US dollars, of the decisions whose price is known; None where none is."""
    unpriced: int
    """Decisions that used tokens and whose price is not known."""
    seconds: float

    @classmethod
    def of(cls, usages: Sequence[Usage]) -> Costs:
        """The sum."""
        costs = [usage.cost for usage in usages if usage.cost is not None]
        return cls(
            decisions=len(usages),
            answers=sum(usage.answers for usage in usages),
            tokens_in=sum(usage.tokens_in for usage in usages),
            tokens_out=sum(usage.tokens_out for usage in usages),
            cost=sum(costs) if costs else None,
            unpriced=sum(1 for usage in usages if usage.cost is None and usage.tokens_in + usage.tokens_out > 0),
            seconds=sum(usage.seconds for usage in usages),
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """A task explained."""

    task: Task
    context: Context
    """What it knows now."""
    steps: Sequence[StepExplained]
    spent: Costs


def explain(past: Past) -> Explanation:
    """Explain every step, those before a rerun included."""
    steps = []
    before = Context(0, past.task.required_fields)
    for entry in past.history:
        question = past.question(entry)
        news = tuple(_news(before, question.request.context))
        steps.append(StepExplained(entry, question, news, past.learned(entry)))
        before = question.request.context
    usages = [entry.step.decision.usage for entry in past.history if entry.step.decision is not None]
    return Explanation(past.task, past.now, steps, Costs.of(usages))


def _news(before: Context, context: Context) -> list[Change]:
    """What differs, each with its own origin; fields that are gone with the origin that they had."""
    gone = [
        Change(name, None, origin, removed=True)
        for name, origin in before.origins.items()
        if name not in context.collected_data
    ]
    new = [
        Change(name, value, context.origins[name])
        for name, value in context.collected_data.items()
        if name in context.origins and (name not in before.collected_data or before.collected_data[name] != value)
    ]
    return [*gone, *new]
