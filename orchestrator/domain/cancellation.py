"""Telling an agent that a call is not wanted any more: the values of it. One row a call, kept beside its delegation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from orchestrator.domain.delegation import Delegation, LookupOutcome
from orchestrator.domain.journal import Settlement
from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.value import Value


class CancelState(JournalValue):
    """How far it is."""

    TELLING = "telling"
    """The agent is to be told, or told again."""
    ASKING = "asking"
    """The agent was told; it is asked what became of the call."""
    CANCELED = "canceled"
    """The call was ended, and left nothing behind."""
    DONE = "done"
    """The call had come to an end of its own: that outcome counts."""
    REFUSED = "refused"
    """The agent does not cancel it, and cannot be asked what became of it."""
    UNKNOWN = "unknown"
    """The agent does not know the call, and nobody can tell what became of it."""
    GAVE_UP = "gave_up"
    """No answer that says what became of it came in time."""
    NOT_OFFERED = "not_offered"
    """Its entry in agents.yaml says nothing of cancel, or the call has no address yet: nothing was sent."""
    WITHDRAWN = "withdrawn"
    """The call is wanted again: a person retried the task."""

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self in {CancelState.TELLING, CancelState.ASKING}


class Cancellation(Value, frozen=True):
    """One row of ``cancellations``."""

    task_id: str
    step: int
    index: int
    agent: str
    key: str
    """Idempotency key of the call."""
    reason: str
    """Why the call is not wanted any more: the task's reason code, or ``undo``."""
    state: CancelState
    attempts: int
    """Exchanges with the agent so far, the present one included."""
    asked_at: datetime
    """When it was found that the call is not wanted."""
    error: str | None = None
    """What the agent said, or why it could not be told."""
    finished_at: datetime | None = None

    @property
    def ref(self) -> str:
        """The call as people name it: ``{step}.{index}``."""
        return f"{self.step}.{self.index}"


class CancelClaim(Value, frozen=True):
    """A cancellation in the hands of one worker."""

    cancellation: Cancellation
    delegation: Delegation
    """The call as it is now."""
    epoch: int
    """Fences what is written of this try."""
    under_way: bool
    """Whether a worker waits for the call's answer at this moment."""
    was_sent: bool = True
    """Whether the call has left, or may have."""


class Canceled(Value, frozen=True):
    """The agent ended the call, and nothing is left of it."""

    detail: str = ""


class NotCanceled(Value, frozen=True):
    """The agent does not end the call: it goes on, or the agent does not cancel at all."""

    detail: str


CancelOutcome = LookupOutcome | Canceled | NotCanceled
"""What an agent says to a cancel. `Replied` and the like: the call had come to this end before."""


class CancelVerdict(Value, frozen=True):
    """What to write of one try."""

    state: CancelState
    error: str | None = None
    due_at: datetime | None = None
    """When it goes on; None: it is closed, or goes on when its call moves."""
    settlement: Settlement | None = None
    """What became of the call, where that is known now, or where only a person can tell."""
    exchanged: bool = True
    """Whether the agent was talked to: only that counts as an attempt."""


def cancellations_report(cancellations: Iterable[Cancellation]) -> list[dict[str, Any]]:
    """As updates and ``--json`` tell them, in the order of the calls."""
    return [
        {
            "delegation": one.ref,
            "agent": one.agent,
            "key": one.key,
            "because": one.reason,
            "state": str(one.state),
            "detail": one.error,
            "attempts": one.attempts,
        }
        for one in sorted(cancellations, key=lambda one: (one.step, one.index))
    ]
