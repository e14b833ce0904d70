"""What the flow needs of the world, as Protocols. Adapters implement them; `orchestrator.wiring` brings them together.

Each method of a store is one short transaction; none stays open across an LLM or HTTP call. Every store method raises
`StoreUnavailable` where PostgreSQL cannot be reached or refuses for now. Times are timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.asked import Offer
from orchestrator.domain.budget import Spent
from orchestrator.domain.by_hand import AuditEntry, TaskFilter
from orchestrator.domain.cancellation import Cancellation
from orchestrator.domain.context import Change, Context
from orchestrator.domain.delegation import AgentOutcome, Delegation, LookupOutcome
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import (
    Claim,
    Committed,
    Dispatch,
    HistoryEntry,
    Lease,
    NotClaimed,
    PendingEvent,
    Settlement,
    StepCommit,
)
from orchestrator.domain.message import Message, Record
from orchestrator.domain.task import Task
from orchestrator.domain.turns import Window
from orchestrator.domain.undo import Undoing
from orchestrator.domain.value import Value, field
from orchestrator.flow.dead_letter_port import DeadLetter as DeadLetter
from orchestrator.flow.dead_letter_port import DeadLetterStore as DeadLetterStore
from orchestrator.flow.planning import Planner as Planner
from orchestrator.flow.planning import PlanRequest as PlanRequest

# -- advancing a task ---------------------------------------------------------------------------------------------


class StepStore(Protocol):
    """What a step reads and writes. Writes are fenced by the lease's epoch and step number."""

    def claim(self, task_id: str, step: int, owner: str, lease_for: timedelta) -> Claim | NotClaimed:
        """Take the lease (epoch + 1) and load task, context, step, delegations and pending events in one go.

        Refused while another's lease lasts, the task is ended or paused, ``next_step`` is not ``step``, or it waits
        and is not due. A waiting task that is due or woken becomes processing. A lease found expired and unreleased
        adds one to ``lost_leases``; any commit resets it.
        """

    def commit(self, lease: Lease, commit: StepCommit) -> Committed:
        """Write one fenced transaction (see `StepCommit`), outbox row included where the task's state or data changed.

        Releases the lease unless ``then`` is `GoOn`. A `NextStep` or `Wait` becomes canceled where a cancel was
        requested meanwhile. A `Complete` is refused, and nothing written, while unmerged events are there.

        Raises:
            LeaseLost: epoch or step moved on; nothing was written.
        """

    def reserve(self, lease: Lease, spent: Spent) -> None:
        """Write what the task has spent, and what its next call of a model may cost at most, before that call is made.

        Absolute amounts, so that writing them twice is harmless. A later claim counts what it finds reserved as spent.

        Raises:
            LeaseLost: epoch or step moved on; nothing was written, and the call must not be made.
        """

    def release(self, leases: Sequence[Lease], retry_at: datetime) -> Sequence[Dispatch]:
        """Hand steps back unfinished (a worker that stops): leases ended, due at ``retry_at``.

        Returns the doorbells of those that were still ours.
        """

    def renew(self, leases: Sequence[Lease], lease_for: timedelta) -> Sequence[Lease]:
        """Prolong the leases, with one statement for steps and one for delegations; returns those that were lost."""

    def settle_late(self, key: str, attempt: int, settlement: Settlement) -> bool:
        """Store an answer that came after the lease was lost, under its own attempt, without advancing the task.

        Only where the delegation is still ``in_flight`` or ``unknown`` at this attempt. Returns whether it was stored;
        then the task is due at once, so that its step finds the reply.
        """

    def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """All steps with their delegations, oldest first."""

    def unused_events(self, task_id: str) -> Sequence[PendingEvent]:
        """The task's events that ended no wait of its present course, oldest first, merged already or not."""


# -- taking messages in -------------------------------------------------------------------------------------------


class Invalid(Value, frozen=True):
    """A record that is not a message: why, for the dead letter."""

    reason: str
    detail: str


class Received(Value, frozen=True):
    """A record with what it was decoded to."""

    record: Record
    message: Message | Invalid


class Intake(StrEnum):
    """What became of a record."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same record, message_id, or task with the same content was there."""
    CONFLICT = "conflict"
    """The task_id is known with other content: a dead letter, nothing changed."""
    EVENT_PENDING = "event_pending"
    """For a live task: merged by its next step."""
    EVENT_EARLY = "event_early"
    """Its task is not known yet: waits a set time."""
    EVENT_LATE = "event_late"
    """Its task has ended: recorded, changes nothing."""
    ANSWERED = "answered"
    """A person's answer, stored."""
    ANSWER_REFUSED = "answer_refused"
    """A person's answer to nothing that is asked, or one that does not fit: a dead letter, the question stays open."""
    REPLIED = "replied"
    """An agent's reply, kept with its call."""
    REPLY_REFUSED = "reply_refused"
    """A reply to no call of the task: a dead letter."""
    INVALID = "invalid"


class Taken(Value, frozen=True):
    """The result for one record of a batch, in the batch's order."""

    outcome: Intake
    task_id: str | None = None
    dispatch: Dispatch | None = None
    """The doorbell to ring: a new task's first step, or the step that an event wakes."""
    reason: str | None = None


class IntakeStore(Protocol):
    """Accepting records."""

    def accept(
        self,
        batch: Sequence[Received],
        *,
        due_in: timedelta,
        window: Window | None = None,
        confirmed: Mapping[tuple[str, int], int] | None = None,
    ) -> Sequence[Taken]:
        """Take a batch in, in one transaction: inbox, tasks, contexts, outbox, dead letters and Kafka offsets.

        New tasks and woken ones whose doorbell the caller is to ring after the commit have it in their result, and are
        due after ``due_in``, the time it has to arrive. Those for which ``window`` (None: no bound) or their tenant's
        cap has no room are due at once: the sweep rings them in their turn. So are all with a ``due_in`` of zero.
        ``event_data`` of a task becomes context version 1, merged
        with any events that came before it.

        ``confirmed``: the next offset of each (topic, partition) as this store confirmed it to the caller before.
        Records that were taken in before, by what `RestoreStore.records_forgotten` was told, make doubted tasks.

        Raises:
            OffsetsForgotten: it knows less of a partition of the batch than it has confirmed; nothing was written.
        """

    def next_offsets(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """The next offset to read of each (topic, partition) that was ever accepted from."""


class OutboxRow(Value, frozen=True):
    """One thing to publish: a task update or a dead letter, in its published JSON shape."""

    id: int
    kind: str
    """``update`` or ``dead_letter``."""
    key: str | None
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class OutboxStore(Protocol):
    """Publishing what was committed."""

    def as_publisher(self) -> AbstractContextManager[bool]:
        """Try to be the one publisher, as long as the context lasts; yields whether we are."""

    def unpublished(self, limit: int) -> Sequence[OutboxRow]:
        """The oldest rows not yet published, in the order of their commits per task."""

    def mark_published(self, ids: Sequence[int]) -> None:
        """Note that the broker confirmed these rows."""


# -- a person's hand ----------------------------------------------------------------------------------------------


class ControlStore(Protocol):
    """What people do to tasks; each is audited with who and why.

    All raise `TaskNotFound`, and `NotAllowed` where the task's state does not fit.
    """

    def retry(
        self, task_id: str, *, who: str, why: str, raise_budget: Mapping[str, int | Decimal] | None = None
    ) -> Dispatch:
        """Open a failed task again at the step that failed.

        Same number, decision and keys; only delegations that did not succeed are sent again. Where the decision itself
        was to fail (or none was made), the planner is asked again; a recorded ``fail`` decision keeps its number and a
        new one opens. A task waiting for a retry or a person (unknown outcome) is simply made due.

        ``raise_budget`` adds to what earlier retries have raised the task's bounds by: resource → amount.
        """

    def rerun(self, task_id: str, step: int, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Go back to the context before ``step`` with ``edits`` on top (origin: person), under a new step number.

        Not while a worker holds the task's lease.
        """

    def cancel(self, task_id: str, *, who: str, why: str, undo: bool = False) -> Task:
        """End the task: at once where no step runs, else at its next boundary; ``undo``: once it is undone."""

    def undo(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Undo what an ended task did: failed, canceled or completed. Again: try once more what could not be undone."""

    def restart(self, task_id: str, edits: Mapping[str, Any], *, who: str, why: str) -> Dispatch:
        """Begin anew from the first context, with what events told since and ``edits``, under new step numbers.

        The journal is kept, its steps superseded. Not while a worker holds the task's lease, nor during an undo.
        """

    def pause(self, task_id: str, *, who: str, why: str) -> Task:
        """Let nothing new begin; what runs goes on to its end."""

    def resume(self, task_id: str, *, who: str, why: str) -> Dispatch:
        """Let a paused task go on, with the events and answers that came meanwhile."""

    def undone_by_hand(self, task_id: str, ref: str | None, *, who: str, why: str) -> Delegation:
        """Note that a person undid a call that an undo left for them; ``ref`` None: the only one."""

    def unwanted_calls(self, task_id: str) -> Sequence[Dispatch]:
        """The doorbells of what the commits above left to be told to agents: calls that are not wanted any more."""


class ReadStore(Protocol):
    """Looking, for the CLI and the planner's explanations."""

    def task(self, task_id: str) -> Task:
        """One task. Raises `TaskNotFound`."""

    def context(self, task_id: str, version: int | None = None) -> Context:
        """The context now, or as it was at ``version``. Raises `TaskNotFound`, `NotAllowed` for an unknown version."""

    def context_row(self, task_id: str) -> Mapping[str, Any]:
        """The promised shape: ``{"id", "task_id", "context": {…}, "created_at", "updated_at"}``."""

    def versions(self, task_id: str) -> Sequence[tuple[int, datetime, Sequence[Change]]]:
        """Every context version: number, time and changes, oldest first."""

    def tasks(
        self, *, state: str | None = None, waits_for: str | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[Task]:
        """Newest first; only those in this state, only those that wait for this."""

    def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """All steps with their delegations, oldest first."""

    def offers(self, digests: Sequence[str]) -> Mapping[str, Offer]:
        """What planners were offered, by digest; digests not on record are left out."""

    def find_tasks(self, wanted: TaskFilter, limit: int) -> Sequence[Task]:
        """The tasks that fit, most urgent and oldest first."""

    def audit_of(self, task_id: str) -> Sequence[AuditEntry]:
        """What people did to a task, oldest first. Raises `TaskNotFound`."""

    def undo_items(self, task_id: str) -> Sequence[Undoing]:
        """Every delegation that acted or may have acted on the world, newest first, with its compensation."""

    def cancellations(self, task_id: str) -> Sequence[Cancellation]:
        """Calls whose agents were to be told that they are not wanted any more, in their order."""

    def updates(self, task_id: str, after_id: int = 0) -> Sequence[OutboxRow]:
        """The task's updates in order, for following it live."""


# -- planner, agents, dispatch ------------------------------------------------------------------------------------


class AgentRequest(Value, frozen=True):
    """One call, as it goes out."""

    task_id: str
    step: int
    key: str
    task: str
    arguments: Mapping[str, Any]
    send_before: datetime | None = None
    """The delegation's deadline: a call that has not left by then must not leave any more. Another worker may have
    taken over meanwhile, been told by the agent's look-up that the call was never received, and sent it."""
    reply_token: str | None = None
    """Sent along to an agent that replies by an event."""
    remote_url: str | None = None
    told: Mapping[str, Any] | None = None
    """The reply that came as an event."""
    compensates: str | None = None
    """Idempotency key of the delegation that this call undoes."""


class AgentClient(Protocol):
    """Calls agents over their protocol. Raises nothing for what an agent does; see `AgentOutcome`."""

    def call(self, agent: AgentSpec, request: AgentRequest) -> AgentOutcome:
        """Send the delegation, waiting at most ``agent.timeout.total`` seconds, and not beyond ``send_before``."""

    def poll(self, agent: AgentSpec, request: AgentRequest, remote_url: str) -> AgentOutcome:
        """Ask how a delegation answered with 202 is doing; one that replies by an event is not asked, but read."""

    def look_up(self, agent: AgentSpec, request: AgentRequest) -> LookupOutcome:
        """Ask the agent what became of ``request.key``; only where it declares ``lookup``."""

    def answer(self, agent: AgentSpec, request: AgentRequest, number: int, answer: Any) -> AgentOutcome:
        """Send the answer to the agent's ``number``-th question, from 1, to ``request.remote_url``."""

    def check(self, agent: AgentSpec) -> tuple[bool, str]:
        """Whether the agent's health address answers, and what it said."""


class Agents(Protocol):
    """The registry."""

    def get(self, name: str) -> AgentSpec | None:
        """The entry of this name, disabled ones included."""

    def enabled(self, allowed: Sequence[str] | None = None) -> Sequence[AgentSpec]:
        """Enabled entries, in the file's order; only those named in ``allowed`` where given."""


class EventTypes(Protocol):
    """The event types of events.yaml."""

    def get(self, name: str | None) -> EventType | None:
        """The entry of this name, or None for an unlisted one."""

    def all(self) -> Sequence[EventType]:
        """All entries, in the file's order."""


class Dispatcher(Protocol):
    """Rings doorbells: Celery messages of ids and numbers."""

    def dispatch(self, doorbells: Sequence[Dispatch]) -> None:
        """Send each as a chain keyed by its task_id.

        Raises:
            DispatchFailed: the broker did not take (all of) them; the sweep repeats what was lost.
        """

    def waiting(self) -> Sequence[int]:
        """Step messages waiting in the broker, by place (`orchestrator.domain.turns`).

        Raises `DispatchFailed` where it cannot be asked.
        """


class LeaseKeeper(Protocol):
    """Renews the leases held by this process, those of steps and of delegations, all with one heartbeat."""

    def hold(self, lease: Lease) -> AbstractContextManager[Callable[[], bool]]:
        """Keep the lease renewed while the context lasts; yields a function that tells whether it was lost."""
