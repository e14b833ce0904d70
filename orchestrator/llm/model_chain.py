"""Several models, one after another: the next is asked where one is away, refuses, or is too small for the prompt.

What became of each is noted for the journal. A bad answer is no reason to change the model: it is told what was wrong.
Where the task's budget runs low the cheaper model is asked first, where one is named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.domain.decision import Decision
from orchestrator.domain.journal import Tried
from orchestrator.errors import (
    AtCapacity,
    BudgetExhausted,
    NoRoute,
    OrchestratorError,
    PlannerRefused,
    PlannerUnavailable,
)
from orchestrator.flow.planning import Planner, PlanRequest
from orchestrator.llm.breaker import Breakers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A planner with the name it goes by: ``provider:model`` or ``rules:``."""

    name: str
    planner: Planner

    @property
    def provider(self) -> str:
        """Whose breaker counts."""
        return self.name.partition(":")[0]


class ModelChain:
    """Asks the first candidate that can answer.

    Args:
        candidates: in their order.
        cheap: asked first once the task's budget runs low.
        breakers: shared by the chains of a process.
    """

    def __init__(
        self, candidates: Sequence[Candidate], cheap: Candidate | None = None, breakers: Breakers | None = None
    ) -> None:
        self.candidates = tuple(candidates)
        self.cheap = cheap
        self._breakers = breakers or Breakers()

    def prepare(self) -> None:
        """Build every model now. Raises `ConfigurationError`."""
        for planner in self._planners():
            if prepare := getattr(planner, "prepare", None):
                prepare()

    def close(self) -> None:
        """Give connections back."""
        for planner in self._planners():
            if close := getattr(planner, "close", None):
                close()

    def decide(self, request: PlanRequest) -> Decision:
        """Ask one after another. See `orchestrator.flow.planning.Planner`.

        Raises:
            AtCapacity: our own limits hold the question back. The next model is not asked instead: a limit that sends
                its questions elsewhere would be none.
        """
        failed: list[OrchestratorError] = []
        order = self._order(request)
        pauses = [self._breakers.closed_in(one.provider, one.name) for one in order]
        # Where all are in peace, the one that is so for the shortest time is asked: somebody must find out.
        probe = min(pauses) if all(pauses) else 0.0
        for candidate, pause in zip(order, pauses, strict=True):
            if pause > probe:
                error: OrchestratorError = PlannerUnavailable(
                    f"{candidate.name} was not asked: it is left in peace for {pause:.0f} s more",
                    retry_after=pause,
                )
            else:
                try:
                    return self._ask(candidate, request)
                except (PlannerUnavailable, PlannerRefused, BudgetExhausted, NoRoute) as raised:
                    error = raised
            failed.append(error)
            _note(request, candidate, error)
        raise _worst(failed)

    def _ask(self, candidate: Candidate, request: PlanRequest) -> Decision:
        try:
            decision = candidate.planner.decide(request)
        except PlannerUnavailable as error:
            if error.retry_after:
                self._breakers.pause(candidate.name, error.retry_after)
            else:
                self._breakers.failed(candidate.provider)
            raise
        except (BudgetExhausted, AtCapacity):
            raise  # it was not asked
        except OrchestratorError:
            self._breakers.succeeded(candidate.provider)
            raise
        self._breakers.succeeded(candidate.provider)
        return decision

    def _order(self, request: PlanRequest) -> list[Candidate]:
        """The cheap one first where money or tokens run low, last where the others are too dear all at once."""
        others = [one for one in self.candidates if self.cheap is None or one.name != self.cheap.name]
        if self.cheap is None:
            return others
        models = [one for one in others if one.provider != "rules"]
        rules = [one for one in others if one.provider == "rules"]
        return [self.cheap, *models, *rules] if request.purse.low else [*models, self.cheap, *rules]

    def _planners(self) -> list[Planner]:
        return [one.planner for one in (*self.candidates, *([self.cheap] if self.cheap else []))]


def _note(request: PlanRequest, candidate: Candidate, error: OrchestratorError) -> None:
    log.warning(
        "llm.next_model",
        extra={"task_id": request.task_id, "step": request.step, "model": candidate.name, "why": str(error)},
    )
    usage = error.usage
    tokens = 0 if usage is None else usage.tokens_in + usage.tokens_out
    cost = None if usage is None else usage.cost
    seconds = 0.0 if usage is None else usage.seconds
    request.tried.append(Tried(candidate.name, error.code, str(error), tokens, cost, seconds, datetime.now(UTC)))


def _worst(failed: Sequence[OrchestratorError]) -> OrchestratorError:
    """What the step ends with: waiting where one may come back, else the budget, else the last refusal."""
    away = [error for error in failed if isinstance(error, PlannerUnavailable)]
    if away:
        # The first that comes back decides when it is worth asking again.
        return min(away, key=lambda error: error.retry_after or 0.0)
    for kind in (BudgetExhausted, PlannerRefused):
        found = [error for error in failed if isinstance(error, kind)]
        if found:
            return found[0] if kind is BudgetExhausted else found[-1]
    return failed[-1]
