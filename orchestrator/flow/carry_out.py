"""Carrying out a recorded decision: each of its delegations is sent, polled or looked up until its outcome is known.

One after another, by index. A delegation is marked in flight in a commit before its request leaves; what came back is
in the journal before the next one leaves. `orchestrator.flow.delegate` holds the rules, this module their course.
"""

from __future__ import annotations

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import Delegation, DelegationState, LookupOutcome
from orchestrator.domain.ids import idempotency_key
from orchestrator.domain.journal import (
    Cancel,
    Committed,
    Fail,
    GoOn,
    NewDelegation,
    Settlement,
    StepCommit,
)
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.delegate import Exchange, found_unsendable, judge, next_exchange, started
from orchestrator.flow.ports import AgentClient, AgentRequest, Agents
from orchestrator.flow.turn import StepResult, Turn, now


def begin_calls(turn: Turn, decision: Decision, agents: Agents, client: AgentClient) -> StepResult:
    """Commit a decision with its delegations, the first of them in flight, then carry it out."""
    rows = [
        NewDelegation(
            index=index,
            agent=call.agent,
            arguments=call.arguments,
            task=call.task or turn.task.description,
            key=idempotency_key(turn.task.task_id, turn.lease.step, index, call.agent, call.arguments),
            side_effects=_side_effects(agents.get(call.agent)),
        )
        for index, call in enumerate(decision.calls)
    ]
    first = None if turn.stopping() else agents.get(decision.calls[0].agent)
    starts = (started(0, first, now()),) if first else ()
    committed = turn.write(StepCommit(GoOn(), decision=decision, delegations=tuple(rows), starts=starts))
    return carry_out(turn, agents, client, ours=0 if starts else None, committed=committed)


def carry_out(
    turn: Turn, agents: Agents, client: AgentClient, ours: int | None = None, committed: Committed | None = None
) -> StepResult:
    """Bring every delegation of the step to an end.

    Args:
        turn: the step's execution.
        agents: the registry.
        client: calls agents.
        ours: the delegation that is in flight by our own commit and not sent yet.
        committed: what that commit said.
    """
    while True:
        if committed is not None and committed.cancel_requested:
            return _take_back(turn, ours)
        delegation = _next_open(turn)
        if delegation is None:
            break
        if delegation.state is DelegationState.FAILED:  # by a person's word: who fails by itself ends the step at once
            return turn.end(StepCommit(Fail(delegation.error_code or "agent_failed", delegation.error or "it failed")))
        agent = agents.get(delegation.agent)
        if agent is None:
            reason = f"agents.yaml has no agent {delegation.agent!r} any more; put it back and retry the task"
            return turn.end(StepCommit(Fail("agent_unknown", reason)))
        exchange = Exchange.SEND if delegation.index == ours else next_exchange(agent, delegation)
        if exchange is Exchange.SEND and delegation.index != ours:
            if turn.stopping():
                return turn.hand_back()
            committed = turn.write(StepCommit(GoOn(), starts=(started(delegation.index, agent, now()),)))
            ours = delegation.index
            continue
        if exchange is Exchange.PARK:
            verdict = found_unsendable(agent, delegation)
        else:
            if exchange is Exchange.SEND:
                reach(FaultPoint.DELEGATION_MARKED, turn.task.task_id)
            outcome = _exchange(client, exchange, agent, delegation)
            reach(FaultPoint.DELEGATION_ANSWERED, turn.task.task_id)
            verdict = judge(agent, delegation, exchange, outcome, now())
        ours = None
        turn.keep(verdict.settlement)
        if verdict.then is not None:
            return turn.end(StepCommit(verdict.then))
    for delegation in turn.delegations.values():
        turn.change(_provided(agents.get(delegation.agent), delegation))
    return turn.end(StepCommit(turn.forward()))


def _side_effects(agent: AgentSpec | None) -> bool:
    return agent is None or agent.side_effects


def _next_open(turn: Turn) -> Delegation | None:
    return next((d for _, d in sorted(turn.delegations.items()) if d.state is not DelegationState.SUCCEEDED), None)


def _exchange(client: AgentClient, exchange: Exchange, agent: AgentSpec, delegation: Delegation) -> LookupOutcome:
    request = AgentRequest(
        task_id=delegation.task_id,
        step=delegation.step,
        key=delegation.key,
        task=delegation.task,
        arguments=delegation.arguments,
        send_before=delegation.deadline_at,
    )
    match exchange:
        case Exchange.POLL if delegation.remote_url:
            return client.poll(agent, request, delegation.remote_url)
        case Exchange.LOOK_UP:
            return client.look_up(agent, request)
        case _:
            return client.call(agent, request)


def _take_back(turn: Turn, ours: int | None) -> StepResult:
    """End the task as canceled before the call that was about to leave."""
    if ours is not None:
        turn.keep(Settlement(ours, DelegationState.PENDING))
    return turn.end(StepCommit(Cancel("canceled by request")))


def _provided(agent: AgentSpec | None, delegation: Delegation) -> list[Change]:
    """The context fields that a reply fills, by the agent's ``provides``; a pointer to nothing fills nothing."""
    changes = []
    for name, pointer in agent.provides.items() if agent else ():
        try:
            value = resolve(delegation.reply, pointer)
        except PointerError:
            continue
        origin = Origin(
            *delegation.told_by,
            now(),
            step=delegation.step,
            delegation=delegation.key,
            pointer=pointer,
        )
        changes.append(Change(name, value, origin))
    return changes
