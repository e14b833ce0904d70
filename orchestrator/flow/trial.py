"""Asking a planner on trial, outside any task: for simulations and for judging prompts. No journal, no budget.

A question is asked as a step would ask it: an answer that cannot be used goes back with the complaint, a provider that
is away is asked again after a pause. What came of it, and what it cost, is told; nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.domain.decision import Decision, Usage
from orchestrator.domain.journal import Tried
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.value import Value, replace
from orchestrator.errors import AtCapacity, BadAnswer, NoRoute, PlannerRefused, PlannerUnavailable
from orchestrator.flow.decide import decide
from orchestrator.flow.divergence import Choice, NoChoice
from orchestrator.flow.planning import Planner, PlanRequest

_WRONG_FOR_ALL = frozenset({"planner_refused", "planner_quota"})
"""A key, a name, an address, an empty account: no other question fares better."""
_LONGEST_PAUSE = 300.0
"""Seconds: a provider that wants more than that is given up for this time."""


class Tryout(Value, frozen=True):
    """What a planner on trial made of one question."""

    choice: Choice
    usage: Usage
    """Bad answers included, which are paid for too."""
    complaints: tuple[str, ...] = ()
    """What was wrong with answers that could not be used."""

    @property
    def decision(self) -> Decision | None:
        """The decision, where there is one."""
        return self.choice if isinstance(self.choice, Decision) else None


class Trial:
    """A planner that is asked as steps ask theirs.

    Args:
        name: of the model, for what could not be asked at all.
        planner: who is asked.
        bad_answers: answers that may be unusable, in all.
        retry: how often, and after what pauses, a provider that is away is asked again.
        pause: lets so many seconds pass.
    """

    def __init__(
        self,
        name: str,
        planner: Planner,
        bad_answers: int,
        retry: RetryPolicy,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self.planner = planner
        self._bad_answers = bad_answers
        self._retry = retry
        self._pause = pause

    def ask(self, request: PlanRequest) -> Tryout:
        """Ask until there is a choice, or certainly none.

        Raises:
            PlannerRefused: the provider takes no question of ours at all: key, model name, address.
            PlannerUnavailable: it stayed away.
        """
        tried: list[Tried] = []
        attempt = 0
        while True:
            attempt += 1
            asked = replace(request, tried=tried)
            try:
                decision = decide(self.planner, asked, self._bad_answers)
            except (PlannerUnavailable, AtCapacity) as error:
                if error.usage is not None:
                    tried.append(Tried(self.name, error.code, str(error), _tokens(error.usage), error.usage.cost))
                pause = self._retry.delay(attempt, error.retry_after)
                if self._retry.exhausted(attempt) or pause > _LONGEST_PAUSE:
                    raise
                self._pause(pause)
            except (BadAnswer, NoRoute, PlannerRefused) as error:
                if error.code in _WRONG_FOR_ALL:
                    raise
                spent = [] if error.usage is None or isinstance(error, BadAnswer) else [error.usage]
                usage = self._spent(tried, spent, request.prompt_version)
                return Tryout(NoChoice(error.code, str(error)), usage, _complaints(tried))
            else:
                lost = [one for one in tried if one.code != BadAnswer.code]
                usage = replace(
                    decision.usage,
                    tokens_in=decision.usage.tokens_in + sum(one.tokens for one in lost),
                    seconds=decision.usage.seconds + sum(one.seconds for one in lost),
                )
                return Tryout(replace(decision, usage=usage), usage, _complaints(tried))

    def _spent(self, tried: Sequence[Tried], more: Sequence[Usage], version: str | None) -> Usage:
        every: list[Tried | Usage] = [*tried, *more]
        costs = [one.cost for one in every if one.cost is not None]
        return Usage(
            self.name,
            tokens_in=sum(one.tokens for one in tried) + sum(map(_tokens, more)),
            cost=sum(costs) if costs else None,
            seconds=sum(one.seconds for one in every),
            prompt_version=next((one.prompt_version for one in more), version or ""),
            answers=len(tried) + len(more),
        )


def _tokens(usage: Usage) -> int:
    return usage.tokens_in + usage.tokens_out


def _complaints(tried: Sequence[Tried]) -> tuple[str, ...]:
    return tuple(one.error for one in tried if one.code == BadAnswer.code)
