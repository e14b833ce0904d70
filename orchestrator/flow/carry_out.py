"""Carrying out a recorded decision: its delegation is sent, polled or looked up until its outcome is known.

A decision with one call is carried out by its step; one with several runs beside it (`orchestrator.flow.fan_out`). A
delegation is marked in flight in a commit before its request leaves. `orchestrator.flow.delegate` holds the rules, this
module their course.
"""

from __future__ import annotations

from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Cancel, Committed, Fail, GoOn, Settlement, StepCommit, Wait
from orchestrator.domain.question import Question, QuestionState
from orchestrator.flow.approval import approvals_for, wait_for_approvals
from orchestrator.flow.asking_back import (
    ask,
    in_hand,
    kept_by_step,
    not_answered,
    question_of,
    send_answer,
    wait_for_answers,
)
from orchestrator.flow.delegate import (
    Exchange,
    as_doubted,
    exchange_with,
    found_unsendable,
    is_doubted,
    judge,
    new_delegations,
    next_exchange,
    started,
)
from orchestrator.flow.execution import StepResult
from orchestrator.flow.fan_out import begin_fan_out, is_under_way, join
from orchestrator.flow.limits import Gate, not_now
from orchestrator.flow.ports import AgentClient, Agents
from orchestrator.flow.turn import Turn, now
from orchestrator.flow.waiting import timed_out, wait_for_people


def begin_calls(turn: Turn, decision: Decision, agents: Agents, client: AgentClient, gate: Gate) -> StepResult:
    """Commit a decision with its delegations, and carry it out: one call here, several beside the step."""
    if asked := approvals_for(turn.task, turn.lease.step, decision, agents):
        for question in asked:
            turn.ask(question)
        rows = new_delegations(turn.task, turn.lease.step, decision, agents)
        wait = wait_for_people(asked, same_step=True)
        return turn.end(StepCommit(wait, decision=decision, delegations=rows))
    if len(decision.calls) > 1:
        return begin_fan_out(turn, decision, agents)
    rows = new_delegations(turn.task, turn.lease.step, decision, agents)
    first = None if turn.stopping() else agents.get(decision.calls[0].agent)
    may_be_sent = first is not None and not is_doubted(first, None, turn.task.doubted_at)
    starts = (started(0, first, now()),) if first and may_be_sent and gate.opens(first) else ()
    committed = turn.write(StepCommit(GoOn(), decision=decision, delegations=rows, starts=starts))
    return carry_out(turn, agents, client, gate, ours=0 if starts else None, committed=committed)


def carry_out(
    turn: Turn,
    agents: Agents,
    client: AgentClient,
    gate: Gate,
    ours: int | None = None,
    committed: Committed | None = None,
) -> StepResult:
    """Bring the step's delegation to an end; several are joined.

    Args:
        turn: the step's execution.
        agents: the registry.
        client: calls agents.
        gate: asked before a call is marked as sent; open already where ``ours`` is given.
        ours: the delegation that is in flight by our own commit and not sent yet.
        committed: what that commit said.
    """
    if (wait := wait_for_approvals(turn)) is not None:
        return turn.end(StepCommit(wait))
    doubted_at = turn.task.doubted_at
    while True:
        if committed is not None and committed.cancel_requested:
            return _take_back(turn, ours)
        if is_under_way(turn):
            return join(turn, agents)
        delegation, question = _next_open(turn)
        if delegation is None:
            break
        unanswered = question is not None and question.state is QuestionState.OPEN
        if unanswered and question is not None and not timed_out(question):
            return turn.end(StepCommit(wait_for_answers(turn)))
        agent = agents.get(delegation.agent)
        if agent is None:
            reason = f"agents.yaml has no agent {delegation.agent!r} any more; put it back and retry the task"
            return turn.end(StepCommit(Fail("agent_unknown", reason)))
        if question is not None and unanswered:
            verdict = not_answered(turn, agent, delegation, question)
        elif question is not None:
            told = send_answer(turn, client, agent, delegation, question)
            if told is None:
                return _take_back(turn, None)
            verdict = told
        else:
            exchange = Exchange.SEND if delegation.index == ours else next_exchange(agent, delegation, doubted_at)
            if exchange is Exchange.SEND and delegation.index != ours:
                if turn.stopping():
                    return turn.hand_back()
                if gate.opens(agent):
                    committed = turn.write(StepCommit(GoOn(), starts=(started(delegation.index, agent, now()),)))
                    ours = delegation.index
                    continue
                verdict = not_now(agent, delegation, gate, now())
            elif exchange is Exchange.PARK:
                verdict = found_unsendable(delegation, doubted_at)
            else:
                if exchange is Exchange.LOOK_UP:
                    delegation = as_doubted(agent, delegation, doubted_at)
                outcome = exchange_with(client, exchange, agent, delegation)
                gate.passed(outcome)
                verdict = judge(agent, delegation, exchange, outcome, now())
            if verdict.asks is not None:
                ask(turn, agent, delegation, verdict.asks)
        ours = None
        turn.keep(kept_by_step(turn, verdict).settlement)
        if verdict.asks is not None:
            continue  # another may ask as well; people are waited for once all have
        if isinstance(verdict.then, Wait):
            return turn.end(StepCommit(verdict.then))
    return join(turn, agents)


def _next_open(turn: Turn) -> tuple[Delegation | None, Question | None]:
    """The delegation to go on with and what its agent has asked; first those that wait for nobody's answer any more."""
    found = [(one, question_of(turn, one)) for one in in_hand(turn)]
    waiting = [
        pair for pair in found if pair[1] is not None and pair[1].state is QuestionState.OPEN and not timed_out(pair[1])
    ]
    return next((pair for pair in found if pair not in waiting), waiting[0] if waiting else (None, None))


def _take_back(turn: Turn, ours: int | None) -> StepResult:
    """End the task as canceled before the call that was about to leave."""
    if ours is not None:
        turn.keep(Settlement(ours, DelegationState.PENDING))
    return turn.end(StepCommit(Cancel("canceled by request")))
