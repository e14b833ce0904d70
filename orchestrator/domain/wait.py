"""Waiting for an event: which one ends the wait, and what follows where none does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import PendingEvent
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.question import OnTimeout
from orchestrator.domain.value import Value, field

MAX_MATCHES = 20
MAX_WAIT_SECONDS = 366 * 24 * 3600.0


class EventWait(Value, frozen=True):
    """A wait in force, as it stands in ``tasks.wait``."""

    step: int
    """The step that decided on it."""
    event_type: str | None = None
    """None: of any type."""
    match: Mapping[str, Any] = field(default_factory=dict)
    """JSON pointer into ``event_data`` → the value that must stand there."""
    until: datetime | None = None
    on_timeout: OnTimeout = OnTimeout.ASK
    timeout_code: str = "wait_timeout"

    @classmethod
    def begun(cls, details: Mapping[str, Any], step: int, at: datetime) -> EventWait:
        """The wait that a checked decision's details ask for."""
        seconds = details.get("timeout_seconds")
        return cls(
            step,
            details.get("event_type"),
            dict(details.get("match") or {}),
            None if seconds is None else at + timedelta(seconds=float(seconds)),
            OnTimeout(details.get("on_timeout") or OnTimeout.ASK),
            str(details.get("timeout_code") or "wait_timeout"),
        )

    @classmethod
    def in_force(cls, wait: Mapping[str, Any]) -> EventWait | None:
        """The wait that ``tasks.wait`` holds; None where it holds another, or none."""
        if not isinstance(wait.get("waits_since_step"), int):
            return None
        until = wait.get("until")
        return cls(
            wait["waits_since_step"],
            wait.get("event_type"),
            wait.get("match") or {},
            None if until is None else datetime.fromisoformat(until),
            OnTimeout(wait.get("on_timeout") or OnTimeout.ASK),
            wait.get("timeout_code") or "wait_timeout",
        )

    def to_json(self) -> dict[str, Any]:
        """The inverse of `in_force`; parts without a value are left out."""
        parts = {
            "waits_since_step": self.step,
            "event_type": self.event_type,
            "match": dict(self.match) or None,
            "until": None if self.until is None else self.until.isoformat(),
            "on_timeout": self.on_timeout.value,
            "timeout_code": self.timeout_code if self.on_timeout is OnTimeout.FAIL else None,
        }
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def is_for_some(self) -> bool:
        """Whether it says which event it wants: only then one that came earlier can be it."""
        return self.event_type is not None or bool(self.match)

    def is_over_at(self, moment: datetime) -> bool:
        """Whether its time has run out."""
        return self.until is not None and moment >= self.until

    def ended_by(self, events: Iterable[PendingEvent]) -> PendingEvent | None:
        """The first of these events that is the one waited for."""
        return next((event for event in events if self.fits(event)), None)

    def fits(self, event: PendingEvent) -> bool:
        """Whether this event ends the wait."""
        if self.event_type is not None and event.event_type != self.event_type:
            return False
        return all(_stands_at(event.event_data, pointer, value) for pointer, value in self.match.items())

    def words(self) -> str:
        """What is waited for, for people: ``the event payment.received with /order_id = "O-1"``."""
        kind = f"the event {self.event_type}" if self.event_type else "an event"
        places = " and ".join(f"{pointer} = {value!r}" for pointer, value in self.match.items())
        return f"{kind} with {places}" if places else kind


def _stands_at(data: Mapping[str, Any], pointer: str, value: Any) -> bool:
    try:
        found = resolve(data, pointer)
    except PointerError:
        return False
    # In Python True is 1; in JSON it is not.
    return isinstance(found, bool) == isinstance(value, bool) and bool(found == value)


def match_problem(match: Any, event_type: EventType | None) -> str | None:
    """Why a wait cannot be for an event with these values; None where it can."""
    if not isinstance(match, Mapping) or len(match) > MAX_MATCHES:
        return f"match must be an object of at most {MAX_MATCHES} places and values"
    for pointer, value in match.items():
        if not isinstance(pointer, str) or not pointer.startswith("/") or len(pointer) > 500:
            return f"match: {pointer!r} is no JSON pointer into event_data, such as /order/id"
        if isinstance(value, Mapping | list | tuple):
            return f"match: the value at {pointer} must be a text, a number, true, false or null"
        if event_type is not None and (known := _closed_properties(event_type)) is not None:
            name = pointer[1:].split("/")[0].replace("~1", "/").replace("~0", "~")
            if name not in known:
                return f"match: no event {event_type.name} has {pointer}; it has {', '.join(known)}"
    return None


def _closed_properties(event_type: EventType) -> list[str] | None:
    properties = event_type.schema.get("properties")
    if event_type.schema.get("additionalProperties") is not False or not isinstance(properties, Mapping):
        return None
    return list(properties)
