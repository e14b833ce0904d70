"""A decision: the validated choice of the planner for one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.value import Value, field


class DecisionKind(JournalValue):
    """What a step is to do."""

    CALL = "call"
    """Delegate to one or several agents."""
    RECORD = "record"
    """Fill fields from replies already there."""
    FINISH = "finish"
    WAIT_FOR_EVENT = "wait_for_event"
    ASK_HUMAN = "ask_human"
    FAIL = "fail"


class AgentCall(Value, frozen=True):
    """One delegation that the planner wants."""

    agent: str
    arguments: Mapping[str, Any]
    task: str = ""
    """What the agent is to do, in words."""


class FieldRecord(Value, frozen=True):
    """Fill ``field`` from the reply of an earlier delegation.

    Either ``pointer`` says where in the reply's output the value stands, or ``value`` was extracted from text and
    ``quote`` is the passage, which must stand in the reply and hold the value.
    """

    field: str
    delegation: str
    """Reference of the delegation, as in the history: ``{step}.{index}``."""
    pointer: str | None = None
    value: Any = None
    quote: str | None = None


class Usage(Value, frozen=True):
    """What a decision cost. ``cost`` is in US dollars where a price is known, else None; ``seconds`` is latency."""

    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    seconds: float = 0.0
    prompt_version: str = ""
    answers: int = 1
    """How many answers it took, bad ones included."""


class Decision(Value, frozen=True):
    """The choice for one step, with its reason in the planner's own words."""

    kind: DecisionKind
    reason: str
    usage: Usage
    calls: tuple[AgentCall, ...] = ()
    records: tuple[FieldRecord, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a control tool was given: see `orchestrator.domain.wait` and `orchestrator.domain.question`; ``code`` of a
    failure."""

    why_asked: str = ""
    """Why a model was asked where rules decide what leaves no choice; empty where nobody had to say."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form kept in ``steps.decision`` (usage is in columns of its own)."""
        return {
            **({"why_asked": self.why_asked} if self.why_asked else {}),
            "kind": self.kind.value,
            "reason": self.reason,
            "calls": [{"agent": c.agent, "arguments": dict(c.arguments), "task": c.task} for c in self.calls],
            "records": [
                {"field": r.field, "delegation": r.delegation, "pointer": r.pointer, "value": r.value, "quote": r.quote}
                for r in self.records
            ],
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], usage: Usage) -> Decision:
        """The inverse of `to_json`."""
        return cls(
            kind=DecisionKind(data["kind"]),
            reason=data["reason"],
            usage=usage,
            calls=tuple(AgentCall(c["agent"], c["arguments"], c.get("task", "")) for c in data.get("calls", ())),
            records=tuple(
                FieldRecord(r["field"], r["delegation"], r.get("pointer"), r.get("value"), r.get("quote"))
                for r in data.get("records", ())
            ),
            details=data.get("details", {}),
            why_asked=data.get("why_asked", ""),
        )
