"""Undo: completed delegations are compensated, newest first, as soon as it is known of each what it did.

find out ▶ intent ▶ call ▶ commit, one delegation after another, under the task's lease and its fences. Everything is in
the journal before it is sent, so an undo whose worker dies goes on elsewhere: a compensation under way is treated like
any delegation under way (repeated under its key, looked up, or left to a person).

Definitions. A call in flight is waited for until its deadline. An outcome that is not known is found out by
`orchestrator.flow.undo_rules`; where only a person can tell, that delegation is listed and the undo goes on with
the older ones. What has no ``compensate``, or refuses for good, is listed too. Nothing holds an undo up for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import (
    BY_EVENT,
    Delegation,
    DelegationState,
    InputRequired,
    LookupOutcome,
    OutcomeUnknown,
)
from orchestrator.domain.journal import Claim, GoOn, Lease, Settlement
from orchestrator.domain.limits import NotNow
from orchestrator.domain.pointer import PointerError
from orchestrator.domain.restore import RESTORED
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.undo import (
    NOT_KNOWN,
    Begun,
    Ended,
    Rest,
    Settled,
    Tried,
    UndoCommit,
    UndoCommitted,
    Undoing,
    compensation_input,
    newest_first,
)
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.delegate import (
    Exchange,
    as_doubted,
    forgotten,
    found_unsendable,
    is_doubted,
    judge,
    next_exchange,
    request_of,
    started,
)
from orchestrator.flow.execution import StepLimits, StepResult
from orchestrator.flow.limits import Gate
from orchestrator.flow.ports import AgentClient, Agents
from orchestrator.flow.turn import now, patiently
from orchestrator.flow.undo_rules import as_unknown, found_out, may_have_acted, rest_of, settling_exchange

log = logging.getLogger(__name__)


_CANCELED_WITHIN = timedelta(seconds=30)
"""Until when the journal is looked at again while an agent is told to cancel: somebody rings before."""


class UndoStore(Protocol):
    """What an undo reads and writes. Writes are fenced by the lease, as a step's are."""

    def undo_items(self, task_id: str) -> Sequence[Undoing]:
        """Every delegation that acted or may have acted on the world, newest first, with its compensation."""

    def write_undo(self, lease: Lease, commit: UndoCommit) -> UndoCommitted:
        """Write one fenced transaction: what was found out, begun and tried, and how it goes on (see `UndoCommit`).

        A compensation that came through makes its delegation ``compensated`` and takes the fields that it had given
        out of the context. `Rest` and `Ended` release the lease; `Ended` ends the task, but for new items: then it
        is still compensating, and the lease is kept.

        Raises:
            LeaseLost: the undo was taken over or has ended; nothing was written.
        """

    def settle_undo_late(self, task_id: str, attempt: int, tried: Tried) -> bool:
        """Store a compensation's answer that came after the lease was lost, under its own attempt."""


class Undo:
    """One execution of an undo under its lease."""

    def __init__(
        self,
        store: UndoStore,
        claim: Claim,
        agents: Agents,
        client: AgentClient,
        limits: StepLimits,
        gate: Gate,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.gate = gate
        self.store = store
        self.lease = claim.lease
        self.task = claim.task
        self.agents = agents
        self.client = client
        self.limits = limits
        self.stopping = stopping
        self.items: dict[str, Undoing] = {}

    def run(self) -> StepResult:
        """Go on as far as it goes now.

        Raises:
            LeaseLost: another worker took over; an answer in hand was stored under its own attempt.
            StoreUnavailable: PostgreSQL stayed away.
        """
        self._take(self.store.undo_items(self.task.task_id))
        if self.task.lost_leases >= self.limits.max_lost_leases:
            self._give_up_all()
        while True:
            rest = self._stop() or self._find_out() or self._compensate()
            if rest is not None:
                self._write(UndoCommit(rest))
                return StepResult("undoing", f"until {rest.due_at.isoformat(timespec='seconds')}: {rest.reason}")
            ended = self._write(UndoCommit(Ended()))
            if ended.state is not TaskState.COMPENSATING:
                log.info("undo.ended", extra={"task_id": self.task.task_id, "state": ended.state.value})
                return StepResult("undone", f"{ended.state.value}: {ended.reason}")

    def _stop(self) -> Rest | None:
        """The way out of a worker that was told to stop: another goes on at once."""
        return Rest(WaitsFor.RETRY, now(), "its worker was told to stop") if self.stopping() else None

    # -- finding out what was done

    def _find_out(self) -> Rest | None:
        """Settle every delegation whose outcome is open; the earliest rest where some are still open."""
        rests = [rest for item in self._open() if not item.is_settled and (rest := self._settle(item))]
        return min(rests, key=lambda rest: rest.due_at, default=None)

    def _settle(self, item: Undoing) -> Rest | None:
        delegation = item.delegation
        agent = self.agents.get(delegation.agent)
        if agent is None:
            return self._leave(item, NOT_KNOWN, f"agents.yaml has no agent {delegation.agent!r} any more")
        if item.canceling and agent.cancel is not None:
            # Its agent's word settles it and wakes us; asked meanwhile it might begin anew.
            return Rest(WaitsFor.AGENT, now() + _CANCELED_WITHIN, f"{agent.name} is told to cancel its call", True)
        exchange = settling_exchange(agent, delegation, now())
        if exchange is Exchange.LOOK_UP:
            delegation = as_doubted(agent, delegation, self.task.doubted_at)
        if isinstance(exchange, Rest):
            return exchange
        if exchange is Exchange.PARK:
            if delegation.state is not DelegationState.UNKNOWN:  # so that a person can say what became of it
                self._write(UndoCommit(GoOn(), settled=Settled(delegation.key, as_unknown(delegation))))
            return self._leave(item, NOT_KNOWN, may_have_acted(agent, delegation))
        if exchange is Exchange.SEND:
            if not self.gate.opens(agent):
                refused = self.gate.refused_reply
                return self._leave(item, NOT_KNOWN, refused.reason) if refused.for_good else _not_now(refused)
            deadline_at = started(delegation.index, agent, now()).deadline_at
            self._write(UndoCommit(GoOn(), settled=Settled(delegation.key, None, deadline_at)))
            delegation = self.items[delegation.key].delegation
        found = found_out(agent, delegation, exchange, self._exchange(exchange, agent, delegation), now())
        if found.settlement is not None:
            self._write(UndoCommit(GoOn(), settled=Settled(delegation.key, found.settlement)))
        if found.left is not None:
            current = self.items[delegation.key]
            return self._leave(current, NOT_KNOWN, may_have_acted(agent, current.delegation))
        return found.rest

    # -- compensating

    def _compensate(self) -> Rest | None:
        """Compensate one after another; the rest where the newest is to be tried again later."""
        while item := next((one for one in self._open() if one.is_settled), None):
            if rest := self._compensate_one(item) or self._stop():
                return rest
        return None

    def _compensate_one(self, item: Undoing) -> Rest | None:
        delegation = item.delegation
        agent = self.agents.get(delegation.agent)
        undo = None if agent is None else agent.as_undo()
        if agent is None:
            return self._leave(item, "agent_unknown", f"agents.yaml has no agent {delegation.agent!r} any more")
        if undo is None or agent.compensate is None:
            return self._leave(item, "no_compensate", f"{agent.name} does not declare how it is undone (compensate)")
        try:
            arguments = compensation_input(agent.compensate.input, delegation)
        except PointerError as error:
            return self._leave(item, "compensate_input", f"what {agent.name} needs for its undo is not there: {error}")
        return self._try(item, undo, arguments)

    def _try(self, item: Undoing, undo: AgentSpec, arguments: dict[str, Any]) -> Rest | None:
        key = item.delegation.key
        known = item.compensation
        doubted_at = self.task.doubted_at
        exchange = Exchange.SEND
        if known is not None and (known.attempts > 0 or known.state is DelegationState.UNKNOWN):
            exchange = next_exchange(undo, known, doubted_at)
        elif doubted_at is not None and is_doubted(undo, known, doubted_at):
            if not undo.lookup:
                return self._leave(item, RESTORED, forgotten(doubted_at))
            # As if a worker that died had sent it: it is looked up under its key.
            begun = Begun(key, arguments, started(item.delegation.index, undo, now()).deadline_at)
            self._write(UndoCommit(GoOn(), begun=begun))
            known, exchange = self.items[key].compensation, Exchange.LOOK_UP
        if exchange is Exchange.SEND:
            if not self.gate.opens(undo):
                refused = self.gate.refused_reply
                return self._leave(item, "agent_down", refused.reason) if refused.for_good else _not_now(refused)
            begun = Begun(key, arguments, started(item.delegation.index, undo, now()).deadline_at)
            self._write(UndoCommit(GoOn(), begun=begun))
            known = self.items[key].compensation
            reach(FaultPoint.UNDO_MARKED, self.task.task_id)
        if known is None:
            raise AssertionError(f"the intent of undoing {key} was not written")
        if exchange is Exchange.PARK:
            verdict = found_unsendable(known, doubted_at)
        else:
            if exchange is Exchange.LOOK_UP:
                known = as_doubted(undo, known, doubted_at)
            outcome = self._exchange(exchange, undo, known, undoes=key)
            reach(FaultPoint.UNDO_ANSWERED, self.task.task_id)
            verdict = judge(undo, known, exchange, outcome, now())
        rest = rest_of(verdict)
        settlement = verdict.settlement
        self._write(UndoCommit(GoOn(), tried=Tried(key, settlement, closed=rest is None)), attempt=known.attempts)
        reach(FaultPoint.UNDO_RECORDED, self.task.task_id)
        log.info(
            "undo.tried",
            extra={"task_id": self.task.task_id, "delegation": item.delegation.ref, "state": settlement.state.value},
        )
        return rest

    def _leave(self, item: Undoing, code: str, reason: str) -> Rest | None:
        """Leave a delegation to a person, on record; there is nothing to wait for."""
        state = DelegationState.FAILED
        settlement = Settlement(item.delegation.index, state, error_code=code, error=reason)
        self._write(UndoCommit(GoOn(), tried=Tried(item.delegation.key, settlement, closed=True)))
        return None

    def _give_up_all(self) -> None:
        """An undo that kills its workers: whatever is open is left to a person."""
        for item in self._open():
            code = "poison" if item.is_settled else NOT_KNOWN
            self._leave(item, code, f"the undo lost its worker {self.task.lost_leases} times without a commit")

    # -- shared

    def _open(self) -> list[Undoing]:
        return newest_first(item for item in self.items.values() if not item.is_closed)

    def _take(self, items: Sequence[Undoing]) -> None:
        self.items = {item.delegation.key: item for item in items}

    def _exchange(
        self, exchange: Exchange, agent: AgentSpec, delegation: Delegation, undoes: str | None = None
    ) -> LookupOutcome:
        request = replace(request_of(delegation), compensates=undoes)
        outcome: LookupOutcome
        match exchange:
            case Exchange.POLL:
                outcome = self.client.poll(agent, request, delegation.remote_url or BY_EVENT)
            case Exchange.LOOK_UP:
                outcome = self.client.look_up(agent, request)
            case _:
                outcome = self.client.call(agent, request)
                self.gate.passed(outcome)
        if isinstance(outcome, InputRequired):
            # Nobody is asked any more: the task is being undone.
            return OutcomeUnknown("agent_input_required", f"it asks: {outcome.question}")
        return outcome

    def _write(self, commit: UndoCommit, attempt: int = 0) -> UndoCommitted:
        try:
            written = patiently(lambda: self.store.write_undo(self.lease, commit), self.limits.store_patience)
        except LeaseLost:
            if commit.tried is not None and attempt:
                stored = self.store.settle_undo_late(self.task.task_id, attempt, commit.tried)
                log.warning("undo.late_reply", extra={"task_id": self.task.task_id, "stored": stored})
            raise
        self._take(written.items)
        return written


def _not_now(refused: NotNow) -> Rest:
    """The undo waits for room at an agent, as any call does."""
    return Rest(WaitsFor.AGENT, now() + timedelta(seconds=refused.retry_in), refused.reason)
