"""Rules of canceling a call at its agent: what is next, and what an answer means. Pure, no I/O.

Only an agent's own word settles a call: that it was canceled, or how it had ended before. Everything else leaves the
outcome unknown, and what is unknown is looked up or left to a person, as always.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.cancellation import (
    CancelClaim,
    Canceled,
    CancelOutcome,
    CancelState,
    CancelVerdict,
    NotCanceled,
)
from orchestrator.domain.delegation import (
    AGENT_CANCELED,
    BY_EVENT,
    DelegationState,
    InputRequired,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    Replied,
    StillRunning,
)
from orchestrator.domain.journal import Settlement

TELL_FOR = 3600.0
"""Seconds after which an agent that does not say what became of a call is given up, if its time-out is over too."""

_LOOK_AGAIN = 5.0
"""Seconds between two looks into the journal, while what is waited for comes from somebody else."""

_FAILED = frozenset({"agent_failed", "reply_invalid"})


class CancelExchange(Enum):
    """The one thing to do next."""

    TELL = "tell"
    POLL = "poll"
    LOOK_UP = "look_up"


def next_cancel(agent: AgentSpec | None, claim: CancelClaim, now: datetime) -> CancelExchange | CancelVerdict:
    """What to do next about a call that is not wanted any more, or what to write where nothing is to be sent."""
    delegation, state = claim.delegation, claim.cancellation.state
    if delegation.state.is_settled or not claim.was_sent:
        return _ended_before(claim)
    if delegation.told is not None and agent is not None:
        return CancelExchange.POLL
    if agent is None:
        return _nothing_sent(f"agents.yaml has no agent {delegation.agent!r} any more")
    if agent.cancel is None:
        return _nothing_sent(f"{agent.name} does not declare how a call is canceled (cancel)")
    job = _job_of(claim)
    if state is CancelState.TELLING:
        if agent.cancel.url is not None or job is not None:
            return CancelExchange.TELL
        # Its Location may still come, with the answer that a worker waits for.
        if claim.under_way:
            return _rest(state, "the call has no Location yet", now)
        return _nothing_sent("the call has no Location that could be deleted")
    if job is not None:
        return CancelExchange.POLL
    if agent.lookup:
        return CancelExchange.LOOK_UP
    if claim.under_way or delegation.remote_url == BY_EVENT:
        if _is_over(claim, now):
            return _closed(claim, CancelState.GAVE_UP, "it was told, and its reply did not come")
        return _rest(state, claim.cancellation.error or "it was told, and its reply is waited for", now)
    return CancelExchange.TELL


def judge_cancel(
    agent: AgentSpec, claim: CancelClaim, exchange: CancelExchange, outcome: CancelOutcome, now: datetime
) -> CancelVerdict:
    """What the agent's answer means for the cancellation and for its call."""
    index, state = claim.delegation.index, claim.cancellation.state
    match outcome:
        case Canceled(detail):
            return _canceled(index, detail or "canceled")
        case NotDone(code, detail) if code == AGENT_CANCELED:
            return _canceled(index, detail)
        case Replied(output):
            done = Settlement(index, DelegationState.SUCCEEDED, reply=output)
            return CancelVerdict(CancelState.DONE, "it had been done before", settlement=done)
        case NotDone(code, detail) if code in _FAILED and exchange is not CancelExchange.LOOK_UP:
            failed = Settlement(index, DelegationState.FAILED, error_code=code, error=f"{agent.name}: {detail}")
            return CancelVerdict(CancelState.DONE, detail, settlement=failed)
        case StillRunning(remote_url, retry_after):
            known = remote_url if remote_url and remote_url != BY_EVENT else None
            found = Settlement(index, DelegationState.IN_FLIGHT, remote_url=known) if known else None
            return _later(agent, claim, CancelState.ASKING, "it is being canceled", now, retry_after, found)
        case NotCanceled(detail):
            if _job_of(claim) or agent.lookup or claim.under_way or claim.delegation.remote_url == BY_EVENT:
                return _later(agent, claim, CancelState.ASKING, f"not canceled: {detail}", now, None)
            return _closed(claim, CancelState.REFUSED, detail)
        case NeverReceived():
            return _never_received(agent, claim, exchange, now)
        case NotDone(code, detail) if code == "agent_rejected":  # of a poll: the job is gone
            return _gone(agent, claim, detail, now)
        case InputRequired(question):
            return _later(agent, claim, CancelState.ASKING, f"it asks: {question}", now, 60.0)
        case NotDone(_, detail, retry_after=retry_after):
            return _later(agent, claim, state, detail, now, retry_after)
        case OutcomeUnknown(_, detail):
            return _later(agent, claim, state, detail, now, None)


def _canceled(index: int, detail: str) -> CancelVerdict:
    settlement = Settlement(index, DelegationState.FAILED, error_code=AGENT_CANCELED, error=detail)
    return CancelVerdict(CancelState.CANCELED, detail, settlement=settlement)


def _never_received(agent: AgentSpec, claim: CancelClaim, exchange: CancelExchange, now: datetime) -> CancelVerdict:
    """404: the request may still be on its way until the call's time is over."""
    detail = f"{agent.name} does not know the call"
    deadline = claim.delegation.deadline_at
    if exchange is CancelExchange.TELL and _job_of(claim):
        return _gone(agent, claim, detail, now)
    if deadline is not None and now < deadline:
        seconds = min((deadline - now).total_seconds(), agent.retry.delay(claim.cancellation.attempts))
        return _later(agent, claim, claim.cancellation.state, detail, now, seconds)
    if exchange is CancelExchange.LOOK_UP:
        never = Settlement(
            claim.delegation.index, DelegationState.FAILED, error_code="agent_never_received", error=detail
        )
        return CancelVerdict(CancelState.DONE, detail, settlement=never)
    return _gone(agent, claim, detail, now)


def _gone(agent: AgentSpec, claim: CancelClaim, detail: str, now: datetime) -> CancelVerdict:
    """The agent does not know the call, or its job, any more: only a look-up can tell, or a person."""
    if not agent.lookup:
        return _closed(claim, CancelState.UNKNOWN, detail)
    unknown = Settlement(claim.delegation.index, DelegationState.UNKNOWN, error_code=_REASON, error=detail)
    return _later(agent, claim, CancelState.ASKING, detail, now, None, unknown)


_REASON = "cancel_unknown"
"""Error code of a call whose cancel did not say what became of it."""


def _later(
    agent: AgentSpec,
    claim: CancelClaim,
    state: CancelState,
    detail: str,
    now: datetime,
    retry_after: float | None,
    settlement: Settlement | None = None,
) -> CancelVerdict:
    if _is_over(claim, now):
        return _closed(claim, CancelState.GAVE_UP, detail)
    seconds = agent.retry.delay(claim.cancellation.attempts) if retry_after is None else max(0.2, retry_after)
    return CancelVerdict(state, detail, now + timedelta(seconds=seconds), settlement)


def _closed(claim: CancelClaim, state: CancelState, detail: str) -> CancelVerdict:
    """Nothing more is tried. What became of the call nobody can tell but a person."""
    unknown = Settlement(claim.delegation.index, DelegationState.UNKNOWN, error_code=_REASON, error=detail, parked=True)
    return CancelVerdict(state, detail, settlement=unknown)


def _ended_before(claim: CancelClaim) -> CancelVerdict:
    """The call's outcome is on record already: there is nothing to cancel."""
    if claim.delegation.error_code == AGENT_CANCELED:
        return CancelVerdict(CancelState.CANCELED, claim.delegation.error, exchanged=False)
    detail = "it had come to its end before" if claim.was_sent else "it had not been sent"
    return CancelVerdict(CancelState.DONE, detail, exchanged=False)


def _rest(state: CancelState, detail: str, now: datetime) -> CancelVerdict:
    return CancelVerdict(state, detail, due_at=now + timedelta(seconds=_LOOK_AGAIN), exchanged=False)


def _nothing_sent(why: str) -> CancelVerdict:
    return CancelVerdict(CancelState.NOT_OFFERED, why, exchanged=False)


def _is_over(claim: CancelClaim, now: datetime) -> bool:
    """Whether both the hour for telling and the call's own time are over."""
    deadline = claim.delegation.deadline_at
    return (now - claim.cancellation.asked_at).total_seconds() > TELL_FOR and (deadline is None or now > deadline)


def _job_of(claim: CancelClaim) -> str | None:
    url = claim.delegation.remote_url
    return url if url and url != BY_EVENT else None
