"""What the flow needs of a planner: the port, the question it is asked, and the purse it pays from."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol, runtime_checkable

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.budget import Price
from orchestrator.domain.context import Context
from orchestrator.domain.decision import Decision
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Tried
from orchestrator.domain.value import Value, field


class CallBound(Value, frozen=True):
    """The most that one call of a model may cost, in tokens."""

    model: str
    prompt: int
    answer_most: int
    """What the model may answer with, as far as the budget has room."""
    answer_least: int
    """With less room than this the call is not worth making."""
    price: Price | None
    """Per token; None: not known."""


class Purse(Protocol):
    """What a task may still spend, as one decision's planner sees it. One call at a time: reserve, call, settle."""

    @property
    def low(self) -> bool:
        """Whether so much of tokens or money is used up that a cheaper model should be asked."""

    def reserve(self, bound: CallBound) -> int:
        """Reserve the most that the call may cost, before it is made; returns the tokens its answer may have.

        Raises:
            BudgetExhausted: the rest does not cover it; nothing is reserved, and the call must not be made.
            LeaseLost: another worker took the task over.
            StoreUnavailable: the reservation could not be written.
        """

    def settle(self, tokens: int, money: Decimal | None) -> None:
        """The call that was reserved for cost this (``money`` None: its price is not known)."""

    def lose(self) -> None:
        """Nobody knows what the call cost: what was reserved counts as spent."""


class Unbounded:
    """A purse without bottom or bookkeeping, for whoever asks a planner outside a task (trials, tests)."""

    low = False

    def reserve(self, bound: CallBound) -> int:
        """All that the call may want."""
        return bound.answer_most

    def settle(self, tokens: int, money: Decimal | None) -> None:
        """Nothing to note."""

    def lose(self) -> None:
        """Nothing to note."""


class PlanRequest(Value, frozen=True):
    """Everything a planner may know for one decision."""

    task_id: str
    step: int
    description: str
    context: Context
    agents: Sequence[AgentSpec]
    """Those enabled and allowed for this task."""
    event_types: Sequence[EventType]
    history: Sequence[HistoryEntry]
    wait_timed_out: bool = False
    """The last wait ended by its time-out."""
    complaints: Sequence[str] = ()
    """What was wrong with this step's earlier answers, oldest first."""
    prompt_version: str | None = None
    """The version of the prompt that the task began with; None: the newest."""
    purse: Purse = field(default_factory=Unbounded)
    tried: list[Tried] = field(default_factory=list)
    """Where planner and flow note what was asked in vain for this step, oldest first."""
    max_calls: int = 100
    """How many agents one decision may call; fewer where the task's budget of delegations is nearly used."""


class Planner(Protocol):
    """One decision a step."""

    def decide(self, request: PlanRequest) -> Decision:
        """Propose the next decision; `orchestrator.flow.decide` checks it against registry and schemas.

        Raises:
            BadAnswer: the model's answer is no decision (malformed arguments, unknown tool, empty, truncated).
            PlannerUnavailable: try again later.
            PlannerRefused: the provider refuses for good.
            BudgetExhausted: what is left of the task's budget does not cover asking.
            NoRoute: the rules see no way (rules planner only).
        """


@runtime_checkable
class AtOnce(Protocol):
    """A planner that decides some questions in memory, in no time and for nothing."""

    def decide_at_once(self, request: PlanRequest) -> Decision | None:
        """What `Planner.decide` would propose; None where it would have to ask a model, or fail. Raises nothing."""
