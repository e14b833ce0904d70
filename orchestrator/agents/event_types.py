"""events.yaml: which event types there are. Adding one is adding an entry; an unlisted type merges as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.agents.entry import Places, Schema
from orchestrator.agents.yaml_file import FileProblem, name_of, read_entries, report, validate
from orchestrator.domain.event_type import RESERVED, EventType
from orchestrator.domain.wait import MAX_WAIT_SECONDS, match_problem
from orchestrator.errors import EventTypesError

_HINT = "Mend it, then `orchestrator doctor`; docs/adding-an-event-type.md has every key."


Seconds = Annotated[float, Field(gt=0, le=MAX_WAIT_SECONDS)]


class EventEntry(BaseModel):
    """One entry as people write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200, pattern=r"^\S+$")
    description: str = Field("", max_length=4000)
    event_schema: Schema = Field(default_factory=lambda: {"type": "object"}, alias="schema")
    fills: Places | None = None
    match: dict[str, str] = Field(default_factory=dict)
    timeout: Seconds | None = None
    on_timeout: Literal["ask", "fail", "go_on"] | None = None
    timeout_code: str | None = Field(None, min_length=1, max_length=100)

    @model_validator(mode="after")
    def _fits_together(self) -> EventEntry:
        if self.name in RESERVED:
            raise ValueError(f"{self.name!r} is a type of the engine's own; choose another name")
        if self.timeout is None and (self.on_timeout is not None or self.timeout_code is not None):
            raise ValueError("on_timeout and timeout_code go with timeout")
        if self.timeout_code is not None and self.on_timeout != "fail":
            raise ValueError("timeout_code goes with on_timeout: fail")
        if problem := match_problem(self.match, self.event_type()):
            raise ValueError(problem)
        return self

    def event_type(self) -> EventType:
        """The entry as the flow knows it."""
        return EventType(
            self.name,
            self.description.strip(),
            self.event_schema,
            self.fills,
            self.match,
            self.timeout,
            self.on_timeout,
            self.timeout_code,
        )


class EventTypeRegistry:
    """The event types of one file, in its order. Implements `orchestrator.flow.ports.EventTypes`."""

    def __init__(self, event_types: Sequence[EventType] = ()) -> None:
        self._event_types = {event_type.name: event_type for event_type in event_types}

    @classmethod
    def load(cls, path: Path | None) -> EventTypeRegistry:
        """Read and check the file; None: there are no listed types.

        Raises:
            EventTypesError: naming every problem at once, each with its event type and key.
        """
        if path is None:
            return cls()
        try:
            entries = read_entries(path, "events")
        except FileProblem as error:
            raise EventTypesError(f"{path}: {error}", hint="ORCHESTRATOR_EVENTS names the file. " + _HINT) from error
        found: list[EventType] = []
        problems: list[str] = []
        names: set[str] = set()
        for position, entry in enumerate(entries, start=1):
            label = name_of(entry, position)
            model, wrong = validate(EventEntry, entry)
            problems += [f"event type {label}: {problem}" for problem in wrong]
            if isinstance(name := entry.get("name"), str) and name in names:
                problems.append(f"event type {label}: the name appears twice")
            names.add(str(entry.get("name")))
            if model is not None:
                found.append(model.event_type())
        if problems:
            raise EventTypesError(report(path, problems), hint=_HINT)
        return cls(found)

    def get(self, name: str | None) -> EventType | None:
        """The entry of this name, or None for an unlisted one."""
        return self._event_types.get(name) if name is not None else None

    def all(self) -> Sequence[EventType]:
        """All entries."""
        return tuple(self._event_types.values())
