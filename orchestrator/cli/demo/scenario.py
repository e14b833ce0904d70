"""The sample scenario: its messages, produced to Kafka under task ids of this run's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestrator.kafka.producer import produce
from orchestrator.settings import Settings


@dataclass(frozen=True, slots=True)
class Scenario:
    """Messages to produce.

    A data folder is kept between runs, so each run's task ids get a suffix: a repeated task would be a duplicate.
    """

    settings: Settings
    tasks: tuple[Mapping[str, Any], ...]
    events: tuple[Mapping[str, Any], ...]

    @classmethod
    def load(cls, examples: Path, settings: Settings, suffix: str = "") -> Scenario:
        """Read the scenario's files; ``suffix`` is put behind every task id."""

        def read(name: str) -> tuple[Mapping[str, Any], ...]:
            items = json.loads((examples / "scenarios" / name).read_text(encoding="utf-8"))
            return tuple({**item["value"], "task_id": item["value"]["task_id"] + suffix} for item in items)

        tasks = (*read("supplier-onboarding.json"), *read("supplier-undone.json"))
        return cls(settings, tasks, read("supplier-approved.json"))

    @property
    def task_ids(self) -> list[str]:
        """In the order in which they are produced."""
        return [str(task["task_id"]) for task in self.tasks]

    @property
    def meant_to_fail(self) -> frozenset[str]:
        """Tasks that show how a failure is undone."""
        return frozenset(str(task["task_id"]) for task in self.tasks if task.get("on_failure") == "undo")

    def produce_tasks(self, console: Console) -> None:
        """Produce every task message, keyed by its task id."""
        for task in self.tasks:
            self._produce("tasks", task)
            console.print(f"  [cyan]{escape(task['task_id'])}[/]  {escape(task['task_description'])}", soft_wrap=True)
            console.print(f"  [dim]needs {escape(', '.join(task['required_fields']))}[/]", soft_wrap=True)
        console.print()

    def produce_events_for(self, task_id: str, tell: Callable[[str], None]) -> None:
        """Produce the events of one task."""
        for event in self.events:
            if event["task_id"] == task_id:
                self._produce("events", event)
                tell(f"the event {event['event_type']!r} is produced to the Kafka topic `events`")

    def _produce(self, kind: Any, message: Mapping[str, Any]) -> None:
        body = json.dumps(message, ensure_ascii=False).encode()
        produce(self.settings, self.settings.topic(kind), str(message["task_id"]).encode(), body)
