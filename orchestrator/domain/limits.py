"""What bounds calls to an agent or a model, and what comes of asking whether one may be made now."""

from __future__ import annotations

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import LookupOutcome, NotDone, OutcomeUnknown
from orchestrator.domain.value import Value

NOT_TRIED = frozenset({"agent_at_capacity", "agent_breaker_open", "model_at_capacity"})
"""Codes of calls that were held back: nothing was sent, nothing went wrong, no attempt was made."""


class Limited(Value, frozen=True):
    """Something that is called, with its bounds over all workers."""

    kind: str
    """``agent`` or ``model``."""
    name: str
    max_concurrency: int | None = None
    rate: float | None = None
    """Calls a second, evenly spread."""
    has_breaker: bool = False

    @property
    def key(self) -> str:
        """Its name among all that is limited."""
        return f"{self.kind}:{self.name}"

    @property
    def bounded(self) -> bool:
        """Whether there is anything to ask."""
        return self.has_breaker or self.max_concurrency is not None or self.rate is not None


class NotNow(Value, frozen=True):
    """A call may not be made now; nothing was sent."""

    code: str
    """``agent_at_capacity``, ``agent_breaker_open`` or ``model_at_capacity``."""
    reason: str
    """The same words for the same cause, however often they are said."""
    retry_in: float
    """Seconds."""
    for_good: bool = False
    """The breaker has been open for so long that waiting is given up."""


class LimitState(Value, frozen=True):
    """How it stands with one that is limited, as far as Redis knows."""

    in_flight: int = 0
    waiting: int = 0
    """Calls that were refused and have not been let in since."""
    failures: int = 0
    """In a row."""
    open_for: float | None = None
    """Seconds until the breaker lets one call try; 0 while it does; None: it is closed."""


def limited_agent(agent: AgentSpec) -> Limited:
    """An agent as the limits see it."""
    return Limited("agent", agent.name, agent.limits.max_concurrency, agent.limits.rate, has_breaker=True)


def went_well(outcome: LookupOutcome) -> bool | None:
    """Whether an agent is well, going by what a call came to; None: it does not tell.

    Whoever refuses, or says that a task failed, is well: it answers.
    """
    match outcome:
        case NotDone(code="agent_down"):
            return False
        case NotDone(code="agent_busy"):
            # With Retry-After it says itself when to come again.
            return None if outcome.retry_after else False
        case NotDone(retryable=True):
            return None
        case OutcomeUnknown(code="agent_timeout" | "reply_lost" | "agent_error" | "agent_down"):
            return False
        case OutcomeUnknown():
            return None
        case _:
            return True
