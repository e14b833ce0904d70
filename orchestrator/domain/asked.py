"""What the planner was asked for one decision: enough to put the very same question again, later and elsewhere.

A step keeps numbers and digests (`Asked`). The agents and event types on offer (`Offer`) are kept once for each content
that they ever had: agents.yaml may change under a task, and then a step still tells what it chose among.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.by_identity import ByIdentity
from orchestrator.domain.event_type import EventType
from orchestrator.domain.ids import digest
from orchestrator.domain.value import Value

Entry = Mapping[str, Any]
"""The JSON form of an agent, an event type or an offer, as it is kept under its digest."""

AS_WRITTEN = "as_written"
"""Key of an entry under which it stands once more as text."""

_DIGEST_CHARS = 16
_WAITING = ("timeout_seconds", "on_timeout", "timeout_code")
"""What an event type says of waits for it, where it says something."""


class Offer(Value, frozen=True, dict=True):
    """The agents and event types that a planner could choose among, in their order."""

    agents: tuple[AgentSpec, ...] = ()
    event_types: tuple[EventType, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The digest of its content."""
        return _short_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Digests only: each agent and event type is an entry of its own."""
        return {
            "agents": [_digest_of(agent)[0] for agent in self.agents],
            "event_types": [_digest_of(event_type)[0] for event_type in self.event_types],
        }

    def entries(self) -> dict[str, Entry]:
        """Everything to keep for it, by digest: itself, its agents, its event types."""
        agents = dict(_digest_of(agent) for agent in self.agents)
        event_types = dict(_digest_of(event_type) for event_type in self.event_types)
        return {**agents, **event_types, self.digest: self.to_json()}

    @classmethod
    def from_json(cls, data: Entry, entries: Mapping[str, Entry]) -> Offer:
        """The inverse of `to_json`; what is not among ``entries`` any more is left out."""
        agents = (agent_of(entries[key]) for key in data["agents"] if key in entries)
        event_types = (event_type_of(entries[key]) for key in data["event_types"] if key in entries)
        return cls(tuple(agents), tuple(event_types))


_offers = ByIdentity[Offer](most=256)


def offer_of(agents: Sequence[AgentSpec], event_types: Sequence[EventType]) -> Offer:
    """The offer of these; of the very same ones the same again, so that its digest is made once."""
    return _offers.of((*agents, None, *event_types), lambda: Offer(tuple(agents), tuple(event_types)))


class Asked(Value, frozen=True):
    """The question of one step, as its last answer was given to it."""

    context_version: int
    """The context that was shown, and …"""
    merged: int
    """… how many changes of the version after it (events that had just come) were on top of it."""
    steps: tuple[int, ...]
    """Numbers of the earlier steps that were shown."""
    offer: str
    """Digest of the `Offer`."""
    wait_timed_out: bool = False
    complaints: tuple[str, ...] = ()
    """What was wrong with the answers before."""

    def to_json(self) -> dict[str, Any]:
        """The form kept in ``steps.asked``; runs of step numbers are ranges, so that it does not grow with them."""
        return {
            "context_version": self.context_version,
            "merged": self.merged,
            "steps": [list(run) for run in _runs(self.steps)],
            "offer": self.offer,
            "wait_timed_out": self.wait_timed_out,
            "complaints": list(self.complaints),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Asked:
        """The inverse of `to_json`."""
        return cls(
            context_version=data["context_version"],
            merged=data["merged"],
            steps=tuple(number for first, last in data["steps"] for number in range(first, last + 1)),
            offer=data["offer"],
            wait_timed_out=data["wait_timed_out"],
            complaints=tuple(data["complaints"]),
        )


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


# -- agents and event types as entries: what a decision can depend on, and no address or secret's name ---------------


def agent_to_json(agent: AgentSpec) -> dict[str, Any]:
    """An agent as it was on offer."""
    return {
        "kind": "agent",
        "name": agent.name,
        "description": agent.description,
        "input_schema": agent.input_schema,
        "output_schema": agent.output_schema,
        "provides": dict(agent.provides),
        "requires": dict(agent.requires),
        "side_effects": agent.side_effects,
        "idempotent": agent.idempotent,
        "requires_approval": agent.requires_approval,
    }


def agent_of(entry: Entry) -> AgentSpec:
    """The inverse of `agent_to_json`; it has no address, so it cannot be called."""
    entry = _in_order(entry)
    known = {name: value for name, value in entry.items() if name not in {"kind", "name", "description"}}
    return AgentSpec(entry["name"], entry["description"], "", **known)


def event_type_to_json(event_type: EventType) -> dict[str, Any]:
    """An event type as it was on offer."""
    return {
        "kind": "event_type",
        "name": event_type.name,
        "description": event_type.description,
        "schema": event_type.schema,
        "fills": None if event_type.fills is None else dict(event_type.fills),
        **({"match": dict(event_type.match)} if event_type.match else {}),
        **{name: value for name in _WAITING if (value := getattr(event_type, name)) is not None},
    }


def event_type_of(entry: Entry) -> EventType:
    """The inverse of `event_type_to_json`."""
    entry = _in_order(entry)
    times = {name: entry.get(name) for name in _WAITING}
    return EventType(
        entry["name"], entry["description"], entry["schema"], entry["fills"], match=entry.get("match", {}), **times
    )


_digests = ByIdentity[tuple[str, Entry]](most=4096)


def _digest_of(part: AgentSpec | EventType) -> tuple[str, Entry]:
    return _digests.of((part,), lambda: _as_entry(part))


def _as_entry(part: AgentSpec | EventType) -> tuple[str, Entry]:
    entry = agent_to_json(part) if isinstance(part, AgentSpec) else event_type_to_json(part)
    written = json.dumps(entry, ensure_ascii=False)
    return _short_digest(written), {**entry, AS_WRITTEN: written}


def _in_order(entry: Entry) -> Entry:
    """The entry with its keys in their own order, which a prompt shows and ``jsonb`` does not keep."""
    if AS_WRITTEN not in entry:
        return entry
    written: Entry = json.loads(entry[AS_WRITTEN])
    return written


def _short_digest(entry: Any) -> str:
    return digest(entry)[:_DIGEST_CHARS]


def offers_of(digests: Sequence[str], entries: Mapping[str, Entry]) -> dict[str, Offer]:
    """The offers of these digests, as far as ``entries`` has them."""
    return {key: Offer.from_json(entries[key], entries) for key in digests if key in entries}
