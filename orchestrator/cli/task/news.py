"""What is new about a task since the last look: pure comparison of snapshots, for `task watch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from orchestrator.cli.shapes import delegation_seconds, origin_json, step_seconds
from orchestrator.domain.context import Context
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.progress import doing, progress_of
from orchestrator.domain.task import Task
from orchestrator.flow.ports import OutboxRow

Event = Literal["state", "decided", "delegation", "step", "field", "progress"]


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened; ``data`` is what `--json` prints beside event, task_id and time."""

    event: Event
    at: datetime
    data: Mapping[str, Any]


class Watching:
    """Remembers what was told of one task, so that each thing is told once."""

    def __init__(self) -> None:
        self.last_update = 0
        """The id of the newest update seen: ask for those after it."""
        self._state: tuple[Any, ...] | None = None
        self._decided: set[int] = set()
        self._steps: dict[int, tuple[Any, ...]] = {}
        self._delegations: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._values: dict[str, Any] = {}
        self._progress: tuple[int, int] | None = None

    def look(
        self, task: Task, context: Context, history: Sequence[HistoryEntry], updates: Sequence[OutboxRow]
    ) -> list[News]:
        """Everything not told yet, in the order in which it happened as far as that is known."""
        steps = [news for entry in history for news in self._of_step(entry)]
        steps += self._of_fields(context)
        steps += self._of_progress(task, context, history)
        states = self._of_updates(updates)
        if not (task.state.is_terminal and states):
            # Updates may be cleared once published: the row itself has the last word.
            states += self._of_state(_state_of(task), task.updated_at)
        return sorted(steps + states, key=lambda news: news.at)

    def _of_progress(self, task: Task, context: Context, history: Sequence[HistoryEntry]) -> list[News]:
        """Once a look, however many have settled since the last; a step's single call is told by itself."""
        found = progress_of(task, context, history)
        told = (task.next_step, found.delegations_settled)
        if found.delegations < 2 or told == self._progress:
            return []
        self._progress = told
        return [News("progress", _now(), {"step": task.next_step, "doing": doing(task, history), **found.to_json()})]

    def _of_updates(self, updates: Sequence[OutboxRow]) -> list[News]:
        found: list[News] = []
        for row in updates:
            self.last_update = max(self.last_update, row.id)
            body = row.body
            if row.kind == "update":
                found += self._of_state(
                    {
                        "state": body.get("state"),
                        "step": body.get("step"),
                        "waits_for": body.get("waits_for"),
                        "reason_code": body.get("reason_code"),
                        "reason": body.get("reason"),
                        "missing_fields": body.get("missing_fields", []),
                    },
                    _moment(body.get("occurred_at")),
                )
        return found

    def _of_state(self, state: Mapping[str, Any], at: datetime) -> list[News]:
        # Moving from step to step is told by the steps themselves.
        told = (state["state"], state["waits_for"], state["reason"])
        if told == self._state:
            return []
        self._state = told
        return [News("state", at, state)]

    def _of_step(self, entry: HistoryEntry) -> list[News]:
        step, found = entry.step, []
        if step.decision is not None and step.number not in self._decided:
            self._decided.add(step.number)
            found.append(News("decided", step.decided_at or _now(), _decided(step)))
        found += [news for delegation in entry.delegations for news in self._of_delegation(delegation)]
        told = (step.state, step.attempts if step.state is StepState.FAILED else None, step.error)
        if step.state is not StepState.OPEN and self._steps.get(step.number) != told:
            found.append(News("step", step.finished_at or _now(), _ended(step)))
        self._steps[step.number] = told
        return found

    def _of_delegation(self, delegation: Delegation) -> list[News]:
        place = (delegation.step, delegation.index)
        told = (delegation.state, delegation.attempts, delegation.error)
        unsent = delegation.state is DelegationState.PENDING and not delegation.attempts
        if unsent or self._delegations.get(place) == told:
            return []
        self._delegations[place] = told
        settled = delegation.state not in {DelegationState.IN_FLIGHT, DelegationState.PENDING}
        at = delegation.finished_at if settled else delegation.sent_at
        return [
            News(
                "delegation",
                at or _now(),
                {
                    "ref": delegation.ref,
                    "agent": delegation.agent,
                    "state": delegation.state.value,
                    "attempts": delegation.attempts,
                    "seconds": delegation_seconds(delegation),
                    "error_code": delegation.error_code,
                    "error": delegation.error,
                },
            )
        ]

    def _of_fields(self, context: Context) -> list[News]:
        found = []
        for name, value in context.collected_data.items():
            if name in self._values and self._values[name] == value:
                continue
            self._values[name] = value
            origin = context.origins.get(name)
            data = {
                "field": name,
                "value": value,
                "required": name in context.required_fields,
                "origin": origin_json(origin),
                "missing_fields": list(context.missing_fields),
            }
            found.append(News("field", origin.at if origin else _now(), data))
        return found


def _state_of(task: Task) -> dict[str, Any]:
    return {
        "state": task.state.value,
        "step": task.next_step,
        "waits_for": task.waits_for.value if task.waits_for else None,
        "reason_code": task.reason_code,
        "reason": task.reason,
        "missing_fields": None,
    }


def _decided(step: Step) -> dict[str, Any]:
    decision = step.decision
    if decision is None:
        return {}
    return {
        "step": step.number,
        "kind": decision.kind.value,
        "agents": [call.agent for call in decision.calls],
        "reason": decision.reason,
        "details": dict(decision.details),
        "model": decision.usage.model,
        "seconds": decision.usage.seconds,
    }


def _ended(step: Step) -> dict[str, Any]:
    return {
        "step": step.number,
        "state": step.state.value,
        "seconds": step_seconds(step),
        "attempts": step.attempts,
        "error_code": step.error_code,
        "error": step.error,
    }


def _moment(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return _now()


def _now() -> datetime:
    return datetime.now(UTC)
