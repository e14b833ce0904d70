"""The business task, its states, and which state may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from orchestrator.domain.budget import Spent
from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.turns import urgency_of
from orchestrator.domain.value import Value, field, replace


class TaskState(JournalValue):
    """``current_state`` of a task; *paused* is a flag beside it."""

    RECEIVED = "received"
    PROCESSING = "processing"
    WAITING = "waiting"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended; only a person's retry or rerun moves it again."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED})


class WaitsFor(JournalValue):
    """What a waiting task waits for."""

    EVENT = "event"
    PERSON = "person"
    AGENT = "agent"
    RETRY = "retry"


class PartialFailure(JournalValue):
    """What becomes of a step of which some delegations failed for good."""

    ALL = "all"
    """Every one must succeed: any failure fails the step, after the others have settled."""
    ANY = "any"
    """One success suffices."""
    COLLECT = "collect"
    """The planner is told of the failures and decides on."""


_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.RECEIVED: frozenset({TaskState.PROCESSING, TaskState.CANCELED, TaskState.FAILED}),
    TaskState.PROCESSING: frozenset(
        {
            TaskState.PROCESSING,
            TaskState.WAITING,
            TaskState.COMPENSATING,
            TaskState.COMPLETED,
            TaskState.FAILED,
            TaskState.CANCELED,
        }
    ),
    TaskState.WAITING: frozenset(
        {TaskState.PROCESSING, TaskState.COMPENSATING, TaskState.CANCELED, TaskState.FAILED, TaskState.WAITING}
    ),
    TaskState.COMPENSATING: frozenset({TaskState.COMPENSATING, TaskState.FAILED, TaskState.CANCELED}),
    # A person's retry or rerun opens an ended task again; a person's undo undoes it.
    TaskState.COMPLETED: frozenset({TaskState.PROCESSING, TaskState.COMPENSATING}),
    TaskState.FAILED: frozenset({TaskState.PROCESSING, TaskState.COMPENSATING}),
    TaskState.CANCELED: frozenset({TaskState.PROCESSING, TaskState.COMPENSATING}),
}


def may_move(old: TaskState, new: TaskState) -> bool:
    """Whether a task in state ``old`` may go to state ``new``."""
    return new in _MOVES[old]


def states_before(new: TaskState) -> frozenset[TaskState]:
    """The states from which ``new`` may be reached; the store puts them into its fences."""
    return frozenset(old for old, following in _MOVES.items() if new in following)


class Task(Value, frozen=True):
    """One row of ``tasks``: what was asked, how far it is, and under which bounds."""

    task_id: str
    description: str
    required_fields: tuple[str, ...]
    state: TaskState
    next_step: int
    created_at: datetime
    updated_at: datetime
    waits_for: WaitsFor | None = None
    wait: Mapping[str, Any] = field(default_factory=dict)
    """Details of the wait: ``event_type``, ``question``, ``delegation``, ``until``…"""
    paused: bool = False
    cancel_requested: bool = False
    priority: int = 4
    aged: int = 0
    """Levels of urgency that it gained by waiting for its turn."""
    lane: int = 0
    """0 within its tenant's share, 1 beyond; see `orchestrator.domain.turns`."""
    tenant: str | None = None
    allowed_agents: tuple[str, ...] | None = None
    """Names of agents this task may use; None: all."""
    on_failure: str = "stop"
    partial_failure: PartialFailure | None = None
    """None: as the settings have it."""
    deadline: datetime | None = None
    not_before: datetime | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    """The message's own bounds."""
    raised: Mapping[str, Any] = field(default_factory=dict)
    """What people have raised its bounds by."""
    spent: Spent = field(default_factory=Spent)
    idle_steps: int = 0
    """Steps since a field got its first value."""
    reason_code: str | None = None
    reason: str | None = None
    lost_leases: int = 0
    """Leases of the present step that ended without a commit (its worker died)."""
    ended_at: datetime | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    undo: Mapping[str, Any] | None = None
    """Who asked for its undo and how it ends (``asked``, ``then``, ``reason_code``, ``reason``, ``who``, ``why``); kept
    after it, with how many calls could not be undone (``left``): then only a restart is possible."""
    steps_before: int = 0
    """Steps that a restart or rerun left behind; they do not count against the step limit."""
    doubted_at: datetime | None = None
    """When PostgreSQL was found to be older than it was: what the task did before may be forgotten."""

    def after_step(self, spent: Spent, *, progress: bool) -> Task:
        """As it is once its present step is finished and the next follows at once.

        Args:
            spent: in all, the finished step's calls included.
            progress: whether a field got its first value.
        """
        return replace(
            self,
            state=TaskState.PROCESSING,
            next_step=self.next_step + 1,
            waits_for=None,
            wait={},
            reason_code=None,
            reason=None,
            lost_leases=0,
            idle_steps=0 if progress else self.idle_steps + 1,
            spent=replace(spent, reserved_tokens=0, reserved_money=Decimal(0)),
        )

    @property
    def urgency(self) -> int:
        """Its priority with what it gained by waiting."""
        return urgency_of(self.priority, self.aged)
