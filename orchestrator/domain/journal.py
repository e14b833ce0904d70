"""What the journal holds of a step, and the commits that move a task: the values that go through the ``Store`` port."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from orchestrator.domain.asked import Asked, Offer
from orchestrator.domain.budget import Spent, Used
from orchestrator.domain.context import Change, Context
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.question import Question
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.domain.tolerant import JournalValue
from orchestrator.domain.value import Value, field


class Lease(Value, frozen=True):
    """The right to advance one task by one step, fenced by epoch and step number.

    With an ``index`` it is the right to carry out one delegation of the step, with an epoch of its own.
    """

    task_id: str
    step: int
    epoch: int
    owner: str
    index: int | None = None
    left_by: str | None = None
    """The transaction in which its holder left the task's row; None: not known. A commit that names it is not told what
    nobody has changed since. It says nothing of the right itself: two leases that differ in it alone are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lease) and self._right() == other._right()

    def __hash__(self) -> int:
        return hash(self._right())

    def _right(self) -> tuple[object, ...]:
        return self.task_id, self.step, self.epoch, self.owner, self.index


class StepState(JournalValue):
    """A step is open until it is finished or failed; a retry opens a failed one again."""

    OPEN = "open"
    FINISHED = "finished"
    FAILED = "failed"


class Step(Value, frozen=True):
    """One row of ``steps``."""

    task_id: str
    number: int
    state: StepState
    decision: Decision | None
    attempts: int
    """Executions so far, from 1."""
    base_version: int
    """Context version it started from."""
    result_version: int | None = None
    started_at: datetime | None = None
    decided_at: datetime | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None
    tried: tuple[Tried, ...] = ()
    """Answers that did not become the decision, oldest first."""
    superseded: bool = False
    """Whether a rerun went back before this step: kept for the record, no part of the task's present course."""
    asked: Asked | None = None
    """The question that was put to the planner last; None where none was, or by a version that did not keep it."""


class PendingEvent(Value, frozen=True):
    """An accepted event not merged yet."""

    inbox_id: int
    event_type: str | None
    event_data: Mapping[str, Any]
    received_at: datetime


class Claim(Value, frozen=True):
    """A lease taken, with everything a step needs to go on."""

    lease: Lease
    task: Task
    context: Context
    step: Step | None
    """The step's row, where an earlier execution made one."""
    delegations: tuple[Delegation, ...] = ()
    """This step's delegations, by index."""
    events: tuple[PendingEvent, ...] = ()
    questions: tuple[Question, ...] = ()
    """Those of the task's present course that are open or answered, and all of this step."""
    history: tuple[HistoryEntry, ...] | None = None
    """All steps with their delegations, oldest first, where no decision of this step is recorded; else None."""
    begun: bool = False
    """Whether its decision was recorded with the claim (`Ahead`): its call is in flight by our own hand, and unsent."""


class NotClaimed(StrEnum):
    """Why there is nothing to do: each is a redelivery's quiet end."""

    HELD = "held"
    ENDED = "ended"
    PAUSED = "paused"
    NOT_NEXT = "not_next"
    """``next_step`` is another."""
    NOT_DUE = "not_due"
    """Waiting, and neither due nor woken; of a delegation: held back."""
    LATE = "late"
    """The task's deadline has passed: its step ends it."""
    NO_TASK = "no_task"


# -- one fenced commit ------------------------------------------------------------------------------------------------


class NewDelegation(Value, frozen=True):
    """A delegation to write beside its decision."""

    index: int
    agent: str
    arguments: Mapping[str, Any]
    task: str
    key: str
    side_effects: bool
    reply_token: str | None = None


class Start(Value, frozen=True):
    """Mark a delegation ``in_flight``: attempts + 1, deadline set, remote_url cleared. The request comes after it."""

    index: int
    deadline_at: datetime


class Settlement(Value, frozen=True):
    """What became of a delegation's attempt.

    ``state`` may also be ``in_flight`` (202: ``remote_url`` set) or ``pending`` (certainly not done, to be sent again).
    """

    index: int
    state: DelegationState
    reply: Any = None
    error_code: str | None = None
    error: str | None = None
    remote_url: str | None = None
    parked: bool = False
    """Unknown for good: a person must say what became of it."""
    deadline_at: datetime | None = None
    """A new deadline; None: as before."""
    may_have_acted: bool = False
    """Whether this attempt may have acted although it is to be repeated, or failed: an undo has to find out."""


class GoOn(Value, frozen=True):
    """The step keeps its lease and goes on (decision recorded, a delegation started or settled)."""


class NextStep(Value, frozen=True):
    """The step is finished; the next number follows at once."""

    owner: str | None = None
    """Who goes straight on with it: takes its lease in the same commit, unless the task is paused or to be canceled."""
    lease_for: timedelta | None = None
    """How long that lease lasts."""
    ahead: Ahead | None = None
    """That step's decision, to be recorded with its lease; without it where something came in that has to be looked at
    before."""
    task: Task | None = None
    """The task as it is then, calls made ahead apart, unless others change it meanwhile; None: that is not known."""


class Ahead(Value, frozen=True):
    """The next step's decision, made in memory before that step is claimed, with its calls, all in flight."""

    decision: Decision
    delegations: tuple[NewDelegation, ...]
    starts: tuple[Start, ...]
    asked: Asked | None = None
    offer: Offer | None = None


class Wait(Value, frozen=True):
    """The task waits and frees its worker.

    ``same_step``: the present step is unfinished and goes on after the wait (a retry, a poll, an unknown outcome);
    otherwise it is finished and the next number is the one that wakes. ``due_at`` None: only a wake-up ends it.
    """

    waits_for: WaitsFor
    due_at: datetime | None
    details: Mapping[str, Any] = field(default_factory=dict)
    same_step: bool = True
    reason_code: str | None = None
    reason: str | None = None


class FanOut(Value, frozen=True):
    """How the delegations of one step follow one another."""

    at_once: int
    """How many may be under way."""
    stop_on_failure: bool
    """Whether none is begun any more once one has failed for good; those begun go on to their end."""


class Join(Value, frozen=True):
    """The step waits, without a worker, until its delegations have settled; the last of them wakes it.

    The commit makes as many of them due as may be in flight; each that settles makes room for the next.
    """

    fan_out: FanOut
    due_at: datetime
    """When the step looks for itself, should nothing have woken it."""
    reason: str


class Complete(Value, frozen=True):
    """All required fields are there, or the planner finished a task that requires none."""

    reason: str


class Fail(Value, frozen=True):
    """The task stops as failed; ``next_step`` stays, so that a retry keeps the number."""

    code: str
    reason: str


class Cancel(Value, frozen=True):
    """The task ends as canceled at this boundary."""

    reason: str


Then = GoOn | NextStep | Wait | Join | Complete | Fail | Cancel


class Tried(Value, frozen=True):
    """A model that was asked in vain: what came of it, and what it cost."""

    model: str
    code: str
    """``bad_decision``, ``planner_unavailable``, ``planner_refused``…"""
    error: str
    tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """The form kept in ``steps.tried``."""
        return {
            "model": self.model,
            "code": self.code,
            "error": self.error,
            "tokens": self.tokens,
            "cost": self.cost,
            "seconds": round(self.seconds, 3),
            "at": None if self.at is None else self.at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tried:
        """The inverse of `to_json`."""
        at = data.get("at")
        return cls(**{**data, "at": None if at is None else datetime.fromisoformat(at)})


class StepCommit(Value, frozen=True):
    """Everything one fenced transaction writes. Empty parts write nothing."""

    then: Then
    decision: Decision | None = None
    """Recorded once; a second decision for the same step number is a bug and is refused."""
    delegations: tuple[NewDelegation, ...] = ()
    starts: tuple[Start, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    context: Context | None = None
    """The new context, with ``changes`` as its delta; None: unchanged."""
    unchanged: Context | None = None
    """The context as it is, where no new one is written: the store need not read it to tell of it."""
    changes: tuple[Change, ...] = ()
    merged_events: tuple[int, ...] = ()
    """Inbox ids of events whose changes are in ``context``."""
    asked: Asked | None = None
    """The question that was put to the planner, whatever came of it; its offer is in ``offer``."""
    offer: Offer | None = None
    spent: Spent | None = None
    """What the task has spent in all, less the delegations of this commit; None: as before."""
    tried: tuple[Tried, ...] = ()
    """Answers of models that did not become the decision, to be kept with the step."""
    low: tuple[Used, ...] = ()
    """Resources that run low, for the task's update."""
    progress: bool = False
    """Whether a field got its first value: the count of steps without one starts again."""
    steps_decided: int | None = None
    """The task's steps with a decision, this one among them; None: not known."""
    ending_event: tuple[int, int] | None = None
    """Inbox id of the event that ended a wait, and the step that decided on the wait: it ends no other."""
    questions: tuple[Question, ...] = ()
    """Questions asked, or with a new state. An answer that came meanwhile is never overwritten by another state."""


class Committed(Value, frozen=True):
    """What the store says after a fenced commit."""

    state: TaskState
    delegations: tuple[Delegation, ...] | None
    """The step's delegations as they now are; None: as whoever committed has them."""
    next_step: int
    cancel_requested: bool = False
    paused: bool = False
    late_events: tuple[PendingEvent, ...] = ()
    """Where ``Complete`` was asked and events came in meanwhile: nothing was written; merge them and commit again."""
    doorbells: tuple[Dispatch, ...] = ()
    """Delegations that the commit made due: ring for them."""
    claim: Claim | None = None
    """The next step's, where `NextStep` named an owner and nothing stood against it. Its history is not loaded."""
    left_by: str | None = None
    """The transaction in which the task's row was left, see `Lease`."""

    @property
    def refused_for_events(self) -> bool:
        """Whether nothing was written because of events that must be merged first."""
        return bool(self.late_events)


class Dispatch(Value, frozen=True):
    """A doorbell to ring: this step of this task, or this delegation of it. Ids and numbers only."""

    task_id: str
    step: int
    priority: int = 4
    """As urgent as the task has become (`Task.urgency`)."""
    lane: int = 0
    index: int | None = None
    """The delegation's; None: the step itself."""
    cancels: bool = False
    """Of a delegation: its agent is to be told that the call is not wanted any more."""


# -- one delegation of a parallel step --------------------------------------------------------------------------------


class DelegationClaim(Value, frozen=True):
    """A delegation's lease taken."""

    lease: Lease
    task: Task
    delegation: Delegation
    """As it now is, this attempt counted."""
    started: bool
    """Whether the claim marked it ``in_flight``: its request is to be sent."""


class Settled(Value, frozen=True):
    """What the store says after a delegation was settled."""

    stored: bool
    """False: another has settled it, or another attempt is under way; nothing was written."""
    doorbells: tuple[Dispatch, ...] = ()
    """What to ring for: delegations that now have room, or the step, where this was the last of it."""


class HistoryEntry(Value, frozen=True):
    """A finished or failed step with its delegations, as the planner and ``task show`` see it."""

    step: Step
    delegations: tuple[Delegation, ...]
    questions: tuple[Question, ...] = ()
    """What people were asked in it, with their answers."""
    ended_by: PendingEvent | None = None
    """The event that ended its wait."""
