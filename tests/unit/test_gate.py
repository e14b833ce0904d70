"""What a refusal of the limits means for a delegation, without servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.domain.agent import AgentLimits, AgentSpec
from orchestrator.domain.delegation import (
    Delegation,
    DelegationState,
    LookupOutcome,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    Replied,
    StillRunning,
)
from orchestrator.domain.journal import Dispatch, Fail, Wait
from orchestrator.domain.limits import Limited, NotNow, limited_agent, went_well
from orchestrator.flow.limits import Gate, Permit, not_now

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = AgentSpec("score", "Scores.", "http://127.0.0.1:1/score", limits=AgentLimits(2, 5.0))


class Scripted:
    """Limits that answer what the test says, and a permit that notes how it was left."""

    def __init__(self, *answers: NotNow | None) -> None:
        self.answers = list(answers)
        self.left: list[bool | None] = []

    def enter(self, what: Limited, waiter: Dispatch) -> Permit | NotNow:
        assert what == limited_agent(AGENT)
        assert waiter.task_id == "t-1"
        return self.answers.pop(0) or self

    def leave(self, well: bool | None) -> None:
        self.left.append(well)


def delegation(state: DelegationState = DelegationState.PENDING) -> Delegation:
    return Delegation("t-1", 1, 0, "score", {}, "do", "key", state, attempts=1)


def refusal(*, for_good: bool = False) -> NotNow:
    return NotNow("agent_at_capacity", "score is busy", 2.0, for_good=for_good)


@pytest.mark.parametrize("state", [DelegationState.PENDING, DelegationState.IN_FLIGHT, DelegationState.UNKNOWN])
def test_a_refused_call_waits_and_stays_what_it_was(state: DelegationState) -> None:
    gate = Gate(Scripted(refusal()), Dispatch("t-1", 1))
    assert not gate.opens(AGENT)
    verdict = not_now(AGENT, delegation(state), gate, NOW)
    assert verdict.settlement.state is state
    assert isinstance(verdict.then, Wait)
    assert verdict.then.due_at == NOW + timedelta(seconds=2)
    assert (verdict.then.reason_code, verdict.then.reason) == ("agent_at_capacity", "score is busy")


def test_waiting_that_is_given_up_fails_the_delegation() -> None:
    gate = Gate(Scripted(refusal(for_good=True)), Dispatch("t-1", 1))
    gate.opens(AGENT)
    verdict = not_now(AGENT, delegation(), gate, NOW)
    assert verdict.settlement.state is DelegationState.FAILED
    assert isinstance(verdict.then, Fail)
    assert verdict.then.code == "agent_down"


def test_a_gate_gives_back_what_it_holds_once() -> None:
    limits = Scripted(refusal(), None)
    with Gate(limits, Dispatch("t-1", 1)) as gate:
        assert not gate.opens(AGENT)
        assert gate.opens(AGENT)
        assert gate.opens(AGENT), "asked again it holds the same"
        assert gate.refused is None
        gate.passed(Replied({}))
    assert limits.left == [True]
    with Gate(Scripted(refusal()), Dispatch("t-1", 1)) as shut:
        shut.opens(AGENT)


def test_a_gate_left_by_an_error_gives_back_without_a_verdict() -> None:
    limits = Scripted(None)
    with pytest.raises(RuntimeError), Gate(limits, Dispatch("t-1", 1)) as gate:
        gate.opens(AGENT)
        raise RuntimeError
    assert limits.left == [None]


@pytest.mark.parametrize(
    ("outcome", "well"),
    [
        (Replied({}), True),
        (StillRunning(None, 1.0), True),
        (NeverReceived(), True),
        (NotDone("agent_rejected", "no"), True),
        (NotDone("agent_down", "away", retryable=True), False),
        (NotDone("agent_busy", "503", retryable=True), False),
        (NotDone("agent_busy", "429", retryable=True, retry_after=3.0), None),
        (NotDone("not_sent", "late", retryable=True), None),
        (OutcomeUnknown("agent_timeout", "slow"), False),
        (OutcomeUnknown("agent_error", "500"), False),
        (OutcomeUnknown("reply_invalid", "odd"), None),
    ],
)
def test_what_an_outcome_says_of_the_agents_health(outcome: LookupOutcome, well: bool | None) -> None:
    assert went_well(outcome) is well
