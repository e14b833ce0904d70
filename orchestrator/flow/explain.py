"""Explaining a task: for each step what was known, what was asked, the choice and why, what it cost, what came back."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.domain.context import Change, Context
from orchestrator.domain.decision import Usage
from orchestrator.domain.journal import HistoryEntry, Step, Tried
from orchestrator.domain.task import Task
from orchestrator.domain.value import Value
from orchestrator.errors import BadAnswer
from orchestrator.flow.past import Past, Question


class StepExplained(Value, frozen=True):
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


class Costs(Value, frozen=True):
    """What the choices of several steps cost together."""

    decisions: int
    answers: int
    """Bad ones included."""
    tokens_in: int
    tokens_out: int
    tokens_in_vain: int
    """Of models that gave no decision: away, refused, or with answers none of which could be used."""
    cost: float | None
    """US dollars, of the decisions whose price is known; None where none is."""
    unpriced: int
    """Decisions that used tokens and whose price is not known."""
    seconds: float

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.tokens_in + self.tokens_out + self.tokens_in_vain

    @classmethod
    def of(cls, usages: Sequence[Usage], in_vain: Sequence[Tried] = ()) -> Costs:
        """The sum of what decisions cost, and of what was asked in vain."""
        every: list[Usage | Tried] = [*usages, *in_vain]
        costs = [one.cost for one in every if one.cost is not None]
        return cls(
            decisions=len(usages),
            answers=sum(usage.answers for usage in usages) + sum(1 for one in in_vain if one.code == BadAnswer.code),
            tokens_in=sum(usage.tokens_in for usage in usages),
            tokens_out=sum(usage.tokens_out for usage in usages),
            tokens_in_vain=sum(one.tokens for one in in_vain),
            cost=sum(costs) if costs else None,
            unpriced=sum(1 for one in usages if one.cost is None and one.tokens_in + one.tokens_out > 0)
            + sum(1 for one in in_vain if one.cost is None and one.tokens > 0),
            seconds=sum(one.seconds for one in every),
        )

    @classmethod
    def of_steps(cls, entries: Sequence[HistoryEntry]) -> Costs:
        """What these steps cost; bad answers before a decision are part of the decision's own cost."""
        usages = [entry.step.decision.usage for entry in entries if entry.step.decision is not None]
        return cls.of(usages, [one for entry in entries for one in in_vain(entry.step)])


def in_vain(step: Step) -> tuple[Tried, ...]:
    """What was asked for a step in vain, and is not part of its decision's cost."""
    return tuple(one for one in step.tried if step.decision is None or one.code != BadAnswer.code)


class Explanation(Value, frozen=True):
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
    return Explanation(past.task, past.now, steps, Costs.of_steps(past.history))


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
