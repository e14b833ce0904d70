"""One step of one task, from its claim to its last commit.

claim ▶ boundary checks ▶ merge events ▶ decide ▶ commit decision ▶ call agents ▶ commit replies and next context.
Every write is fenced by the lease; no transaction is open while the planner or an agent works. A step that finds its
decision recorded carries it out and never asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.journal import (
    Cancel,
    Claim,
    Complete,
    Dispatch,
    Fail,
    HistoryEntry,
    NotClaimed,
    StepCommit,
    Then,
    Wait,
)
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import (
    AtCapacity,
    BadAnswer,
    BudgetExhausted,
    LeaseLost,
    NoRoute,
    PlannerRefused,
    PlannerUnavailable,
)
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ahead import LookAhead
from orchestrator.flow.ask import Asking, course, question
from orchestrator.flow.carry_out import begin_calls, carry_out
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.compensate import Undo, UndoStore
from orchestrator.flow.decide import decide, in_vain
from orchestrator.flow.execution import GoesOn, StepLimits, StepResult, StraightOn
from orchestrator.flow.limits import Gate, Limits, Unlimited
from orchestrator.flow.ports import AgentClient, Agents, EventTypes, LeaseKeeper, Planner, StepStore
from orchestrator.flow.progress import no_progress, same_again, used_up
from orchestrator.flow.turn import Turn, now, patiently
from orchestrator.flow.waiting import after_wait, begin_question, begin_wait, take_answers

__all__ = ["StepLimits", "StepResult", "StepRunner"]

log = logging.getLogger(__name__)


class CourseStore(StepStore, UndoStore, Protocol):
    """What a task's course reads and writes, forward and back."""


class StepRunner:
    """Runs steps. One a process, shared by its threads; holds no state of a task."""

    def __init__(
        self,
        *,
        store: CourseStore,
        planner: Planner,
        agents: Agents,
        event_types: EventTypes,
        client: AgentClient,
        leases: LeaseKeeper,
        owner: str,
        limits: StepLimits,
        calls: Limits | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.planner = planner
        self.agents = agents
        self.event_types = event_types
        self.client = client
        self.leases = leases
        self.calls = calls or Unlimited()
        self.owner = owner
        self.limits = limits
        self.stopping = stopping
        self._ahead = LookAhead(store, planner, agents, event_types, limits, self.calls)

    def run(self, task_id: str, step: int, goes_on: GoesOn = lambda _: False) -> StepResult:
        """Execute one step, or end quietly where the doorbell rang for nothing.

        Where ``goes_on`` says so of its successor, that is claimed with the last commit (see the result's ``claim``):
        the caller has to `go_on` with the result.

        Raises:
            StoreUnavailable: PostgreSQL stays away; nothing is lost, the sweep rings again.
            NewerJournal: a newer version's worker must go on.
        """
        if self.stopping():
            return StepResult("handed back", "this worker stops", next=Dispatch(task_id, step))
        reach(FaultPoint.STEP_RECEIVED, task_id)
        # Without PostgreSQL there is nothing else to do, and a doorbell given up has to be rung again by the sweep.
        claim = patiently(
            lambda: self.store.claim(task_id, step, self.owner, self.limits.lease_for), self.limits.store_patience
        )
        if isinstance(claim, NotClaimed):
            log.info("step.skipped", extra={"task_id": task_id, "step": step, "why": claim.value})
            return StepResult("skipped", claim.value)
        reach(FaultPoint.STEP_CLAIMED, task_id)
        return self._under_lease(claim, goes_on)

    def go_on(self, before: StepResult, goes_on: GoesOn) -> StepResult:
        """Execute the step that was claimed with the last commit of the one before, which ended so; else as `run`."""
        claim = before.claim
        if claim is None:
            raise AssertionError(f"nothing was claimed: {before}")
        # A call that is marked as sent is sent, as it would be if the stop came a moment later.
        if self.stopping() and before.gate is None:
            doorbells = self.store.release([claim.lease], now())
            return StepResult("handed back", "this worker stops", next=next(iter(doorbells), None))
        return self._under_lease(claim, goes_on, before.gate)

    def _under_lease(self, claim: Claim, goes_on: GoesOn, begun: Gate | None = None) -> StepResult:
        task_id, step = claim.task.task_id, claim.lease.step
        with self.leases.hold(claim.lease):
            try:
                if claim.task.state is TaskState.COMPENSATING:
                    return self._undo(claim)
                straight_on = StraightOn(goes_on, self.owner, self._ahead)
                turn = Turn(self.store, claim, self.event_types, self.limits, self.stopping, straight_on)
                return self._run(turn) if begun is None else self._call_begun(turn, begun)
            except LeaseLost as error:
                log.warning("step.fenced", extra={"task_id": task_id, "step": step, "why": str(error)})
                return StepResult("fenced", "another worker took this step over")

    def _undo(self, claim: Claim) -> StepResult:
        place = Dispatch(claim.task.task_id, claim.lease.step, claim.task.urgency)
        with Gate(self.calls, place) as gate:
            return Undo(self.store, claim, self.agents, self.client, self.limits, gate, self.stopping).run()

    def _run(self, turn: Turn) -> StepResult:
        if stop := _boundary(turn):
            return turn.end(StepCommit(stop))
        take_answers(turn)
        if turn.step is not None and turn.step.decision is not None:
            return self._follow(turn, turn.step.decision)
        if turn.context.is_complete:
            return turn.end(StepCommit(turn.forward()))
        return self._decide(turn)

    def _call_begun(self, turn: Turn, gate: Gate) -> StepResult:
        """Send the call that was marked as sent with the commit of the step before."""
        if turn.decision is not None:
            _tell_decision(turn, turn.decision)
        with gate:
            return carry_out(turn, self.agents, self.client, gate, ours=0)

    def _follow(self, turn: Turn, decision: Decision) -> StepResult:
        """Carry out a decision recorded by an earlier execution of this step."""
        if decision.kind is DecisionKind.CALL:
            with self._gate(turn) as gate:
                return carry_out(turn, self.agents, self.client, gate)
        # A control decision is written in the very commit that carries it out; only a person's retry can leave one.
        history = course(turn)
        return self._act(turn, decision, history, recorded=True)

    def _decide(self, turn: Turn) -> StepResult:
        history = course(turn)
        waited = after_wait(turn, history)
        if not isinstance(waited, bool):
            return turn.end(StepCommit(waited))
        if stop := no_progress(turn.task.idle_steps, turn.limits):
            return turn.end(StepCommit(stop))
        request = question(turn, history, self.agents, self.event_types, wait_timed_out=waited)
        try:
            decision = decide(Asking(self.planner, turn), request, self.limits.bad_answers)
        except AtCapacity as error:
            turn.note(request.tried)
            due_at = now() + timedelta(seconds=error.retry_after or 1.0)
            return turn.end(StepCommit(Wait(WaitsFor.RETRY, due_at, reason_code=error.code, reason=str(error))))
        except PlannerUnavailable as error:
            turn.note(request.tried)
            return _planner_away(turn, error)
        except (BadAnswer, PlannerRefused, NoRoute, BudgetExhausted) as error:
            turn.note(request.tried)
            return turn.end(StepCommit(Fail(error.code, f"{error} {error.hint or ''}".strip())))
        turn.note(request.tried)
        if stop := same_again(decision, history, turn.limits):
            turn.note([in_vain(decision.usage, stop.code, stop.reason)])
            return turn.end(StepCommit(stop))
        _tell_decision(turn, decision)
        reach(FaultPoint.STEP_PLANNED, turn.task.task_id)
        return self._act(turn, decision, history)

    def _gate(self, turn: Turn) -> Gate:
        return Gate(self.calls, Dispatch(turn.task.task_id, turn.lease.step, turn.task.urgency))

    def _act(
        self, turn: Turn, decision: Decision, history: Sequence[HistoryEntry], recorded: bool = False
    ) -> StepResult:
        """Begin the calls of a decision, or write what a control decision means."""
        if decision.kind is DecisionKind.CALL:
            with self._gate(turn) as gate:
                return begin_calls(turn, decision, self.agents, self.client, gate)
        if decision.kind is DecisionKind.RECORD:
            turn.change(recorded_changes(decision.records, history, now()))
        return turn.end(StepCommit(_meaning(turn, decision), decision=None if recorded else decision))


def _tell_decision(turn: Turn, decision: Decision) -> None:
    log.info(
        "step.decided",
        extra={
            "task_id": turn.task.task_id,
            "step": turn.lease.step,
            "kind": decision.kind.value,
            "agents": [call.agent for call in decision.calls],
            "reason": decision.reason,
            "model": decision.usage.model,
        },
    )


def _meaning(turn: Turn, decision: Decision) -> Then:
    """What a control decision does to the task."""
    details = decision.details
    match decision.kind:
        case DecisionKind.FINISH:
            return Complete(decision.reason)
        case DecisionKind.WAIT_FOR_EVENT:
            return begin_wait(turn, decision)
        case DecisionKind.ASK_HUMAN:
            return begin_question(turn, decision)
        case DecisionKind.FAIL:
            return Fail(str(details.get("code") or "planner_gave_up"), decision.reason)
        case _:
            return turn.forward()


def _boundary(turn: Turn) -> Then | None:
    """What ends the task before anything is done: cancel, a step that kills its workers, time or steps used up."""
    task, limits = turn.task, turn.limits
    if task.cancel_requested:
        return Cancel("canceled by request")
    if task.lost_leases >= limits.max_lost_leases:
        reason = f"step {turn.lease.step} lost its worker {task.lost_leases} times without a commit; it is set aside"
        return Fail("poison", reason)
    return used_up(turn)


def _planner_away(turn: Turn, error: PlannerUnavailable) -> StepResult:
    attempts = (turn.step.attempts if turn.step else 0) + 1
    policy = turn.limits.planner_retry
    if policy.exhausted(attempts):
        return turn.end(StepCommit(Fail(error.code, f"{error} (tried {attempts} times)")))
    due_at = now() + timedelta(seconds=policy.delay(attempts, error.retry_after))
    reason = f"{error} (attempt {attempts} of {policy.max_attempts})"
    return turn.end(StepCommit(Wait(WaitsFor.RETRY, due_at, reason_code=error.code, reason=reason)))
