"""Deciding the next step ahead, where a worker goes straight on with it: its decision is recorded with its claim.

One commit instead of two, for a planner that decides in memory. Only the usual case: one call that needs nobody's
approval, of an agent that may be called now, and called or asked again should the worker die before the request leaves.
In all others the next step decides for itself, as it would by message.
"""

from __future__ import annotations

from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.journal import Ahead, Claim, Dispatch
from orchestrator.errors import OrchestratorError
from orchestrator.flow.approval import approvals_for
from orchestrator.flow.ask import Asking, course, question
from orchestrator.flow.decide import decide
from orchestrator.flow.delegate import Exchange, after_lost_reply, is_doubted, new_delegations, started
from orchestrator.flow.execution import StepLimits
from orchestrator.flow.limits import Gate, Limits
from orchestrator.flow.planning import AtOnce, Planner, PlanRequest
from orchestrator.flow.ports import Agents, EventTypes, StepStore
from orchestrator.flow.progress import no_progress, same_again, used_up
from orchestrator.flow.turn import Turn, now


class LookAhead:
    """Implements `orchestrator.flow.execution.LooksAhead`. One a process."""

    def __init__(
        self,
        store: StepStore,
        planner: Planner,
        agents: Agents,
        event_types: EventTypes,
        limits: StepLimits,
        calls: Limits,
    ) -> None:
        self._store = store
        self._planner = planner if isinstance(planner, AtOnce) else None
        self._agents = agents
        self._event_types = event_types
        self._limits = limits
        self._calls = calls

    def __call__(self, claim: Claim) -> tuple[Ahead, Gate] | None:
        """What the step decides that this claim will be of, and the open gate of its call; None: it is to ask itself.

        Args:
            claim: the next step's as it will be, its history included.
        """
        if self._planner is None:
            return None
        turn = Turn(self._store, claim, self._event_types, self._limits)
        if used_up(turn) or no_progress(turn.task.idle_steps, turn.limits):
            return None
        history = course(turn)
        request = question(turn, history, self._agents, self._event_types)
        found = self._planner.decide_at_once(request)
        if found is None or found.kind is not DecisionKind.CALL or len(found.calls) != 1:
            return None
        try:
            decision = decide(Asking(_Decided(found), turn), request, 1)
        except OrchestratorError:
            return None  # the step says what is wrong, in its own name
        if same_again(decision, history, turn.limits) or approvals_for(
            turn.task, turn.lease.step, decision, self._agents
        ):
            return None
        agent = self._agents.get(decision.calls[0].agent)
        if agent is None or after_lost_reply(agent) is Exchange.PARK or is_doubted(agent, None, turn.task.doubted_at):
            return None
        if agent.limits.rate is not None:
            return None  # a permit is used up even where the commit finds that the call cannot be made after all
        rows = new_delegations(turn.task, turn.lease.step, decision, self._agents)
        asked, offer = turn.question_asked
        ahead = Ahead(decision, rows, (started(0, agent, now()),), asked, offer)
        gate = Gate(self._calls, Dispatch(turn.task.task_id, turn.lease.step, turn.task.urgency))
        return (ahead, gate) if gate.opens(agent) else None


class _Decided:
    """A planner that has decided already."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def decide(self, request: PlanRequest) -> Decision:  # noqa: ARG002 - the port has it
        """The decision."""
        return self._decision
