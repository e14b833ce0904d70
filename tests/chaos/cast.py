"""Who plays: the agents and what they answer, the tasks and what each must have found out at its end. Pure.

Every value is a function of the task's ``order``, so the right context of a task is known before it has begun.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What an agent promises about calls that come twice."""

    PURE = "pure"
    """No side effects."""
    KEYED = "keyed"
    """Honours idempotency keys."""
    LOOKUP = "lookup"
    """Acts each time it is called, but tells what became of a key."""
    BARE = "bare"
    """Acts each time it is called, and tells nothing."""


@dataclass(frozen=True, slots=True)
class Role:
    """An agent: it needs fields of the context and provides one."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    provides: str
    job: bool = False
    """Answers 202 and is polled."""
    refuses: bool = False
    """Answers 422, always: its task fails, and what the others did is undone."""
    asks: bool = False
    """Its job asks a person something before it goes on."""
    approval: bool = False
    """A person must approve each call."""
    by_event: bool = False
    """Replies by an event."""
    cancels: bool = False
    """Its jobs can be canceled."""

    def value(self, inputs: Mapping[str, Any]) -> str:
        """What it finds out: the same for the same inputs, and for no others."""
        text = json.dumps({name: inputs[name] for name in self.needs}, sort_keys=True)
        return f"{self.provides} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


ROLES = (
    Role("catalogue", Kind.PURE, ("order",), "reference"),
    Role("booker", Kind.KEYED, ("reference",), "booking"),
    Role("payer", Kind.LOOKUP, ("booking",), "payment"),
    Role("poster", Kind.BARE, ("reference",), "letter"),
    Role("shipper", Kind.KEYED, ("booking",), "shipment", job=True, cancels=True),
    Role("inspector", Kind.LOOKUP, ("order",), "inspection", job=True, cancels=True),
    Role("painter", Kind.LOOKUP, ("order",), "colour", job=True, asks=True),
    Role("tailor", Kind.KEYED, ("reference",), "cloth", job=True, asks=True),
    Role("signer", Kind.KEYED, ("reference",), "signature", approval=True),
    Role("surveyor", Kind.KEYED, ("order",), "survey", by_event=True),
    Role("clerk", Kind.KEYED, ("payment", "approval"), "receipt"),
    Role("judge", Kind.PURE, ("payment", "shipment"), "verdict", refuses=True),
)
UNDOING = tuple(
    Role(f"{role.name}/undo", role.kind, (role.provides,), "undone")
    for role in ROLES
    # A job that asks is not told of an undo, and its question would stand for ever.
    if role.kind in {Kind.KEYED, Kind.LOOKUP} and not role.asks
)
"""Takes back what the agent before the slash did."""
BY_NAME: Mapping[str, Role] = {role.name: role for role in (*ROLES, *UNDOING)}
_BY_FIELD: Mapping[str, Role] = {role.provides: role for role in ROLES}

CHOICES = ("red", "green")
"""What may be answered to an agent that asks."""

EVENT = "order.approved"


@dataclass(frozen=True, slots=True)
class Template:
    """A sort of task, and how often it comes among others."""

    name: str
    required: tuple[str, ...]
    weight: int
    doomed: bool = False
    """It fails, and says ``on_failure: undo``."""
    overdue: bool = False
    """What it waits for never comes, and it has a deadline."""
    undoable: bool = True
    """Everything that its agents do can be taken back."""


TEMPLATES = (
    Template("look", ("reference",), 2),
    Template("book", ("booking",), 3),
    Template("pay", ("payment",), 4),
    Template("post", ("letter",), 2, undoable=False),
    Template("ship", ("shipment",), 3),
    Template("inspect", ("inspection",), 2),
    Template("wide", ("inspection", "payment", "shipment"), 4),
    Template("mixed", ("letter", "shipment", "inspection"), 2, undoable=False),
    Template("receipt", ("receipt",), 4),
    Template("doomed", ("verdict",), 2, doomed=True),
    Template("ask", ("colour", "cloth"), 3, undoable=False),
    Template("sign", ("signature",), 3),
    Template("survey", ("survey", "booking"), 3),
    Template("overdue", ("approval",), 1, overdue=True),
)


BY_TEMPLATE: Mapping[str, Template] = {template.name: template for template in TEMPLATES}


def describe(template: Template, order: str) -> str:
    """A task's description."""
    return f"{template.name} for order {order}"


def template_of(description: str) -> Template:
    """The template of a task with this description."""
    return BY_TEMPLATE[description.split(" ", 1)[0]]


def approval_of(order: str) -> str:
    """What the event of this order brings."""
    return f"approval of {order}"


def expected(order: str, required: Sequence[str]) -> dict[str, str]:
    """Everything that a task of this order knows once its required fields are there."""
    known = {"order": order}
    for name in required:
        _find_out(name, known)
    return known


def _find_out(name: str, known: dict[str, str]) -> None:
    if name in known:
        return
    if name == "approval":
        known[name] = approval_of(known["order"])
        return
    role = _BY_FIELD[name]
    for need in role.needs:
        _find_out(need, known)
    known[name] = role.value(known)


def answer_of(task_id: str) -> str:
    """What a person answers to an agent of this task that asks."""
    return CHOICES[_draw(task_id) % len(CHOICES)]


def approves(task_id: str) -> bool:
    """Whether a person approves what this task wants to have done."""
    return _draw(task_id) % 4 != 0


def _draw(task_id: str) -> int:
    return int(hashlib.sha256(task_id.encode()).hexdigest(), 16)


def agents_yaml(base_url: str, total: float) -> dict[str, Any]:
    """The registry. ``total`` is each agent's time-out in seconds."""
    return {"agents": [_entry(role, base_url, total) for role in ROLES]}


def _entry(role: Role, base_url: str, total: float) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": role.name,
        "description": f"Provides {role.provides} from {', '.join(role.needs)}.",
        "protocol": "http",
        "url": f"{base_url}/{role.name}",
        "requires": list(role.needs),
        "provides": [role.provides],
        "input_schema": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in role.needs},
            "required": list(role.needs),
        },
        "output_schema": {
            "type": "object",
            "properties": {role.provides: {"type": "string"}},
            "required": [role.provides],
        },
        "side_effects": role.kind is not Kind.PURE,
        "idempotent": role.kind is Kind.KEYED,
        "timeout": {"connect": 2.0, "read": total, "total": total},
        "requires_approval": role.approval,
        "reply": "event" if role.by_event else "http",
        # Generous: that an agent stays away for good is another matter than that nothing is lost.
        "retry": {"max_attempts": 50, "base_delay": 0.2, "max_delay": 2.0},
    }
    if role.cancels:
        entry["cancel"] = "location"
        entry["timeout"]["total"] = 2 * total
    if role.by_event:
        # Kafka may be away; the reply is not lost by that.
        entry["timeout"]["total"] = 10 * total
    if role.kind is Kind.LOOKUP:
        entry["lookup"] = {"url": f"{base_url}/{role.name}/replies/{{key}}"}
    if f"{role.name}/undo" in BY_NAME:
        entry["compensate"] = {
            "url": f"{base_url}/{role.name}/undo",
            "input": {role.provides: f"/reply/{role.provides}"},
            "idempotent": role.kind is Kind.KEYED,
        }
        if role.kind is Kind.LOOKUP:
            entry["compensate"]["lookup"] = {"url": f"{base_url}/{role.name}/undo/replies/{{key}}"}
    return entry


def events_yaml() -> dict[str, Any]:
    """The event types."""
    return {
        "events": [
            {
                "name": EVENT,
                "description": "Somebody approved the order.",
                "schema": {
                    "type": "object",
                    "properties": {"approval": {"type": "string"}},
                    "required": ["approval"],
                },
                "fills": {"approval": "/approval"},
            }
        ]
    }
