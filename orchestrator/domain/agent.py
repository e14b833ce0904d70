"""An agent as the registry knows it: what it does, needs and gives, and how it may be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.value import Value, field, replace


class AgentTimeout(Value, frozen=True):
    """Seconds: to connect, between two bytes, and from the first call to the last word of a delegation."""

    connect: float = 3.0
    read: float = 30.0
    total: float = 60.0


class AgentAuth(Value, frozen=True):
    """How we show who we are; ``env`` names the setting that holds the secret, never the secret itself.

    ``basic`` expects ``user:password`` in it; ``header`` puts the value into the header named by ``header``.
    """

    type: Literal["bearer", "basic", "header"]
    env: str
    header: str = "Authorization"


class AgentLimits(Value, frozen=True):
    """Bounds shared by all workers; None: no bound."""

    max_concurrency: int | None = None
    rate: float | None = None
    """Calls a second."""


class AskingRules(Value, frozen=True):
    """Who is asked, and what happens while nobody answers; times in seconds."""

    who: str | None = None
    timeout: float | None = None
    escalate_to: str | None = None
    escalate_after: float | None = None


class Compensate(Value, frozen=True):
    """How a completed delegation of an agent is undone: one more call, to an address of its own."""

    url: str
    input: Mapping[str, str] = field(default_factory=lambda: {"arguments": "/arguments", "reply": "/reply"})
    """Input name → JSON pointer into ``{"arguments", "reply", "key", "task_id"}`` of the delegation."""
    idempotent: bool = False
    """Whether a repeated Idempotency-Key is answered with the first reply, undoing nothing twice."""
    lookup: str | None = None
    timeout: AgentTimeout | None = None
    """None: the agent's own."""
    retry: RetryPolicy | None = None
    """None: the agent's own."""


class CancelRules(Value, frozen=True):
    """How a call that is under way is canceled at its agent."""

    url: str | None = None
    """Where to ``POST``, with ``{key}`` for the call's idempotency key; None: ``DELETE`` of its job's Location."""


class AgentSpec(Value, frozen=True):
    """One entry of agents.yaml."""

    name: str
    description: str
    url: str
    protocol: str = "http"
    input_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    output_schema: Mapping[str, Any] | None = None
    provides: Mapping[str, str] = field(default_factory=dict)
    """Context field → JSON pointer into the reply's output."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """Input name → JSON pointer into ``collected_data`` (``/field``)."""
    side_effects: bool = True
    idempotent: bool = False
    """Whether a repeated Idempotency-Key is answered with the first reply and no second effect."""
    lookup: str | None = None
    """URL with ``{key}`` for asking what became of a delegation."""
    timeout: AgentTimeout = AgentTimeout()
    retry: RetryPolicy = RetryPolicy()
    auth: AgentAuth | None = None
    health: str | None = None
    limits: AgentLimits = AgentLimits()
    compensate: Compensate | None = None
    cancel: CancelRules | None = None
    """None: a call that is under way is never canceled."""
    requires_approval: bool = False
    """Whether a person must approve each call before it is made."""
    approval: AskingRules = AskingRules()
    questions: AskingRules = AskingRules()
    """Of what it asks back while it works; whom it names itself comes before ``who``."""
    reply: Literal["http", "event"] = "http"
    """How it answers: in the HTTP exchange (or a job to poll), or by an event on Kafka later."""
    enabled: bool = True
    max_reply_bytes: int = 1_000_000

    @property
    def may_repeat(self) -> bool:
        """Whether a call whose outcome is unknown may be sent again under the same key."""
        return self.idempotent or not self.side_effects

    def as_undo(self) -> AgentSpec | None:
        """The agent as it is called to undo what it did; None where it cannot."""
        if self.compensate is None:
            return None
        return replace(
            self,
            url=self.compensate.url,
            output_schema=None,
            cancel=None,
            reply="http",
            side_effects=True,
            idempotent=self.compensate.idempotent,
            lookup=self.compensate.lookup,
            timeout=self.compensate.timeout or self.timeout,
            retry=self.compensate.retry or self.retry,
        )

    def required_context_fields(self) -> tuple[str, ...]:
        """The context fields that must have a value before the agent can be called."""
        return tuple(dict.fromkeys(pointer.lstrip("/").split("/")[0] for pointer in self.requires.values()))
