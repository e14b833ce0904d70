"""Telling an agent that a call is not wanted any more, from its claim to what the agent said: a Celery task of its own.

A task that is canceled, undone or out of time notes its calls under way in the commit that ends it. This tells their
agents, again and again within bounds until one says what became of the call. Nothing is settled by our wish: only by
the agent's word (`orchestrator.flow.cancel_rules`).
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Protocol

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.cancellation import CancelClaim, CancelOutcome, CancelVerdict
from orchestrator.domain.delegation import BY_EVENT
from orchestrator.domain.journal import Dispatch, NotClaimed, Settled
from orchestrator.domain.value import Value, replace
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.cancel_rules import CancelExchange, judge_cancel, next_cancel
from orchestrator.flow.delegate import request_of
from orchestrator.flow.ports import AgentClient, AgentRequest, Agents
from orchestrator.flow.turn import now, patiently

log = logging.getLogger(__name__)


class CancelStore(Protocol):
    """Calls that are not wanted any more."""

    def claim_cancellation(self, place: Dispatch, try_for: timedelta) -> CancelClaim | NotClaimed:
        """Take one up (epoch + 1); a worker that dies in it is followed by another after ``try_for``.

        Refused where it is closed, or not due.
        """

    def write_cancellation(self, claim: CancelClaim, verdict: CancelVerdict) -> Settled:
        """Write what came of a try, fenced by the claim's epoch; with it what became of the call, unless that is known.

        Where it is closed, an update tells of it, and an undo of the task is woken; its doorbell is returned.
        """


class CancelClient(AgentClient, Protocol):
    """A client that can also cancel."""

    def cancel(self, agent: AgentSpec, request: AgentRequest, reason: str) -> CancelOutcome:
        """Say that the call ``request.key`` is not wanted any more; only where the agent declares ``cancel``."""


class CancelResult(Value, frozen=True):
    """How a try ended, for logs and Flower."""

    outcome: str
    """A `CancelState`, ``skipped`` or ``fenced``."""
    detail: str = ""
    doorbells: tuple[Dispatch, ...] = ()


class CallCanceler:
    """Tells agents. One a process, shared by its threads."""

    def __init__(
        self,
        *,
        store: CancelStore,
        agents: Agents,
        client: CancelClient,
        try_for: timedelta = timedelta(seconds=9),
        store_patience: float = 60.0,
    ) -> None:
        self.store = store
        self.try_for = try_for
        self.agents = agents
        self.client = client
        self.store_patience = store_patience

    def run(self, place: Dispatch) -> CancelResult:
        """Do the one thing that is next about a call that is not wanted any more.

        Raises:
            StoreUnavailable: PostgreSQL stays away; nothing is lost, the sweep rings again.
            NewerJournal: a newer version's worker must go on.
        """
        claim = patiently(lambda: self.store.claim_cancellation(place, self.try_for), self.store_patience)
        if isinstance(claim, NotClaimed):
            return CancelResult("skipped", claim.value)
        verdict = self._try(claim)
        written = patiently(lambda: self.store.write_cancellation(claim, verdict), self.store_patience)
        told = {
            "task_id": place.task_id,
            "delegation": claim.cancellation.ref,
            "agent": claim.cancellation.agent,
            "state": verdict.state.value,
            "attempt": claim.cancellation.attempts,
            "stored": written.stored,
        }
        log.info("cancel.tried", extra=told)
        if not written.stored:
            return CancelResult("fenced", "another worker went on with it, or the call is wanted again")
        return CancelResult(verdict.state.value, f"{claim.cancellation.agent}: {verdict.error}", written.doorbells)

    def _try(self, claim: CancelClaim) -> CancelVerdict:
        agent = self.agents.get(claim.delegation.agent)
        following = next_cancel(agent, claim, now())
        if isinstance(following, CancelVerdict):
            return following
        if agent is None:
            raise AssertionError("an agent that is not known is not talked to")
        reach(FaultPoint.CANCEL_CLAIMED, claim.cancellation.task_id)
        outcome = self._exchange(following, agent, claim)
        reach(FaultPoint.CANCEL_ANSWERED, claim.cancellation.task_id)
        return judge_cancel(agent, claim, following, outcome, now())

    def _exchange(self, exchange: CancelExchange, agent: AgentSpec, claim: CancelClaim) -> CancelOutcome:
        delegation = claim.delegation
        # A cancel has no moment by which it must have left.
        request = replace(request_of(delegation), send_before=None, remote_url=delegation.remote_url)
        match exchange:
            case CancelExchange.TELL:
                return self.client.cancel(agent, request, claim.cancellation.reason)
            case CancelExchange.POLL:
                return self.client.poll(agent, request, delegation.remote_url or BY_EVENT)
            case CancelExchange.LOOK_UP:
                return self.client.look_up(agent, request)
