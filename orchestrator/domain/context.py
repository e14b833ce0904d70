"""The context of a task: what is known, where each value came from, and the history of versions.

A version is a number; each holds the *changes* against the one before, so history grows linearly and any version can
be rebuilt by applying the changes in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from orchestrator.domain.field_schema import field_problem
from orchestrator.domain.value import Value, field, replace

OriginKind = Literal["message", "event", "agent", "person", "undo"]


class Origin(Value, frozen=True):
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


class Change(Value, frozen=True):
    """One field set to a value, or removed (going back to an earlier version)."""

    field: str
    value: Any
    origin: Origin
    removed: bool = False
    refused: str | None = None
    """Why it did not change the field all the same: kept, so that people see what else was said."""


def has_value(value: Any) -> bool:
    """Whether a value fills a field: anything but null and the empty string."""
    return value is not None and value != ""


class Context(Value, frozen=True):
    """An immutable snapshot of what a task knows."""

    version: int
    required_fields: tuple[str, ...]
    collected_data: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    field_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON Schemas of required fields that have one."""

    @property
    def missing_fields(self) -> tuple[str, ...]:
        """Required fields without a value that fits, in their order."""
        known = self.known_data
        return tuple(name for name in self.required_fields if not has_value(known.get(name)))

    @property
    def field_problems(self) -> Mapping[str, str]:
        """Why a value that is there does not fill its field, by field."""
        if not self.field_schemas:
            return {}
        found = {name: self.problem_of(name, self.collected_data.get(name)) for name in self.field_schemas}
        return {name: problem for name, problem in found.items() if problem is not None}

    @property
    def known_data(self) -> Mapping[str, Any]:
        """What is known and may be built on: the collected data without values that do not fit their fields."""
        problems = self.field_problems
        if not problems:
            return self.collected_data
        return {name: value for name, value in self.collected_data.items() if name not in problems}

    def problem_of(self, name: str, value: Any) -> str | None:
        """Why a value would not fill a field; None: it would, or it is none at all."""
        schema = self.field_schemas.get(name)
        return None if schema is None or not has_value(value) else field_problem(schema, value)

    @property
    def is_complete(self) -> bool:
        """Whether every required field has a value; False where none is required (only ``finish`` ends such a task)."""
        return bool(self.required_fields) and not self.missing_fields

    def apply(self, changes: Iterable[Change]) -> Context:
        """The next version: these changes on top, those refused left out. No changes: the same context."""
        changes = tuple(changes)
        if not changes:
            return self
        data, origins = dict(self.collected_data), dict(self.origins)
        for change in changes:
            if change.refused is not None:
                continue
            if change.removed:
                data.pop(change.field, None)
                origins.pop(change.field, None)
            else:
                data[change.field] = change.value
                origins[change.field] = change.origin
        return Context(self.version + 1, self.required_fields, data, origins, self.field_schemas)

    def admit(self, change: Change) -> Change:
        """The change, refused where two givers disagree and the value that is there has to stand.

        A value that fits its field is not replaced by one that does not, and what a person said only by a person. In
        all other cases the later one counts. Removing (going back) is never refused.
        """
        present = self.collected_data.get(change.field)
        if change.removed or not has_value(present) or present == change.value:
            return change
        problem = self.problem_of(change.field, change.value)
        if problem is not None and self.problem_of(change.field, present) is None:
            return replace(change, refused=f"it does not fit the field: {problem}")
        origin = self.origins.get(change.field)
        if origin is not None and origin.kind == "person" and change.origin.kind != "person":
            return replace(change, refused=f"{origin.name} has set the field by hand")
        return change

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


def rebuild(
    required_fields: tuple[str, ...],
    history: Iterable[Iterable[Change]],
    field_schemas: Mapping[str, Mapping[str, Any]] | None = None,
) -> Context:
    """The context after applying each version's changes in order, starting from nothing (version 0)."""
    context = Context(0, required_fields, field_schemas=field_schemas or {})
    for changes in history:
        applied = context.apply(changes)
        # A version without changes still counts: numbers name rows of the history.
        context = replace(applied, version=context.version + 1)
    return context


class Conflict(Value, frozen=True):
    """Two givers said different things of one field: which value stands, and which does not."""

    field: str
    kept: Any
    kept_from: Origin
    other: Any
    other_from: Origin
    why: str
    """Why the other does not stand."""


def conflicts_of(history: Iterable[Iterable[Change]]) -> tuple[Conflict, ...]:
    """Where givers disagreed, oldest first. One giver that says something new of its own field is no conflict."""
    stands: dict[str, Change] = {}
    found: list[Conflict] = []
    for change in (one for changes in history for one in changes):
        before = stands.get(change.field)
        disagree = (
            before is not None
            and not change.removed
            and has_value(before.value)
            and before.value != change.value
            and (before.origin.kind, before.origin.name) != (change.origin.kind, change.origin.name)
        )
        if disagree and before is not None:
            kept, other = (before, change) if change.refused is not None else (change, before)
            why = change.refused or "the later one counts"
            found.append(Conflict(change.field, kept.value, kept.origin, other.value, other.origin, why))
        if change.removed:
            stands.pop(change.field, None)
        elif change.refused is None:
            stands[change.field] = change
    return tuple(found)
