"""What an exchange with an agent means for its delegation and for the step: pure rules, but for the exchange itself.

The heart of "nothing done twice": whether a delegation may be sent (again), must be looked up, or has to wait for a
person, is decided here and only here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import (
    BY_EVENT,
    NOT_SENT,
    Delegation,
    DelegationState,
    InputRequired,
    LookupOutcome,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    Replied,
    StillRunning,
)
from orchestrator.domain.ids import idempotency_key
from orchestrator.domain.journal import Fail, NewDelegation, Settlement, Start, Wait
from orchestrator.domain.keepable import kept
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.restore import RESTORED
from orchestrator.domain.task import Task, WaitsFor
from orchestrator.domain.value import Value, replace
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import AgentClient, AgentRequest, Agents

MIN_POLL = 0.2
"""Seconds: no agent's ``Retry-After: 0`` makes us poll in a tight loop."""

LOOK_UP_FOR = 3600.0
"""Seconds past a delegation's deadline after which an agent's silent look-up is given up and a person asked."""


class Exchange(Enum):
    """The one thing to do next with an unsettled delegation."""

    SEND = "send"
    POLL = "poll"
    LOOK_UP = "look_up"
    PARK = "park"
    """Nobody can tell whether it acted but a person."""


def next_exchange(agent: AgentSpec, delegation: Delegation, doubted_at: datetime | None = None) -> Exchange:
    """How to go on with a delegation found in the journal.

    One in flight without an address to poll was sent by a worker that is gone (or paused): its outcome is unknown. So
    is that of one that the journal knows as never sent, where its task is doubted (`is_doubted`).
    """
    if delegation.told is not None:
        return Exchange.POLL
    if delegation.state is DelegationState.PENDING and not is_doubted(agent, delegation, doubted_at):
        return Exchange.SEND
    if delegation.state is DelegationState.IN_FLIGHT and delegation.remote_url:
        return Exchange.POLL
    return after_lost_reply(agent)


def after_lost_reply(agent: AgentSpec) -> Exchange:
    """How to go on with a call that may have been made, and of which there is no word."""
    if agent.may_repeat:
        return Exchange.SEND
    return Exchange.LOOK_UP if agent.lookup else Exchange.PARK


def is_doubted(agent: AgentSpec, delegation: Delegation | None, doubted_at: datetime | None) -> bool:
    """Whether a call may have been made in what a restored PostgreSQL has forgotten, and must not be made twice.

    Args:
        agent: which is called.
        delegation: the call; None: one of which there is no row yet.
        doubted_at: when its task fell into doubt (`Task.doubted_at`).
    """
    if doubted_at is None or agent.may_repeat:
        return False
    cleared_at = None if delegation is None else delegation.cleared_at
    return cleared_at is None or cleared_at < doubted_at


def as_doubted(agent: AgentSpec, delegation: Delegation, doubted_at: datetime | None) -> Delegation:
    """The delegation as its look-up is to be judged: what was forgotten may have been sent until the doubt began."""
    if doubted_at is None or not is_doubted(agent, delegation, doubted_at):
        return delegation
    latest = doubted_at + timedelta(seconds=agent.timeout.total)
    return replace(delegation, deadline_at=max(delegation.deadline_at or latest, latest))


class Verdict(Value, frozen=True):
    """What to write of a delegation, and what that means for the step; ``then`` None: this delegation succeeded."""

    settlement: Settlement
    then: Wait | Fail | None = None
    asks: InputRequired | None = None
    """What the agent wants to know of a person."""


def judge(
    agent: AgentSpec, delegation: Delegation, exchange: Exchange, outcome: LookupOutcome, now: datetime
) -> Verdict:
    """Turn an outcome into a verdict.

    Args:
        agent: whose rules count.
        delegation: as it was when the exchange began, ``attempts`` counting the present one.
        exchange: what was done.
        outcome: what came of it.
        now: the time of the outcome.
    """
    match outcome:
        case Replied(output):
            return Verdict(Settlement(delegation.index, DelegationState.SUCCEEDED, reply=output))
        case InputRequired(question, remote_url=remote_url):
            # Nobody's time-out: a person is asked.
            url = remote_url or delegation.remote_url or outcome.answer_url
            details = {"agent": agent.name, "delegation": delegation.ref}
            return Verdict(
                Settlement(delegation.index, DelegationState.IN_FLIGHT, remote_url=url, parked=True),
                Wait(WaitsFor.PERSON, None, details, reason=f"{agent.name} asks: {question}"),
                outcome,
            )
        case StillRunning(remote_url, retry_after):
            return _still_running(agent, delegation, remote_url or delegation.remote_url, retry_after, now)
        case NotDone() if exchange is Exchange.POLL and outcome.retryable and not _overdue(delegation, now):
            return _still_running(agent, delegation, delegation.remote_url, outcome.retry_after or 1.0, now)
        case NotDone() if exchange is Exchange.POLL and (outcome.retryable or outcome.code == "agent_rejected"):
            # The agent took the job and does not tell of it, or no longer knows it: whether it acted this does not say.
            return _unknown(agent, delegation, OutcomeUnknown(outcome.code, outcome.detail), now)
        case NotDone() if outcome.retryable:
            return _again(agent, delegation, outcome.code, outcome.detail, outcome.retry_after, now)
        case NotDone():
            return _failed(delegation, outcome.code, f"{agent.name}: {outcome.detail}")
        case OutcomeUnknown() if exchange is Exchange.POLL and not _overdue(delegation, now):
            return _still_running(agent, delegation, delegation.remote_url, 1.0, now)
        case OutcomeUnknown():
            return _unknown(agent, delegation, outcome, now)
        case NeverReceived():
            if _overdue(delegation, now):
                return _again(
                    agent, delegation, "agent_never_received", "its look-up does not know the call", None, now
                )
            # The request may still be on its way: a look-up's 404 counts only past the deadline.
            return _ask_later(agent, delegation, delegation.deadline_at or now, "waiting out the agent's deadline")


def started(index: int, agent: AgentSpec, now: datetime) -> Start:
    """The mark that a delegation is about to be sent, with the moment by which the agent must have answered."""
    return Start(index, now + timedelta(seconds=agent.timeout.total))


def found_unsendable(delegation: Delegation, doubted_at: datetime | None = None) -> Verdict:
    """The verdict for `Exchange.PARK`: a person must say what became of it."""
    if doubted_at is not None and delegation.state is DelegationState.PENDING:
        return _park(delegation, RESTORED, forgotten(doubted_at))
    code = delegation.error_code or "interrupted"
    detail = delegation.error or "the worker that sent it is gone and no reply was recorded"
    return _park(delegation, code, detail)


def forgotten(doubted_at: datetime) -> str:
    """Why a call is not made that the journal knows as never made."""
    at = doubted_at.isoformat(timespec="seconds")
    return (
        f"PostgreSQL was restored to an older state at {at}: this agent may have been called already in what was "
        "forgotten"
    )


def agent_unknown(delegation: Delegation) -> Verdict:
    """The verdict for a delegation whose agent the registry does not know any more."""
    reason = f"agents.yaml has no agent {delegation.agent!r} any more; put it back and retry the task"
    if delegation.state is DelegationState.PENDING:
        return _failed(delegation, "agent_unknown", reason)
    settlement = Settlement(
        delegation.index, DelegationState.UNKNOWN, error_code="agent_unknown", error=reason, parked=True
    )
    return Verdict(settlement, parked([delegation]))


def set_aside(agent: AgentSpec, delegation: Delegation) -> Verdict:
    """The verdict for a delegation that has lost one worker after another."""
    reason = f"{agent.name}: the call lost its worker {delegation.lost_leases} times; it is set aside"
    if delegation.state is DelegationState.PENDING or agent.may_repeat:
        return _failed(delegation, "poison", reason)
    return _park(delegation, "poison", reason)


def parked(delegations: Sequence[Delegation]) -> Wait:
    """The wait for a person who says what became of these."""
    first, count = delegations[0], len(delegations)
    details: dict[str, Any] = {"agent": first.agent, "delegation": first.ref, "idempotency_key": first.key}
    reason = (
        f"{first.agent} may or may not have acted ({first.error or 'no reply was recorded'}); it has side effects and "
        f"cannot be asked or safely called again, so delegation {first.ref} waits until a person says what became of it"
    )
    if count > 1:
        details["delegations"] = [one.ref for one in delegations]
        reason += f"; the same holds for {', '.join(f'{one.ref} ({one.agent})' for one in delegations[1:])}"
    return Wait(WaitsFor.PERSON, None, details, reason_code="outcome_unknown", reason=reason)


# -- from a decision to requests, and from replies to fields ----------------------------------------------------------


def new_delegations(task: Task, step: int, decision: Decision, agents: Agents) -> tuple[NewDelegation, ...]:
    """The rows of a decision's calls; each has the key under which it is sent, however often."""
    return tuple(
        NewDelegation(
            index=index,
            agent=call.agent,
            arguments=kept(dict(call.arguments)),
            task=call.task or task.description,
            key=idempotency_key(task.task_id, step, index, call.agent, call.arguments),
            side_effects=_side_effects(agents.get(call.agent)),
            reply_token=_reply_token(agents.get(call.agent)),
        )
        for index, call in enumerate(decision.calls)
    )


def request_of(delegation: Delegation) -> AgentRequest:
    """What goes to the agent of a delegation, or of the compensation of one."""
    return AgentRequest(
        task_id=delegation.task_id,
        step=delegation.step,
        key=delegation.key,
        task=delegation.task,
        arguments=delegation.arguments,
        send_before=delegation.deadline_at,
        reply_token=delegation.reply_token,
        told=delegation.told,
    )


def exchange_with(client: AgentClient, exchange: Exchange, agent: AgentSpec, delegation: Delegation) -> LookupOutcome:
    """Send, poll or look up: one request over the network."""
    request = request_of(delegation)
    outcome: LookupOutcome
    match exchange:
        case Exchange.POLL:
            outcome = client.poll(agent, request, delegation.remote_url or BY_EVENT)
        case Exchange.LOOK_UP:
            outcome = client.look_up(agent, request)
        case _:
            reach(FaultPoint.DELEGATION_MARKED, delegation.task_id)
            outcome = client.call(agent, request)
    reach(FaultPoint.DELEGATION_ANSWERED, delegation.task_id)
    return outcome


def provided(agent: AgentSpec | None, delegation: Delegation, at: datetime) -> list[Change]:
    """The context fields that a reply fills, by the agent's ``provides``; a pointer to nothing fills nothing."""
    changes = []
    for name, pointer in agent.provides.items() if agent else ():
        try:
            value = resolve(delegation.reply, pointer)
        except PointerError:
            continue
        origin = Origin(
            *delegation.told_by,
            at,
            step=delegation.step,
            delegation=delegation.key,
            pointer=pointer,
        )
        changes.append(Change(name, value, origin))
    return changes


def _reply_token(agent: AgentSpec | None) -> str | None:
    return secrets.token_urlsafe(24) if agent is not None and agent.reply == "event" else None


def _side_effects(agent: AgentSpec | None) -> bool:
    return agent is None or agent.side_effects


def _overdue(delegation: Delegation, now: datetime) -> bool:
    return delegation.deadline_at is not None and now >= delegation.deadline_at


def _still_running(
    agent: AgentSpec, delegation: Delegation, remote_url: str | None, retry_after: float, now: datetime
) -> Verdict:
    if _overdue(delegation, now):
        detail = f"still running after its total time-out of {agent.timeout.total:g} s"
        return _unknown(agent, delegation, OutcomeUnknown("agent_timeout", detail), now)
    due_at = now + timedelta(seconds=max(MIN_POLL, retry_after))
    if delegation.deadline_at is not None:
        due_at = min(due_at, delegation.deadline_at)
    # Without an address to poll (a look-up's 202) it stays as it is, and the look-up is repeated.
    state = DelegationState.IN_FLIGHT if remote_url else DelegationState.UNKNOWN
    return Verdict(
        Settlement(delegation.index, state, remote_url=remote_url, deadline_at=delegation.deadline_at),
        Wait(WaitsFor.AGENT, due_at, {"agent": agent.name, "delegation": delegation.ref}),
    )


def _again(
    agent: AgentSpec,
    delegation: Delegation,
    code: str,
    detail: str,
    retry_after: float | None,
    now: datetime,
    *,
    may_have_acted: bool = False,
) -> Verdict:
    reason = f"{agent.name}: {detail} (attempt {delegation.attempts} of {agent.retry.max_attempts})"
    # An attempt that was too late to be made says nothing of the agent: the time went to a pause of ours.
    if code != NOT_SENT and agent.retry.exhausted(delegation.attempts):
        return _failed(delegation, code, reason, may_have_acted=may_have_acted)
    due_at = now + timedelta(seconds=agent.retry.delay(delegation.attempts, retry_after))
    return Verdict(
        Settlement(
            delegation.index,
            DelegationState.PENDING,
            error_code=code,
            error=detail,
            may_have_acted=may_have_acted,
        ),
        Wait(
            WaitsFor.RETRY,
            due_at,
            {"agent": agent.name, "delegation": delegation.ref},
            reason_code=code,
            reason=reason,
        ),
    )


def _failed(delegation: Delegation, code: str, reason: str, *, may_have_acted: bool = False) -> Verdict:
    settlement = Settlement(
        delegation.index, DelegationState.FAILED, error_code=code, error=reason, may_have_acted=may_have_acted
    )
    return Verdict(settlement, Fail(code, reason))


def _unknown(agent: AgentSpec, delegation: Delegation, outcome: OutcomeUnknown, now: datetime) -> Verdict:
    if agent.may_repeat:
        return _again(agent, delegation, outcome.code, outcome.detail, None, now, may_have_acted=True)
    if agent.lookup:
        overdue = (now - delegation.deadline_at).total_seconds() if delegation.deadline_at else 0.0
        if overdue > LOOK_UP_FOR:
            return _park(delegation, outcome.code, f"{outcome.detail}; its look-up gave no answer either")
        due_at = now + timedelta(seconds=max(agent.retry.delay(1), min(overdue / 2, 60.0)))
        return _ask_later(agent, delegation, due_at, outcome.detail, outcome.code)
    return _park(delegation, outcome.code, outcome.detail)


def _ask_later(
    agent: AgentSpec, delegation: Delegation, due_at: datetime, detail: str, code: str = "outcome_unknown"
) -> Verdict:
    return Verdict(
        Settlement(
            delegation.index,
            DelegationState.UNKNOWN,
            error_code=code,
            error=detail,
            deadline_at=delegation.deadline_at,
        ),
        Wait(
            WaitsFor.AGENT,
            due_at,
            {"agent": agent.name, "delegation": delegation.ref},
            reason_code="outcome_unknown",
            reason=f"{agent.name}: {detail}; asking its look-up",
        ),
    )


def _park(delegation: Delegation, code: str, detail: str) -> Verdict:
    settlement = Settlement(delegation.index, DelegationState.UNKNOWN, error_code=code, error=detail, parked=True)
    return Verdict(settlement, parked([replace(delegation, error=detail)]))
