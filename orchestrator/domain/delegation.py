"""A delegation: one request to an agent, its states, and what can come back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.value import Value

NOT_SENT = "not_sent"
"""Code of a call that never left, since its time was over before."""


DECLINED = "declined"
"""Error code of a call that a person declined: it was never made, and fails no step."""


AGENT_CANCELED = "agent_canceled"
"""Error code of a call that its agent canceled: it left nothing behind."""


BY_EVENT = "event:"
"""`Delegation.remote_url` of a call that was accepted and whose reply comes as an event: nobody is to be asked."""


class DelegationState(JournalValue):
    """A delegation is a row before it is a request."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    COMPENSATED = "compensated"

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is known."""
        return self in {DelegationState.SUCCEEDED, DelegationState.FAILED, DelegationState.COMPENSATED}


class Delegation(Value, frozen=True):
    """One row of ``delegations``."""

    task_id: str
    step: int
    index: int
    agent: str
    arguments: Mapping[str, Any]
    task: str
    key: str
    """Idempotency key, unique."""
    state: DelegationState
    attempts: int = 0
    """Executions so far; the present one's number while in flight."""
    sent_at: datetime | None = None
    """When the first attempt was sent."""
    deadline_at: datetime | None = None
    """``sent_at`` of the present attempt plus the agent's total timeout."""
    remote_url: str | None = None
    """Where to poll, after a 202."""
    reply: Any = None
    """The agent's ``output``, once succeeded."""
    error_code: str | None = None
    error: str | None = None
    finished_at: datetime | None = None
    settled_by: str | None = None
    """The person whose word its outcome is; None where the agent's own counts."""
    due_at: datetime | None = None
    """Of a parallel one: when its doorbell is to be rung next; None while it is held back, and once it has ended."""
    parked: bool = False
    """Unknown, and only a person can say what became of it."""
    lost_leases: int = 0
    """Claims since its last commit whose lease ran out."""
    reply_token: str | None = None
    """What an agent that replies by an event shows that the reply is its own by."""
    told: Mapping[str, Any] | None = None
    """The reply that came as an event and that nobody has taken up yet, or ever did."""
    cleared_at: datetime | None = None
    """When a look-up or a person said that it had never reached its agent."""

    @property
    def told_by(self) -> tuple[Literal["agent", "person"], str]:
        """Who the reply comes from, as the origin of the values in it."""
        return ("agent", self.agent) if self.settled_by is None else ("person", self.settled_by)

    @property
    def ref(self) -> str:
        """How history, prompts and ``record`` name it: ``{step}.{index}``."""
        return f"{self.step}.{self.index}"

    @property
    def is_closed(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state.is_settled or self.parked


# What one exchange with an agent can end in. `AgentClient` returns exactly one of these and raises nothing for them.


class Replied(Value, frozen=True):
    """The agent did it; ``output`` fits its output_schema."""

    output: Any


class StillRunning(Value, frozen=True):
    """202, or a poll or look-up that says: not yet.

    ``remote_url`` is where to ask (absolute, same origin as the agent's own URL); ``retry_after`` in seconds.
    """

    remote_url: str | None
    retry_after: float


class NotDone(Value, frozen=True):
    """The agent certainly did not act, or says so itself.

    ``retryable``: away or busy (connection refused, 429, 503…), as against a refusal (4xx, failed).
    """

    code: str
    """`NOT_SENT`, ``agent_down``, ``agent_busy``, ``agent_rejected``, ``agent_failed``, ``reply_invalid``…"""
    detail: str
    retryable: bool = False
    retry_after: float | None = None


class OutcomeUnknown(Value, frozen=True):
    """The request may have been acted on and we do not know: reply lost, timed out, 5xx after sending."""

    code: str
    detail: str


class InputRequired(Value, frozen=True):
    """The agent has begun and asks a person something before it goes on (see `orchestrator.domain.question`)."""

    question: str
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    who: str | None = None
    answer_url: str | None = None
    """Where the answer goes, on the agent's own host; None: to the job's address."""
    remote_url: str | None = None
    """The job's address, where this answer names it."""


class NeverReceived(Value, frozen=True):
    """A look-up answered 404: the agent has never seen this key. Trusted only past the delegation's deadline."""


AgentOutcome = Replied | StillRunning | NotDone | OutcomeUnknown | InputRequired
LookupOutcome = AgentOutcome | NeverReceived
