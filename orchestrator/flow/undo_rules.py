"""What an exchange means for an undo: pure rules, no I/O.

Before anything is undone it must be known what was done: a delegation whose outcome is open is settled by waiting out
its deadline, by its agent's look-up, or by sending it again under its key where the agent honours keys. Only what these
say for certain counts; all else is left to a person.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.delegation import (
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
from orchestrator.domain.journal import Settlement, Wait
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.undo import Rest
from orchestrator.domain.value import Value
from orchestrator.flow.delegate import LOOK_UP_FOR, MIN_POLL, Exchange, Verdict


def settling_exchange(agent: AgentSpec, delegation: Delegation, now: datetime) -> Exchange | Rest:
    """How to find out what became of a delegation, or until when to wait for word of it."""
    if delegation.told is not None or (delegation.state is DelegationState.IN_FLIGHT and delegation.remote_url):
        return Exchange.POLL
    if delegation.state is DelegationState.IN_FLIGHT and delegation.deadline_at and now < delegation.deadline_at:
        # A worker that was cut off may still bring the reply; what is on its way has arrived by then.
        return Rest(WaitsFor.AGENT, delegation.deadline_at, f"{delegation.agent} is still being called")
    if agent.lookup:
        return Exchange.LOOK_UP
    # Sent again it would answer with the same unusable reply.
    return Exchange.SEND if agent.may_repeat and delegation.error_code != _INVALID else Exchange.PARK


class Found(Value, frozen=True):
    """What is known of a delegation now: write ``settlement``; then rest, or give up where ``left`` says why."""

    settlement: Settlement | None = None
    rest: Rest | None = None
    left: str | None = None


def found_out(
    agent: AgentSpec, delegation: Delegation, exchange: Exchange, outcome: LookupOutcome, now: datetime
) -> Found:
    """What an exchange with the agent says of a delegation whose outcome was open."""
    index = delegation.index
    match outcome:
        case Replied(output):
            return Found(Settlement(index, DelegationState.SUCCEEDED, reply=output))
        case NeverReceived() if _overdue(delegation, now):
            return Found(_not_done(index, "agent_never_received", "its look-up does not know the call"))
        case NeverReceived():
            return Found(rest=_rest(agent, delegation.deadline_at or now, "waiting out its deadline"))
        case NotDone(code, detail) if code in _SAID_NO:
            return Found(_not_done(index, code, detail))
        case StillRunning(remote_url, retry_after) if not _overdue(delegation, now):
            due_at = now + timedelta(seconds=max(MIN_POLL, retry_after))
            url = remote_url or delegation.remote_url
            running = Settlement(index, DelegationState.IN_FLIGHT, remote_url=url) if url else None
            return Found(running, rest=_rest(agent, min(due_at, delegation.deadline_at or due_at), "still running"))
        case OutcomeUnknown(_, detail) | NotDone(_, detail, True) if exchange is Exchange.POLL and not _overdue(
            delegation, now
        ):
            return Found(rest=_rest(agent, now + timedelta(seconds=1), detail))
        case StillRunning():
            return _still_open(agent, delegation, exchange, "agent_timeout", "it was still running", now)
        case InputRequired(question):
            return _still_open(agent, delegation, exchange, "agent_input_required", f"it asks: {question}", now)
        case NotDone() | OutcomeUnknown():
            return _still_open(agent, delegation, exchange, outcome.code, outcome.detail, now)


_INVALID = "reply_invalid"
_SAID_NO = frozenset({"agent_failed", "agent_canceled", "agent_input_required"})
"""A job's own last word: it did not do it."""


def as_unknown(delegation: Delegation) -> Settlement:
    """What to write of a delegation that nobody but a person can tell of."""
    code, error = delegation.error_code or "interrupted", delegation.error or "no reply was recorded"
    return Settlement(delegation.index, DelegationState.UNKNOWN, error_code=code, error=error)


def may_have_acted(agent: AgentSpec | None, delegation: Delegation) -> str:
    """Why a delegation is left to a person whose outcome cannot be found out."""
    name = delegation.agent if agent is None else agent.name
    detail = delegation.error or "no reply was recorded"
    return (
        f"{name} may or may not have acted ({detail}): ask there; if it acted, undo it there by hand, or say so with "
        f"`orchestrator task resolve` and undo again"
    )


def rest_of(verdict: Verdict) -> Rest | None:
    """The pause that a verdict of `orchestrator.flow.delegate` asks for before a compensation goes on by itself."""
    then = verdict.then
    if isinstance(then, Wait) and then.due_at is not None and then.waits_for is not WaitsFor.PERSON:
        return Rest(then.waits_for, then.due_at, then.reason or "")
    return None


def _still_open(
    agent: AgentSpec, delegation: Delegation, exchange: Exchange, code: str, detail: str, now: datetime
) -> Found:
    unknown = Settlement(delegation.index, DelegationState.UNKNOWN, error_code=code, error=detail)
    if code == _INVALID:
        return Found(unknown, left=detail)
    may_be_sent = agent.may_repeat and not agent.retry.exhausted(delegation.attempts)
    if exchange is Exchange.POLL and (agent.lookup or may_be_sent):
        return Found(unknown, rest=_rest(agent, now + timedelta(seconds=agent.retry.delay(1)), detail))
    if exchange is Exchange.LOOK_UP:
        overdue = (now - delegation.deadline_at).total_seconds() if delegation.deadline_at else 0.0
        if overdue <= LOOK_UP_FOR:
            due_at = now + timedelta(seconds=max(agent.retry.delay(1), min(overdue / 2, 60.0)))
            return Found(unknown, rest=_rest(agent, due_at, f"{detail}; asking its look-up"))
    # A refusal says nothing of the first attempt under this key: it may be the secret or the address that is wrong now.
    if exchange is Exchange.SEND and code != "agent_rejected" and not agent.retry.exhausted(delegation.attempts):
        return Found(
            unknown, rest=_rest(agent, now + timedelta(seconds=agent.retry.delay(delegation.attempts)), detail)
        )
    return Found(unknown, left=detail)


def _not_done(index: int, code: str, detail: str) -> Settlement:
    return Settlement(index, DelegationState.FAILED, error_code=code, error=detail)


def _rest(agent: AgentSpec, due_at: datetime, detail: str) -> Rest:
    return Rest(WaitsFor.AGENT, due_at, f"before it is undone it must be known what {agent.name} did: {detail}")


def _overdue(delegation: Delegation, now: datetime) -> bool:
    return delegation.deadline_at is None or now >= delegation.deadline_at
