"""Judging choices against what was expected: cases, scores, and two models or prompts side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

from orchestrator.domain.decision import AgentCall, Decision, DecisionKind
from orchestrator.domain.value import Value, field
from orchestrator.errors import BadAnswer, NoRoute
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.divergence import Choice, NoChoice, compare, same_json, verb
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.trial import Tryout

NONE_FITS = frozenset({DecisionKind.ASK_HUMAN, DecisionKind.FAIL})
"""What is right where no agent fits: to ask a person, or to give up."""


class ExpectedCall(Value, frozen=True):
    """A call that is right."""

    agent: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that it must have; others may be beside them."""

    def fits(self, call: AgentCall) -> bool:
        """Whether this call is the one."""
        return call.agent == self.agent and _holds(call.arguments, self.arguments)


class Expected(Value, frozen=True):
    """One choice that is right: calls (all of them, at once), a control tool, or that none fits."""

    calls: tuple[ExpectedCall, ...] = ()
    control: DecisionKind | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Of a control tool: details that it must have; of `record`: field → value."""
    none_fits: bool = False

    def score(self, choice: Choice, request: PlanRequest) -> float:
        """1 for this very choice, 0 for another; for calls the share that both have in common."""
        if isinstance(choice, NoChoice):
            # Rules that see no way give up.
            gave_up = self.none_fits or (self.control is DecisionKind.FAIL and not self.details)
            return float(gave_up and choice.code == NoRoute.code)
        if self.none_fits:
            return float(choice.kind in NONE_FITS)
        if self.control is not None:
            return float(choice.kind is self.control and _holds(_details(choice, request), self.details))
        if choice.kind is not DecisionKind.CALL:
            return 0.0
        left = list(choice.calls)
        for wanted in self.calls:
            found = next((call for call in left if wanted.fits(call)), None)
            if found is not None:
                left.remove(found)
        common = len(choice.calls) - len(left)
        return common / (len(self.calls) + len(choice.calls) - common)

    def words(self) -> str:
        """It in a few words."""
        if self.none_fits:
            return "none fits: ask a person or give up"
        if self.control is not None:
            details = ", ".join(f"{name} = {value}" for name, value in self.details.items())
            return f"{self.control.value}{f' with {details}' if details else ''}"
        return "asks " + ", ".join(
            one.agent + (f" with {', '.join(f'{k} = {v}' for k, v in one.arguments.items())}" if one.arguments else "")
            for one in self.calls
        )


class Case(Value, frozen=True):
    """A question, and the choices that are right for it."""

    name: str
    request: PlanRequest
    expected: tuple[Expected, ...]
    weight: float = 1.0

    def score(self, choice: Choice) -> float:
        """Of the choices that are right the one that is nearest."""
        return max(one.score(choice, self.request) for one in self.expected)

    def expected_words(self) -> str:
        """What is right, in a few words."""
        return "; or ".join(one.words() for one in self.expected)


class Judged(Value, frozen=True):
    """What a model on trial made of a case."""

    case: Case
    tryout: Tryout
    score: float

    @property
    def right(self) -> bool:
        """Whether it is a choice that was expected, and nothing less."""
        return self.score == 1.0


class Report(Value, frozen=True):
    """What a model on trial made of all cases."""

    judged: Sequence[Judged]
    cases: int
    """Those that were to be asked: one that was not counts as wrong."""
    weight: float

    @property
    def score(self) -> float:
        """0 to 1: the mean of the cases' scores, by their weights."""
        return sum(one.score * one.case.weight for one in self.judged) / self.weight if self.weight else 0.0

    @property
    def right(self) -> int:
        """Cases with a choice that was expected."""
        return sum(one.right for one in self.judged)

    @property
    def bad_answers(self) -> int:
        """Answers that could not be used."""
        return sum(len(one.tryout.complaints) for one in self.judged)

    @property
    def tokens_in(self) -> int:
        """Of all questions."""
        return sum(one.tryout.usage.tokens_in for one in self.judged)

    @property
    def tokens_out(self) -> int:
        """Of all answers."""
        return sum(one.tryout.usage.tokens_out for one in self.judged)

    @property
    def cost(self) -> float | None:
        """In the currency of the price table; None where the price is not known."""
        costs = [one.tryout.usage.cost for one in self.judged if one.tryout.usage.cost is not None]
        return sum(costs) if costs else None

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a case: the median, and the longest."""
        found = [one.tryout.usage.seconds for one in self.judged]
        return (median(found), max(found)) if found else (0.0, 0.0)


def judge(case: Case, tryout: Tryout) -> Judged:
    """Judge one case."""
    return Judged(case, tryout, case.score(tryout.choice))


def report_of(cases: Sequence[Case], judged: Mapping[str, Judged]) -> Report:
    """The report of these cases; ``judged`` has those that were asked, by name."""
    found = [judged[case.name] for case in cases if case.name in judged]
    return Report(found, len(cases), sum(case.weight for case in cases))


def differing(one: Report, other: Report) -> Sequence[tuple[Judged, Judged]]:
    """The cases in which two models chose differently, in their order."""
    others = {judged.case.name: judged for judged in other.judged}
    pairs = [(judged, others[judged.case.name]) for judged in one.judged if judged.case.name in others]
    return [
        (first, second)
        for first, second in pairs
        if not compare(first.tryout.choice, second.tryout.choice, first.case.request.history).same
        or first.score != second.score
    ]


def choice_outline(choice: Choice) -> str:
    """A choice in a few words, as expected ones are told."""
    if isinstance(choice, Decision) and choice.kind is DecisionKind.CALL:
        return Expected(tuple(ExpectedCall(call.agent, call.arguments) for call in choice.calls)).words()
    return verb(choice)


def _details(choice: Decision, request: PlanRequest) -> Mapping[str, Any]:
    if choice.kind is not DecisionKind.RECORD:
        return choice.details
    try:
        return {one.field: one.value for one in recorded_changes(choice.records, request.history, datetime.min)}
    except BadAnswer:
        return {}


def _holds(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in given and same_json(given[name], value) for name, value in wanted.items())
