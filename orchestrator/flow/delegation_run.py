"""One delegation of a parallel step, from its claim to its settlement: what a Celery task of its own does.

claim (in flight and counted, on disk) ▶ request ▶ settle. What is to be sent again, polled or looked up later gets a
due time of its own in its row: the others of the step are not woken by it. Whoever settles last wakes the step.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import (
    DelegationClaim,
    Dispatch,
    Fail,
    FanOut,
    Lease,
    NotClaimed,
    Settled,
    Settlement,
    Start,
)
from orchestrator.domain.task import Task
from orchestrator.domain.value import Value, replace
from orchestrator.flow.delegate import (
    Exchange,
    Verdict,
    agent_unknown,
    as_doubted,
    exchange_with,
    found_unsendable,
    judge,
    next_exchange,
    set_aside,
    started,
)
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.fan_out import fan_out_of
from orchestrator.flow.limits import Gate, Limits, Unlimited, not_now
from orchestrator.flow.ports import AgentClient, Agents, LeaseKeeper
from orchestrator.flow.turn import now, patiently

log = logging.getLogger(__name__)


class DelegationStore(Protocol):
    """One delegation of a parallel step. Writes are fenced by the delegation's own epoch."""

    def claim_delegation(
        self, lease_for: timedelta, place: Dispatch, owner: str, begin: Callable[[Task, Delegation], Start | None]
    ) -> DelegationClaim | NotClaimed:
        """Take the lease of a delegation (epoch + 1), in one transaction with the mark that it is sent.

        ``begin`` is asked inside, given task and delegation as they were found: a `Start` marks it ``in_flight`` and
        counts the attempt. Refused where the task is ended, paused, past its deadline or at another step, the
        delegation has ended, is held back, held by another, or not due. ``owner`` names this claim alone: asked once
        more with it, the claim is given again (``started`` left open), since its commit may have come through and only
        the word of it was lost.
        """

    def settle_delegation(
        self, lease: Lease, attempt: int, settlement: Settlement, due_at: datetime | None, fan_out: FanOut
    ) -> Settled:
        """Write what became of an attempt, and release the lease.

        With ``due_at`` it goes on then (a retry, a poll, a look-up). Without, it has ended: under the lock on the
        task's row the next of the step are made due as far as ``fan_out`` has room, and where none is under way any
        more the waiting step is woken. A final outcome is stored also where the lease was lost, under its own attempt
        and unless another is known; anything less only by the lease's holder.
        """


class DelegationResult(Value, frozen=True):
    """How an execution of a delegation ended, for logs and Flower: no data, no secrets."""

    outcome: str
    """``succeeded``, ``failed``, ``waiting``, ``skipped``, ``fenced`` or ``handed back``."""
    detail: str = ""
    doorbells: tuple[Dispatch, ...] = ()
    """What to ring for now: delegations that have room, or the step."""


class DelegationRunner:
    """Runs delegations of parallel steps. One a process, shared by its threads."""

    def __init__(
        self,
        *,
        store: DelegationStore,
        agents: Agents,
        client: AgentClient,
        leases: LeaseKeeper,
        owner: str,
        limits: StepLimits,
        calls: Limits | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.agents = agents
        self.client = client
        self.leases = leases
        self.owner = owner
        self.limits = limits
        self.calls = calls or Unlimited()
        self.stopping = stopping

    def run(self, place: Dispatch) -> DelegationResult:
        """Do the one thing that is next for a delegation, or end quietly where the doorbell rang for nothing.

        Raises:
            StoreUnavailable: PostgreSQL stays away; nothing is lost, the sweep rings again.
            NewerJournal: a newer version's worker must go on.
        """
        if self.stopping():
            return DelegationResult("handed back", "this worker stops", doorbells=(place,))
        with Gate(self.calls, place) as gate:
            claim = self._claim(place, gate)
            if isinstance(claim, NotClaimed):
                told = {"task_id": place.task_id, "step": place.step, "index": place.index, "why": claim.value}
                log.info("delegation.skipped", extra=told)
                return DelegationResult("skipped", claim.value)
            with self.leases.hold(claim.lease):
                verdict = self._carry_out(claim, gate)
                return _result(claim, verdict, self._settle(claim, verdict))

    def _claim(self, place: Dispatch, gate: Gate) -> DelegationClaim | NotClaimed:
        """Claim, and ask again where PostgreSQL broke off.

        A claim that nobody knows of leaves a call in flight that was never sent: who cannot be asked would be parked.
        """
        owner = f"{self.owner}:{secrets.token_hex(4)}"
        begun: list[Start | None] = []

        def begin(task: Task, found: Delegation) -> Start | None:
            begun.append(self._begin(task, found, gate))
            return begun[-1]

        claim = patiently(
            lambda: self.store.claim_delegation(self.limits.lease_for, place, owner, begin),
            self.limits.store_patience,
        )
        if isinstance(claim, NotClaimed):
            return claim
        # Only what this very claim has marked may be sent by it, also where it had to be asked for twice.
        deadlines = [start.deadline_at for start in begun if start is not None]
        return replace(claim, started=claim.delegation.deadline_at in deadlines)

    def _begin(self, task: Task, found: Delegation, gate: Gate) -> Start | None:
        """The mark to send it, where that is what comes next and the agent may be called now.

        Asked inside the claim's transaction, maybe more than once. The gate answers within a moment, whatever Redis
        does: a mark that no request follows would leave an unknown outcome behind a worker that dies.
        """
        agent = self.agents.get(found.agent)
        if agent is None or found.lost_leases >= self.limits.max_lost_leases:
            return None
        if next_exchange(agent, found, task.doubted_at) is not Exchange.SEND or not gate.opens(agent):
            return None
        return started(found.index, agent, now())

    def _carry_out(self, claim: DelegationClaim, gate: Gate) -> Verdict:
        delegation, doubted_at = claim.delegation, claim.task.doubted_at
        agent = self.agents.get(delegation.agent)
        if agent is None:
            return agent_unknown(delegation)
        if not claim.started and delegation.lost_leases >= self.limits.max_lost_leases:
            return set_aside(agent, delegation)
        if gate.refused is not None:
            return not_now(agent, delegation, gate, now())
        exchange = Exchange.SEND if claim.started else next_exchange(agent, delegation, doubted_at)
        if exchange is Exchange.PARK:
            return found_unsendable(delegation, doubted_at)
        if exchange is Exchange.LOOK_UP:
            delegation = as_doubted(agent, delegation, doubted_at)
        outcome = exchange_with(self.client, exchange, agent, delegation)
        gate.passed(outcome)
        return judge(agent, delegation, exchange, outcome, now())

    def _settle(self, claim: DelegationClaim, verdict: Verdict) -> Settled:
        due_at = None
        if verdict.then is not None and not isinstance(verdict.then, Fail):
            due_at = verdict.then.due_at
        fan_out = fan_out_of(claim.task, self.limits)
        return patiently(
            lambda: self.store.settle_delegation(
                claim.lease, claim.delegation.attempts, verdict.settlement, due_at, fan_out
            ),
            self.limits.store_patience,
        )


def _result(claim: DelegationClaim, verdict: Verdict, settled: Settled) -> DelegationResult:
    delegation, settlement = claim.delegation, verdict.settlement
    told = {
        "task_id": delegation.task_id,
        "delegation": delegation.ref,
        "agent": delegation.agent,
        "state": settlement.state.value,
        "attempt": delegation.attempts,
        "code": settlement.error_code,
    }
    if not settled.stored:
        log.warning("delegation.fenced", extra=told)
        return DelegationResult("fenced", "another worker took this delegation over, or has settled it")
    log.info("delegation.ended", extra=told)
    if settlement.state is DelegationState.SUCCEEDED:
        return DelegationResult("succeeded", delegation.agent, settled.doorbells)
    if isinstance(verdict.then, Fail):
        return DelegationResult("failed", f"{verdict.then.code}: {verdict.then.reason}", settled.doorbells)
    detail = delegation.agent
    if verdict.then is not None:
        until = f" until {verdict.then.due_at.isoformat(timespec='seconds')}" if verdict.then.due_at else ""
        detail = f"{verdict.then.waits_for.value}{until}: {verdict.then.reason or delegation.agent}"
    return DelegationResult("waiting", detail, settled.doorbells)
