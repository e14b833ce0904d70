"""Undo: the compensation of completed delegations, newest first; its values, and the pure rules of what is left to do.

A compensation is kept as a `Delegation` of its own (its key derived from that of the delegation that it undoes), so the
rules of sending, polling and looking up hold for it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import GoOn, Settlement
from orchestrator.domain.pointer import resolve
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.value import Value

NOT_KNOWN = "outcome_unknown"
"""Why a delegation was not undone: nobody but a person can tell whether it acted."""


UNDONE_BY_HAND = "undone_by_hand"
"""Code of a compensation that a person did themselves."""


def undo_key(key: str) -> str:
    """The idempotency key of the compensation of the delegation with this key."""
    return f"{key}:undo"


def compensation_input(places: Mapping[str, str], delegation: Delegation) -> dict[str, Any]:
    """The arguments of a compensation, taken from what is known of the delegation that it undoes.

    Raises:
        PointerError: a place holds nothing.
    """
    document = {
        "arguments": delegation.arguments,
        "reply": delegation.reply,
        "key": delegation.key,
        "task_id": delegation.task_id,
    }
    return {name: resolve(document, place) for name, place in places.items()}


class Undoing(Value, frozen=True):
    """A delegation that acted, or may have acted, on the world, and how far its undo is."""

    delegation: Delegation
    compensation: Delegation | None = None
    """``finished_at`` is set once it is done or given up."""
    canceling: bool = False
    """Whether its agent is still to be told that the call is not wanted any more."""

    @property
    def is_undone(self) -> bool:
        """Whether its compensation came through."""
        return self.compensation is not None and self.compensation.state is DelegationState.SUCCEEDED

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is tried: it is undone, or left to a person."""
        if self.compensation is None or self.compensation.finished_at is None:
            return False
        # A late reply or a person said what became of it: now it can be undone.
        found_out = self.compensation.error_code == NOT_KNOWN and self.delegation.state is DelegationState.SUCCEEDED
        return self.is_undone or not found_out

    @property
    def is_settled(self) -> bool:
        """Whether it is known that the delegation acted; others in here may have."""
        return self.delegation.state in {DelegationState.SUCCEEDED, DelegationState.COMPENSATED}


def newest_first(items: Iterable[Undoing]) -> list[Undoing]:
    """The order in which they are undone."""
    return sorted(items, key=lambda item: (item.delegation.step, item.delegation.index), reverse=True)


class Rest(Value, frozen=True):
    """The undo waits and frees its worker: for a call in flight, or until a compensation is tried again."""

    waits_for: WaitsFor
    due_at: datetime
    reason: str
    until_canceled: bool = False
    """Whether it rests because an agent is told to cancel: once none is any more it goes on at once."""


class Ended(Value, frozen=True):
    """Nothing is left to be tried: the task ends."""


class Begun(Value, frozen=True):
    """An intent: this compensation (of the delegation with ``key``) is about to be called with these arguments."""

    key: str
    arguments: Mapping[str, Any]
    deadline_at: datetime


class Tried(Value, frozen=True):
    """What became of a compensation's attempt; ``closed``: it is not tried again by itself."""

    key: str
    settlement: Settlement
    closed: bool


class Settled(Value, frozen=True):
    """What became of a delegation whose outcome was not known; ``settlement`` None: it is about to be sent again.

    Its state ``failed`` says that it certainly did not act.
    """

    key: str
    settlement: Settlement | None
    deadline_at: datetime | None = None


class UndoCommit(Value, frozen=True):
    """Everything that one fenced transaction of an undo writes. Empty parts write nothing."""

    then: GoOn | Rest | Ended
    settled: Settled | None = None
    begun: Begun | None = None
    tried: Tried | None = None


class UndoCommitted(Value, frozen=True):
    """What the store says after it."""

    state: TaskState
    items: Sequence[Undoing]
    """As they now are. A task that is still compensating after `Ended` has new ones: a late reply came in."""
    reason: str | None = None


def undo_report(undo: Mapping[str, Any], items: Iterable[Undoing]) -> dict[str, Any]:
    """What was undone and what was not, as updates and ``--json`` tell it; newest first.

    Args:
        undo: who asked for it, as kept with the task (see `orchestrator.store.undo_begin`).
        items: every delegation that acted or may have acted.
    """
    report: dict[str, Any] = {
        "asked_by": undo.get("asked"),
        "who": undo.get("who"),
        "why": undo.get("why"),
        "undone": [],
        "not_undone": [],
        "open": [],
    }
    for item in newest_first(items):
        line = {"delegation": item.delegation.ref, "agent": item.delegation.agent, "key": item.delegation.key}
        compensation = item.compensation
        if compensation is not None and item.is_undone:
            by_hand = {"by_hand": compensation.error} if compensation.error_code == UNDONE_BY_HAND else {}
            report["undone"].append({**line, "reply": compensation.reply, **by_hand})
        elif compensation is not None and item.is_closed:
            report["not_undone"].append(
                {**line, "reason_code": compensation.error_code, "reason": compensation.error or ""}
            )
        else:
            report["open"].append(line)
    return report


def undo_words(report: Mapping[str, Any]) -> str:
    """The report in one sentence, for the task's reason: ``undone: contract_draft (4.0); not undone: …``."""

    def names(lines: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(f"{line['agent']} ({line['delegation']})" for line in lines)

    parts = [f"undone: {names(report['undone'])}"] if report["undone"] else ["nothing was undone"]
    if report["not_undone"]:
        parts.append(f"left for a person: {names(report['not_undone'])}")
    return "; ".join(parts)
