"""Agents that ask back: a job that needs a person's word becomes a question, and the answer goes to the agent.

The step itself carries such a call on; of several calls, once the others have ended. An answer is sent under a key of
its own, the same however often, and the agent's time begins anew with it: what a person took is not the agent's.

An answer is an effect. To an agent that has side effects and does not honour keys it is marked as sent in a commit of
its own before it leaves. Where that mark is found (a worker died, or the agent's word was lost), nobody can know here
whether the answer has arrived, but the job does: it is asked, and told again only while it asks that very question. A
job that words its question otherwise with every poll may ask the next one: then the person is asked, and nobody is told
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import BY_EVENT, AgentOutcome, Delegation, DelegationState, InputRequired, NotDone
from orchestrator.domain.delegation import OutcomeUnknown as Unknown
from orchestrator.domain.journal import Fail, GoOn, Settlement, StepCommit, Wait
from orchestrator.domain.question import MAX_TEXT, NO_ANSWER, Question, QuestionKind, QuestionState
from orchestrator.domain.value import replace
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.delegate import Exchange, Verdict, judge
from orchestrator.flow.ports import AgentClient, AgentRequest
from orchestrator.flow.turn import Turn, now
from orchestrator.flow.waiting import escalated, later, wait_for_people

ANSWER_REFUSED = "answer_refused"
_NOT_TAKEN = " (The agent did not take "
_ANSWER_CHARS = 200
"""How much of an answer that was not taken is shown again."""


def in_hand(turn: Turn) -> list[Delegation]:
    """The delegations that the step carries out itself: its only one, or of several those that have asked back."""
    open_ones = [one for _, one in sorted(turn.delegations.items()) if not one.state.is_settled]
    if len(turn.delegations) == 1:
        return open_ones
    return [one for one in open_ones if one.parked and one.state is DelegationState.IN_FLIGHT]


def question_of(turn: Turn, delegation: Delegation) -> Question | None:
    """What its agent has asked and has not been told yet."""
    wanted = {QuestionState.OPEN, QuestionState.ANSWERED}
    return next((one for one in _questions(turn, delegation) if one.state in wanted), None)


def ask(turn: Turn, agent: AgentSpec, delegation: Delegation, asked: InputRequired) -> None:
    """Ask a person what the agent wants to know; written with the next commit."""
    number = len(_questions(turn, delegation)) + 1
    rules, at = agent.questions, now()
    turn.ask(
        Question(
            ref=f"{delegation.ref}.{number}",
            kind=QuestionKind.AGENT,
            step=delegation.step,
            text=asked.question,
            asked_at=at,
            index=delegation.index,
            choices=asked.choices,
            schema=asked.schema,
            who=asked.who or rules.who,
            timeout_at=later(at, rules.timeout),
            escalate_to=rules.escalate_to,
            escalate_at=later(at, rules.escalate_after),
            answer_url=asked.answer_url,
        )
    )


def send_answer(
    turn: Turn, client: AgentClient, agent: AgentSpec, delegation: Delegation, question: Question
) -> Verdict | None:
    """Tell the agent what a person answered, and judge what it says to that; None: a cancel came before it left.

    Raises:
        LeaseLost: another worker took over before the answer left.
        StoreUnavailable: PostgreSQL stayed away before the answer left.
    """
    url = question.answer_url or delegation.remote_url or agent.url
    number = len(_questions(turn, delegation))
    request = AgentRequest(
        delegation.task_id, delegation.step, delegation.key, delegation.task, delegation.arguments, remote_url=url
    )
    reach(FaultPoint.ANSWER_IN_HAND, delegation.task_id)
    to_be_marked = question.sent_at is None and _is_told_once(agent, delegation, question)
    if to_be_marked:
        marked = _marked(turn, question)
        if marked is None:
            return None
        question = marked
    outcome = None if to_be_marked else _told_before(client, agent, request, delegation, question)
    if outcome is None:
        outcome = client.answer(agent, request, number, question.answer)
        reach(FaultPoint.ANSWER_TAKEN, delegation.task_id)
    if isinstance(outcome, NotDone) and outcome.code == ANSWER_REFUSED:
        text = f"{question.text}{_NOT_TAKEN}{repr(question.answer)[:_ANSWER_CHARS]}: {outcome.detail})"[:MAX_TEXT]
        outcome = InputRequired(text, question.choices, question.schema, question.who, question.answer_url)
    begun_anew = (question.answered_at or now()) + timedelta(seconds=agent.timeout.total)
    verdict = judge(agent, replace(delegation, deadline_at=begun_anew), Exchange.POLL, outcome, now())
    if verdict.settlement.state is DelegationState.IN_FLIGHT and _must_be_sent_again(outcome):
        if to_be_marked and isinstance(outcome, NotDone):  # its only sending has certainly not arrived
            turn.ask(replace(question, sent_at=None))
        return verdict
    turn.ask(replace(question, state=QuestionState.SETTLED))
    if isinstance(outcome, InputRequired):
        ask(turn, agent, delegation, outcome)
    return replace(verdict, settlement=replace(verdict.settlement, deadline_at=begun_anew))


def _told_before(
    client: AgentClient, agent: AgentSpec, request: AgentRequest, delegation: Delegation, question: Question
) -> AgentOutcome | None:
    """What the job of an agent that may have been told says where it asks this no more; None: it may be told."""
    if not _is_told_once(agent, delegation, question):
        return None
    url = delegation.remote_url
    found = client.poll(agent, replace(request, remote_url=url), url or "")
    return None if isinstance(found, InputRequired) and _asks(found, question) else found


def _is_told_once(agent: AgentSpec, delegation: Delegation, question: Question) -> bool:
    """Whether an answer that may have arrived must not be sent again, and its job can be asked."""
    return not agent.may_repeat and delegation.remote_url not in {None, BY_EVENT, question.answer_url}


def _marked(turn: Turn, question: Question) -> Question | None:
    """The question, marked in a commit of its own: its answer may have left from now on. None: a cancel came."""
    marked = replace(question, sent_at=now())
    turn.ask(marked)
    if turn.write(StepCommit(GoOn())).cancel_requested:
        turn.ask(question)
        return None
    reach(FaultPoint.ANSWER_MARKED, turn.task.task_id)
    return marked


def _asks(asked: InputRequired, question: Question) -> bool:
    """Whether this is the question that was answered, and not the next one."""
    refused_before = (asked.question + _NOT_TAKEN)[:MAX_TEXT]
    same_text = question.text == asked.question or question.text.startswith(refused_before)
    rest = (asked.choices, asked.schema, asked.answer_url)
    return same_text and rest == (question.choices, question.schema, question.answer_url)


def not_answered(turn: Turn, agent: AgentSpec, delegation: Delegation, question: Question) -> Verdict:
    """The verdict for an agent whose question nobody answered in time: the call fails, whatever it has done so far."""
    turn.ask(replace(question, state=QuestionState.TIMED_OUT))
    reason = f"{agent.name} asks, and nobody answered in time: {question.text}"
    settlement = Settlement(
        delegation.index,
        DelegationState.FAILED,
        error_code=NO_ANSWER,
        error=reason,
        # Its job is there still, and asks: a retry goes on with it, and an undo has it canceled.
        remote_url=delegation.remote_url,
        may_have_acted=agent.side_effects,
    )
    return Verdict(settlement, Fail(NO_ANSWER, reason))


def wait_for_answers(turn: Turn) -> Wait:
    """The wait for what agents want to know of people; those to be told by now that nobody has answered are told."""
    asked = []
    for one in in_hand(turn):
        question = question_of(turn, one)
        if question is not None and question.state is QuestionState.OPEN:
            told = escalated(question)
            if told is not question:
                turn.ask(told)
            asked.append(told)
    return wait_for_people(asked, same_step=True)


def kept_by_step(turn: Turn, verdict: Verdict) -> Verdict:
    """The verdict as the step writes it: of several calls, one that goes on stays the step's own."""
    in_flight = verdict.settlement.state is DelegationState.IN_FLIGHT
    if verdict.settlement.parked or not (in_flight and len(turn.delegations) > 1):
        return verdict
    return replace(verdict, settlement=replace(verdict.settlement, parked=True))


def _must_be_sent_again(outcome: AgentOutcome) -> bool:
    return isinstance(outcome, Unknown) or (isinstance(outcome, NotDone) and outcome.retryable)


def _questions(turn: Turn, delegation: Delegation) -> Sequence[Question]:
    return [
        one
        for one in turn.questions.values()
        if one.kind is QuestionKind.AGENT and (one.step, one.index) == (delegation.step, delegation.index)
    ]
