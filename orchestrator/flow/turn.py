"""What one execution of a step holds in its hands: the lease, the context as it grows, and what is not yet written.

Everything reaches the database through `Turn.write`: one fenced commit with all that has gathered since the last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from orchestrator.domain.asked import Asked, Offer, offer_of
from orchestrator.domain.budget import Spent, Used, running_low
from orchestrator.domain.context import Change, has_value
from orchestrator.domain.decision import DecisionKind
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.event_type import changes_of_event
from orchestrator.domain.journal import (
    Ahead,
    Claim,
    Committed,
    Complete,
    Dispatch,
    Fail,
    HistoryEntry,
    NextStep,
    PendingEvent,
    Settlement,
    Step,
    StepCommit,
    StepState,
    Then,
    Tried,
    Wait,
)
from orchestrator.domain.json_text import json_text
from orchestrator.domain.keepable import kept
from orchestrator.domain.question import Question
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost, StoreUnavailable
from orchestrator.flow.execution import NOT_ON, StepLimits, StepResult, StraightOn, result_of
from orchestrator.flow.limits import Gate
from orchestrator.flow.ports import EventTypes, PlanRequest, StepStore

log = logging.getLogger(__name__)

Written = TypeVar("Written")

COMPLAINT_CHARS = 1_000
"""How much is kept of what was wrong with an answer."""
_EVENT_ROUNDS = 10
"""How often a completing commit merges events that came in meanwhile; then the next step merges them."""


class Turn:
    """One execution of one step under its lease."""

    def __init__(
        self,
        store: StepStore,
        claim: Claim,
        event_types: EventTypes,
        limits: StepLimits,
        stopping: Callable[[], bool] = lambda: False,
        straight_on: StraightOn = NOT_ON,
    ) -> None:
        self.store = store
        self.limits = limits
        self._on = straight_on
        self.stopping = stopping
        """Whether this worker was told to stop: then no further call is begun."""
        self.lease = claim.lease
        self.task = claim.task
        self.step = claim.step
        self.decision = None if claim.step is None else claim.step.decision
        """The step's decision, as far as it is recorded."""
        self._calls_made = 0
        """Delegations recorded in this execution."""
        self.context = self._saved = claim.context
        self._began_with = claim.context.version
        self.delegations = {delegation.index: delegation for delegation in claim.delegations}
        self._history = claim.history
        self._event_types = event_types
        self._changes: list[Change] = []
        self._merged: list[int] = []
        self.came: list[PendingEvent] = []
        """The events that this execution merged."""
        self.questions = {question.ref: question for question in claim.questions}
        """What people were asked: open and answered questions of the task, and all of this step."""
        self._questions: dict[str, Question] = {}
        self.ended_wait: tuple[PendingEvent, int] | None = None
        """The event that ended a wait in this execution, and the step that decided on the wait."""
        self._settlements: list[Settlement] = []
        self._asked: Asked | None = None
        self._offer: Offer | None = None
        self._tried: list[Tried] = []
        self.budget = limits.budget.for_task(claim.task.budget, claim.task.raised)
        self.spent = self._spent_saved = claim.task.spent
        self.merge(claim.events)

    def history(self) -> Sequence[HistoryEntry]:
        """All steps of the task with their delegations, oldest first, as they were when it was claimed."""
        if self._history is None:
            self._history = tuple(self.store.history(self.task.task_id))
        return self._history

    def merge(self, events: Iterable[PendingEvent]) -> None:
        """Put waiting events into the context, in the order of their arrival; written with the next commit."""
        for event in events:
            event_type = self._event_types.get(event.event_type)
            self.change(changes_of_event(event_type, event.event_type, event.event_data, event.received_at))
            self._merged.append(event.inbox_id)
            self.came.append(event)

    def change(self, changes: Sequence[Change]) -> None:
        """Change the context in memory; written with the next commit, as one version. What is said again is no news."""
        for change in changes:
            if not self._is_known(change):
                self._changes.append(self.context.admit(change))
                self.context = self._saved.apply(self._changes)

    def asked(self, request: PlanRequest) -> None:
        """Note a question that was put to the planner; written with the next commit."""
        self._offer = offer_of(request.agents, request.event_types)
        self._asked = Asked(
            context_version=self._saved.version,
            merged=len(self._changes),
            steps=tuple(entry.step.number for entry in request.history),
            offer=self._offer.digest,
            wait_timed_out=request.wait_timed_out,
            complaints=tuple(complaint[:COMPLAINT_CHARS] for complaint in request.complaints),
        )

    @property
    def question_asked(self) -> tuple[Asked | None, Offer | None]:
        """The question that was put to the planner in this execution, and what it offered, where not written yet."""
        return self._asked, self._offer

    def _is_known(self, change: Change) -> bool:
        data = self.context.collected_data
        return not change.removed and change.field in data and data[change.field] == change.value

    def used(self) -> tuple[Used, ...]:
        """How far the task's budget is used up at this moment."""
        seconds = (now() - self.task.created_at).total_seconds()
        return self.budget.used(self.spent, step=self.lease.step, seconds=seconds)

    @property
    def ends_at(self) -> datetime | None:
        """The moment at which the task's time is over: its deadline (moved by what people raised) or its budget."""
        deadline = self.task.deadline
        if deadline is not None:
            deadline += timedelta(seconds=float(self.task.raised.get("seconds", 0)))
        ends = [moment for moment in (deadline, self.budget.ends_at(self.task.created_at)) if moment is not None]
        return min(ends, default=None)

    def reserve(self, spent: Spent) -> None:
        """Write at once what is spent and what the next call may cost, waiting while PostgreSQL is away.

        Raises:
            LeaseLost: another worker took over.
            StoreUnavailable: PostgreSQL stayed away for longer than ``store_patience``.
        """
        patiently(lambda: self.store.reserve(self.lease, spent), self.limits.store_patience)
        self.spent = self._spent_saved = spent

    def note(self, tried: Iterable[Tried]) -> None:
        """Keep what was tried in vain; written with the next commit."""
        self._tried.extend(tried)

    def ask(self, question: Question) -> None:
        """Ask a question, or note its new state; written with the next commit."""
        self.questions[question.ref] = self._questions[question.ref] = question

    def end_wait(self, event: PendingEvent, step: int) -> None:
        """Note that this event ended the wait that ``step`` decided on; written with the next commit."""
        self.ended_wait = (event, step)

    def keep(self, settlement: Settlement) -> None:
        """Note what became of a delegation; written with the next commit."""
        settlement = replace(settlement, reply=kept(settlement.reply))
        self._settlements.append(settlement)
        settled = self.delegations[settlement.index]
        self.delegations[settlement.index] = replace(
            settled,
            state=settlement.state,
            reply=settlement.reply,
            error_code=settlement.error_code,
            error=settlement.error,
            parked=settlement.parked,
            finished_at=now() if settlement.state.is_settled else None,
        )

    def forward(self) -> Then:
        """Where the task goes once this step's work is done."""
        if self.context.is_complete:
            return Complete("every required field has a value")
        return NextStep()

    def write(self, commit: StepCommit) -> Committed:
        """Write one fenced commit with everything gathered, waiting while PostgreSQL is away.

        Raises:
            LeaseLost: another worker took over; replies in hand were stored under their own attempts.
            StoreUnavailable: PostgreSQL stayed away for longer than ``store_patience``.
        """
        full = replace(
            commit,
            settlements=(*self._settlements, *commit.settlements),
            context=self.context if self._changes else None,
            unchanged=None if self._changes else self.context,
            changes=tuple(self._changes),
            merged_events=tuple(self._merged),
            asked=self._asked,
            offer=self._offer,
            spent=None if self.spent == self._spent_saved else self.spent,
            tried=tuple(self._tried),
            low=running_low(self.used(), self.limits.budget_warn),
            progress=self._has_new_field(),
            steps_decided=self._steps_decided(commit),
            ending_event=None if self.ended_wait is None else (self.ended_wait[0].inbox_id, self.ended_wait[1]),
            questions=tuple(self._questions.values()),
        )
        try:
            committed = patiently(lambda: self.store.commit(self.lease, full), self.limits.store_patience)
        except LeaseLost:
            self._settle_late(full.settlements)
            raise
        if not committed.refused_for_events:
            self._changes, self._merged, self._settlements, self._tried = [], [], [], []
            self._asked = self._offer = None
            self.decision = full.decision or self.decision
            self._calls_made += len(full.delegations)
            if full.ending_event is not None:
                self._history = None  # what was loaded does not have that event yet
            self._questions, self.ended_wait = {}, None
            self._saved = self.context
            self._spent_saved = self.spent
            self.lease = replace(self.lease, left_by=committed.left_by)
            if committed.delegations is not None:
                self.delegations = {delegation.index: delegation for delegation in committed.delegations}
        return committed

    def hand_back(self) -> StepResult:
        """Leave the rest of the step to another worker, at once; what was gathered and not written is found anew."""
        doorbells = self.store.release([self.lease], now())
        return StepResult("handed back", "this worker stops", next=next(iter(doorbells), None))

    def end(self, commit: StepCommit) -> StepResult:
        """Write the commit that ends this execution and say how it ended."""
        if (size := self._bytes_too_many()) is not None:
            self._changes, self._merged, self.context = [], [], self._saved
            reason = f"the context would have {size} bytes; ORCHESTRATOR_MAX_CONTEXT_BYTES allows fewer"
            commit = replace(commit, then=Fail("context_too_large", reason))
        then, expected, gate = self._straight_on(self._in_time(commit.then))
        commit = replace(commit, then=then)
        with ExitStack() as unused:
            if gate is not None:
                unused.enter_context(gate)
            committed = self.write(commit)
            rounds = 0
            while committed.refused_for_events:
                self.merge(committed.late_events)
                rounds += 1
                committed = self.write(commit if rounds < _EVENT_ROUNDS else replace(commit, then=NextStep()))
            result = result_of(self.task, commit.then, committed)
            if committed.claim is None:
                return result
            claim = replace(committed.claim, history=None if expected is None else expected.history)
            if not claim.begun:
                return replace(result, claim=claim)
            unused.pop_all()
            return replace(result, claim=claim, gate=gate)

    def _straight_on(self, then: Then) -> tuple[Then, Claim | None, Gate | None]:
        """The next step claimed, and where it can be decided, in the same commit, where whoever runs this one goes on.

        With the claim as it is expected to be, and the open gate of the call that was decided on.
        """
        if not isinstance(then, NextStep) or self.stopping():
            return then, None, None
        following = Dispatch(self.task.task_id, self.lease.step + 1, self.task.urgency, self.task.lane)
        if not self._on.goes_on(following):
            return then, None, None
        expected = self._next_claim()
        if expected is None:
            return NextStep(self._on.owner, self.limits.lease_for), None, None
        ahead, gate = self._look_ahead(expected) or (None, None)
        return NextStep(self._on.owner, self.limits.lease_for, ahead, expected.task), expected, gate

    def _look_ahead(self, expected: Claim) -> tuple[Ahead, Gate] | None:
        try:
            return self._on.look_ahead(expected)
        except Exception:  # the next step meets it again, in its own name; the replies in hand must be written
            log.warning("step.not_decided_ahead", extra={"task_id": self.task.task_id}, exc_info=True)
            return None

    def _next_claim(self) -> Claim | None:
        """The next step's claim as it will be, unless something comes between; None where that is not clear."""
        if self.decision is None or self.decision.kind is not DecisionKind.CALL:
            return None
        before = self.step
        base_version = self._began_with if before is None else before.base_version
        finished = Step(
            self.task.task_id,
            self.lease.step,
            StepState.FINISHED,
            self.decision,
            attempts=1 if before is None else before.attempts + 1,
            base_version=base_version,
            result_version=self.context.version if self._changes else base_version,
            finished_at=now(),
        )
        history = self._history_after(finished)
        if history is None:
            return None
        calls = self.spent.delegations + self._calls_made
        task = self.task.after_step(replace(self.spent, delegations=calls), progress=self._has_new_field())
        lease = replace(self.lease, step=self.lease.step + 1, epoch=self.lease.epoch + 1)
        return Claim(lease, task, self.context, None, history=history)

    def _history_after(self, finished: Step) -> tuple[HistoryEntry, ...] | None:
        """The history as the next step would load it; None: it has to, since people were asked something."""
        if self._history is None or self.questions:
            return None
        before = [entry for entry in self._history if entry.step.number != self.lease.step]
        return (*before, HistoryEntry(finished, tuple(self.delegations.values())))

    def _in_time(self, then: Then) -> Then:
        """A wait that is over no later than the task's time, so that the task fails then and not when somebody asks."""
        if not isinstance(then, Wait) or self.ends_at is None:
            return then
        return replace(then, due_at=min(then.due_at or self.ends_at, self.ends_at))

    def _has_new_field(self) -> bool:
        before, after = self._saved.known_data, self.context.known_data
        return any(has_value(value) and not has_value(before.get(name)) for name, value in after.items())

    def _steps_decided(self, commit: StepCommit) -> int | None:
        if self._history is None:
            return None
        others = [entry.step for entry in self._history if entry.step.number != self.lease.step]
        ours = (self.decision or commit.decision) is not None
        return sum(step.decision is not None for step in others) + ours

    def _bytes_too_many(self) -> int | None:
        """The context's size where it is beyond the limit."""
        if not self._changes:
            return None
        size = len(json_text(self.context.collected_data))
        return size if size > self.limits.max_context_bytes else None

    def _settle_late(self, settlements: Iterable[Settlement]) -> None:
        for settlement in settlements:
            delegation: Delegation = self.delegations[settlement.index]
            stored = self.store.settle_late(delegation.key, delegation.attempts, settlement)
            log.warning(
                "delegation.late_reply",
                extra={"task_id": self.task.task_id, "delegation": delegation.ref, "stored": stored},
            )


def now() -> datetime:
    """The present, timezone-aware UTC."""
    return datetime.now(UTC)


FIRST_PAUSE = 0.1
"""Seconds before the second try; doubled with each."""


def patiently(write: Callable[[], Written], patience: float) -> Written:
    """Write, trying again for ``patience`` seconds while PostgreSQL is away.

    Raises:
        StoreUnavailable: it stayed away.
    """
    give_up_at = time.monotonic() + patience
    pause = FIRST_PAUSE
    while True:
        try:
            return write()
        except StoreUnavailable as error:
            if time.monotonic() + pause > give_up_at:
                raise
            if pause == FIRST_PAUSE:
                log.warning("store.away", extra={"why": str(error), "waits_for_seconds": patience})
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
