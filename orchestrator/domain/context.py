"""The context of a task: what is known, where each value came from, and the history of versions.

A version is a number; each holds the *changes* against the one before, so history grows linearly and any version can
be rebuilt by applying the changes in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

OriginKind = Literal["message", "event", "agent", "person", "undo"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gave a value: the task's own message, an event, an agent or a person; never the model alone."""

    kind: OriginKind
    name: str
    """Agent's name, event type, person, or ``event_data`` for the task's message."""
    at: datetime
    step: int | None = None
    delegation: str | None = None
    """Idempotency key of the delegation whose reply holds the value."""
    pointer: str | None = None
    """Where in the reply or event the value stood."""
    quote: str | None = None
    """The passage it was extracted from, where the planner recorded it from text."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field set to a value, or removed (going back to an earlier version)."""

    field: str
    value: Any
    origin: Origin
    removed: bool = False


def has_value(value: Any) -> bool:
    """Whether a value fills a field: anything but null and the empty string."""
    return value is not None and value != ""


@dataclass(frozen=True, slots=True)
class Context:
    """An immutable snapshot of what a task knows."""

    version: int
    required_fields: tuple[str, ...]
    collected_data: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def missing_fields(self) -> tuple[str, ...]:
        """Required fields without a value yet, in their order."""
        return tuple(name for name in self.required_fields if not has_value(self.collected_data.get(name)))

    @property
    def is_complete(self) -> bool:
        """Whether every required field has a value; False where none is required (only ``finish`` ends such a task)."""
        return bool(self.required_fields) and not self.missing_fields

    def apply(self, changes: Iterable[Change]) -> Context:
        """The next version: these changes on top; the last writer of a field wins. No changes: the same context."""
        changes = tuple(changes)
        if not changes:
            return self
        data, origins = dict(self.collected_data), dict(self.origins)
        for change in changes:
            if change.removed:
                data.pop(change.field, None)
                origins.pop(change.field, None)
            else:
                data[change.field] = change.value
                origins[change.field] = change.origin
        return Context(self.version + 1, self.required_fields, data, origins)

    def changes_to(self, target: Context, origin: Origin) -> tuple[Change, ...]:
        """The changes that lead from this context to ``target``'s data; unchanged fields keep out of it."""
        removed = [
            Change(name, None, origin, removed=True)
            for name in self.collected_data
            if name not in target.collected_data
        ]
        changed = [
            Change(name, value, target.origins.get(name, origin))
            for name, value in target.collected_data.items()
            if name not in self.collected_data or self.collected_data[name] != value
        ]
        return (*removed, *changed)


def rebuild(required_fields: tuple[str, ...], history: Iterable[Iterable[Change]]) -> Context:
    """The context after applying each version's changes in order, starting from nothing (version 0)."""
    context = Context(0, required_fields)
    for changes in history:
        applied = context.apply(changes)
        # A version without changes still counts: numbers name rows of the history.
        context = Context(context.version + 1, required_fields, applied.collected_data, applied.origins)
    return context
