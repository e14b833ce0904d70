"""Calls that a person must approve: asked with the decision, before anything of it is sent.

The calls of a decision belong together: while one of them waits for its approval, none goes out. The answers are in
``questions``, so a crash or a retry asks nobody twice, whatever agents.yaml says by then.
"""

from __future__ import annotations

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import DECLINED, DelegationState
from orchestrator.domain.journal import Settlement, Wait
from orchestrator.domain.question import APPROVE, DECLINE, Question, QuestionKind, QuestionState
from orchestrator.domain.task import Task
from orchestrator.domain.value import replace
from orchestrator.flow.ports import Agents
from orchestrator.flow.turn import Turn, now
from orchestrator.flow.waiting import escalated, later, timed_out, wait_for_people


def approvals_for(task: Task, step: int, decision: Decision, agents: Agents) -> list[Question]:
    """What people must be asked before the calls that this step decided on may be made."""
    found = []
    for index, call in enumerate(decision.calls):
        agent = agents.get(call.agent)
        if agent is not None and agent.requires_approval:
            found.append(_question(agent, step, index, call.task or task.description))
    return found


def wait_for_approvals(turn: Turn) -> Wait | None:
    """Take up the answers to the step's approvals; the wait that goes on where one is open, else None.

    A call that was declined, or that nobody approved in time, is settled as failed with the code ``declined``: that
    fails no step, and the planner reads why.
    """
    asked = [
        _looked_at(turn, question)
        for question in turn.questions.values()
        if question.kind is QuestionKind.APPROVAL and question.step == turn.lease.step
    ]
    for question in asked:
        if question.state is not QuestionState.OPEN and not question.approved:
            _decline(turn, question)
    open_ones = [question for question in asked if question.state is QuestionState.OPEN]
    return wait_for_people(open_ones, same_step=True) if open_ones else None


def _looked_at(turn: Turn, question: Question) -> Question:
    """The question in the state that it has now, noted for the next commit where that is new."""
    seen = question
    if question.state is QuestionState.ANSWERED:
        seen = replace(question, state=QuestionState.SETTLED)
    elif question.state is QuestionState.OPEN:
        seen = replace(question, state=QuestionState.TIMED_OUT) if timed_out(question) else escalated(question)
    if seen is not question:
        turn.ask(seen)
    return seen


def _decline(turn: Turn, question: Question) -> None:
    delegation = turn.delegations.get(question.index if question.index is not None else -1)
    if delegation is None or delegation.state.is_settled:
        return
    if question.state is QuestionState.TIMED_OUT:
        said = "nobody approved the call in time"
    else:
        said = f"{question.answered_by} declined the call" + (f": {question.why}" if question.why else "")
    turn.keep(Settlement(delegation.index, DelegationState.FAILED, error_code=DECLINED, error=said))


def _question(agent: AgentSpec, step: int, index: int, task: str) -> Question:
    at, rules = now(), agent.approval
    return Question(
        ref=f"{step}.{index}",
        kind=QuestionKind.APPROVAL,
        step=step,
        text=f"May {agent.name} be called? {task}"[:4_000],
        asked_at=at,
        index=index,
        choices=(APPROVE, DECLINE),
        who=rules.who,
        timeout_at=later(at, rules.timeout),
        escalate_to=rules.escalate_to,
        escalate_at=later(at, rules.escalate_after),
    )
