"""What an execution of a step is given and gives back: its bounds, how it goes straight on, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from orchestrator.domain.budget import Budget
from orchestrator.domain.journal import Ahead, Claim, Committed, Dispatch, Fail, Join, Then, Wait
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import PartialFailure, Task, TaskState
from orchestrator.domain.value import Value, field
from orchestrator.flow.limits import Gate

log = logging.getLogger(__name__)


class StepLimits(Value, frozen=True):
    """The bounds of a step; see the settings of the same names."""

    lease_for: timedelta = timedelta(seconds=9)
    budget: Budget = field(default_factory=lambda: Budget(steps=50))
    """The installation's bounds of a task; a message may ask for less."""
    budget_warn: float = 0.8
    """Share of a bound from which on a task warns and the cheaper model is asked."""
    idle_steps: int = 15
    """Steps in a row without a new field after which a task has no progress; 0: any number."""
    repeats: int = 3
    """The same decision in a row, nothing changed between, that is no progress; 0: never."""
    prompt_agents: int | None = None
    """Agents that one question may offer; None: all."""
    bad_answers: int = 3
    max_lost_leases: int = 10
    max_context_bytes: int = 4_000_000
    planner_retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(6, 1.0, 60.0))
    max_fan_out: int = 100
    fan_out_at_once: int = 20
    partial_failure: PartialFailure = PartialFailure.ALL
    store_patience: float = 60.0
    """Seconds a finished piece of work is held in memory while PostgreSQL is away."""


class StepResult(Value, frozen=True):
    """How an execution of a step ended, for logs and Flower: no context data, no secrets."""

    outcome: str
    """``next``, ``completed``, ``waiting``, ``failed``, ``canceled``, ``skipped``, ``fenced`` or ``handed back``; of an
    undo: ``undoing`` or ``undone``."""
    detail: str = ""
    next: Dispatch | None = None
    """The successor to send, where there is one."""
    doorbells: tuple[Dispatch, ...] = ()
    """Delegations to send, each as a Celery task of its own."""
    claim: Claim | None = None
    """The successor's, taken with this step's last commit: whoever ran this step goes straight on, and rings nobody."""
    gate: Gate | None = None
    """Where the successor's call was marked as sent with that commit: the open gate through which it goes."""


GoesOn = Callable[[Dispatch], bool]
"""Says whether whoever runs a step goes straight on with this one, its successor."""

LooksAhead = Callable[[Claim], tuple[Ahead, Gate] | None]
"""Decides the next step before it is claimed; see `orchestrator.flow.ahead`."""


class StraightOn(Value, frozen=True):
    """How a worker goes straight on from a step to the next."""

    goes_on: GoesOn = lambda _: False
    owner: str = ""
    look_ahead: LooksAhead = lambda _: None


NOT_ON = StraightOn()


def result_of(task: Task, then: Then, committed: Committed) -> StepResult:
    """How the execution ended whose last commit was this; told to the log as well."""
    ended = {"task_id": task.task_id, "state": committed.state.value, "next_step": committed.next_step}
    if isinstance(then, Fail) and committed.state is TaskState.FAILED:
        log.warning("step.ended", extra={**ended, "code": then.code, "why": then.reason})
    else:
        log.info("step.ended", extra=ended)
    match committed.state:
        case TaskState.PROCESSING:
            return StepResult("next", next=Dispatch(task.task_id, committed.next_step, task.urgency, task.lane))
        case TaskState.WAITING if isinstance(then, Wait):
            until = f" until {then.due_at.isoformat(timespec='seconds')}" if then.due_at else ""
            return StepResult("waiting", f"{then.waits_for.value}{until}: {then.reason or then.reason_code or ''}")
        case TaskState.WAITING if isinstance(then, Join):
            return StepResult("waiting", f"agent: {then.reason}", doorbells=committed.doorbells)
        case TaskState.FAILED if isinstance(then, Fail):
            return StepResult("failed", f"{then.code}: {then.reason}")
        case TaskState.COMPENSATING if isinstance(then, Fail):
            return StepResult("failed", f"{then.code}: {then.reason}; what was done is undone now")
        case TaskState.COMPENSATING:
            return StepResult("undoing", next=Dispatch(task.task_id, committed.next_step, task.urgency, task.lane))
        case state:
            return StepResult(state.value)
