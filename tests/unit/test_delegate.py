"""The rules that decide whether an agent may be called (again): the table of DESIGN's "nothing done twice"."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.agent import AgentSpec, AgentTimeout
from orchestrator.domain.delegation import (
    NOT_SENT,
    Delegation,
    DelegationState,
    LookupOutcome,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    Replied,
    StillRunning,
)
from orchestrator.domain.journal import Fail, Wait
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.value import replace
from orchestrator.flow.delegate import LOOK_UP_FOR, Exchange, Verdict, found_unsendable, judge, next_exchange

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAIN = AgentSpec("pay", "Pays.", "http://pay.test/", retry=RetryPolicy(3, 1.0, 10.0), timeout=AgentTimeout(total=30))
KEYED = replace(PLAIN, idempotent=True)
READER = replace(PLAIN, side_effects=False)
ASKABLE = replace(PLAIN, lookup="http://pay.test/{key}")
SENT = Delegation(
    "t", 1, 0, "pay", {}, "pay", "k", DelegationState.IN_FLIGHT, attempts=1, deadline_at=NOW + timedelta(seconds=30)
)


def verdict(agent: AgentSpec, outcome: LookupOutcome, exchange: Exchange = Exchange.SEND, **change: object) -> Verdict:
    return judge(agent, replace(SENT, **change), exchange, outcome, NOW)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("agent", "state", "remote_url", "expected"),
    [
        (PLAIN, DelegationState.PENDING, None, Exchange.SEND),
        (PLAIN, DelegationState.IN_FLIGHT, None, Exchange.PARK),
        (PLAIN, DelegationState.UNKNOWN, None, Exchange.PARK),
        (PLAIN, DelegationState.IN_FLIGHT, "http://pay.test/jobs/1", Exchange.POLL),
        (KEYED, DelegationState.IN_FLIGHT, None, Exchange.SEND),
        (KEYED, DelegationState.UNKNOWN, None, Exchange.SEND),
        (READER, DelegationState.IN_FLIGHT, None, Exchange.SEND),
        (ASKABLE, DelegationState.IN_FLIGHT, None, Exchange.LOOK_UP),
        (ASKABLE, DelegationState.UNKNOWN, None, Exchange.LOOK_UP),
    ],
)
def test_how_a_delegation_found_in_the_journal_goes_on(
    agent: AgentSpec, state: DelegationState, remote_url: str | None, expected: Exchange
) -> None:
    assert next_exchange(agent, replace(SENT, state=state, remote_url=remote_url)) is expected


def test_a_lost_reply_of_an_agent_with_side_effects_waits_for_a_person() -> None:
    found = verdict(PLAIN, OutcomeUnknown("reply_lost", "connection reset"))
    assert found.settlement.state is DelegationState.UNKNOWN
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is WaitsFor.PERSON
    assert found.then.due_at is None
    assert "until a person says" in (found.then.reason or "")


def test_an_attempt_that_was_too_late_to_be_made_uses_up_nothing() -> None:
    found = verdict(PLAIN, NotDone(NOT_SENT, "its time was over", retryable=True), attempts=3)
    assert found.settlement.state is DelegationState.PENDING
    assert isinstance(found.then, Wait)
    assert isinstance(verdict(PLAIN, NotDone("agent_down", "refused", retryable=True), attempts=3).then, Fail)


@pytest.mark.parametrize("agent", [KEYED, READER])
def test_a_lost_reply_of_an_agent_that_may_be_repeated_is_sent_again_under_its_key(agent: AgentSpec) -> None:
    found = verdict(agent, OutcomeUnknown("reply_lost", "connection reset"))
    assert found.settlement.state is DelegationState.PENDING
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is WaitsFor.RETRY


def test_a_lost_reply_of_an_agent_with_a_look_up_is_looked_up() -> None:
    found = verdict(ASKABLE, OutcomeUnknown("reply_lost", "connection reset"))
    assert found.settlement.state is DelegationState.UNKNOWN
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is WaitsFor.AGENT


def test_a_look_up_that_stays_silent_is_given_up_and_a_person_asked() -> None:
    long_ago = NOW - timedelta(seconds=LOOK_UP_FOR + 1)
    found = verdict(ASKABLE, OutcomeUnknown("agent_down", "refused"), Exchange.LOOK_UP, deadline_at=long_ago)
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is WaitsFor.PERSON


def test_never_received_counts_only_past_the_deadline() -> None:
    early = verdict(ASKABLE, NeverReceived(), Exchange.LOOK_UP)
    assert early.settlement.state is DelegationState.UNKNOWN
    assert isinstance(early.then, Wait)
    assert early.then.due_at == SENT.deadline_at
    late = verdict(ASKABLE, NeverReceived(), Exchange.LOOK_UP, deadline_at=NOW)
    assert late.settlement.state is DelegationState.PENDING


def test_an_agent_that_is_away_is_tried_again_until_its_attempts_are_used() -> None:
    away = NotDone("agent_down", "connection refused", retryable=True)
    again = verdict(PLAIN, away, attempts=2)
    assert again.settlement.state is DelegationState.PENDING
    assert isinstance(again.then, Wait)
    assert again.then.due_at is not None and again.then.due_at > NOW
    last = verdict(PLAIN, away, attempts=3)
    assert last.settlement.state is DelegationState.FAILED
    assert last.then == Fail("agent_down", "pay: connection refused (attempt 3 of 3)")


def test_retry_after_is_a_lower_bound() -> None:
    found = verdict(PLAIN, NotDone("agent_busy", "429", retryable=True, retry_after=42))
    assert isinstance(found.then, Wait)
    assert found.then.due_at is not None and found.then.due_at >= NOW + timedelta(seconds=42)


def test_a_refusal_fails_at_once() -> None:
    found = verdict(PLAIN, NotDone("agent_rejected", "422: amount is negative"))
    assert found.settlement.state is DelegationState.FAILED
    assert isinstance(found.then, Fail)
    assert "amount is negative" in found.then.reason


def test_a_running_job_is_polled_no_later_than_its_deadline() -> None:
    found = verdict(PLAIN, StillRunning("http://pay.test/jobs/1", 3600))
    assert found.settlement.remote_url == "http://pay.test/jobs/1"
    assert isinstance(found.then, Wait)
    assert found.then.due_at == SENT.deadline_at


def test_a_job_of_days_is_polled_when_it_says_after_hours() -> None:
    found = verdict(PLAIN, StillRunning("http://pay.test/jobs/1", 5 * 3600), deadline_at=NOW + timedelta(days=3))
    assert isinstance(found.then, Wait)
    assert found.then.due_at == NOW + timedelta(hours=5)


@pytest.mark.parametrize(("agent", "waits_for"), [(PLAIN, WaitsFor.PERSON), (KEYED, WaitsFor.RETRY)])
def test_a_job_that_outlives_its_time_out_is_unknown(agent: AgentSpec, waits_for: WaitsFor) -> None:
    found = verdict(agent, StillRunning("http://pay.test/jobs/1", 1), Exchange.POLL, deadline_at=NOW)
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is waits_for


def test_an_agent_away_during_a_poll_keeps_its_job() -> None:
    away = NotDone("agent_down", "refused", retryable=True)
    found = verdict(PLAIN, away, Exchange.POLL, remote_url="http://pay.test/jobs/1")
    assert found.settlement.state is DelegationState.IN_FLIGHT
    assert found.settlement.remote_url == "http://pay.test/jobs/1"


def test_an_agent_away_until_its_time_is_over_is_named_as_what_it_is() -> None:
    away = NotDone("agent_down", "refused", retryable=True)
    found = verdict(PLAIN, away, Exchange.POLL, remote_url="http://pay.test/jobs/1", deadline_at=NOW)
    assert (found.settlement.state, found.settlement.error_code) == (DelegationState.UNKNOWN, "agent_down")


def test_a_job_that_the_agent_no_longer_knows_is_not_sent_again() -> None:
    gone = NotDone("agent_rejected", "404")
    found = verdict(PLAIN, gone, Exchange.POLL, remote_url="http://pay.test/jobs/1")
    assert found.settlement.state is DelegationState.UNKNOWN
    assert isinstance(found.then, Wait)
    assert found.then.waits_for is WaitsFor.PERSON


def test_a_reply_settles_whatever_was_unknown() -> None:
    found = verdict(ASKABLE, Replied({"id": 1}), Exchange.LOOK_UP, state=DelegationState.UNKNOWN)
    assert found == Verdict(found.settlement, None)
    assert found.settlement.state is DelegationState.SUCCEEDED


OUTCOMES: st.SearchStrategy[LookupOutcome] = st.one_of(
    st.just(StillRunning("http://pay.test/jobs/1", 1)),
    st.just(StillRunning(None, 1)),
    st.builds(NotDone, st.sampled_from(["agent_down", "agent_rejected", "agent_failed"]), st.just("x"), st.booleans()),
    st.just(OutcomeUnknown("reply_lost", "x")),
)


@given(
    outcome=OUTCOMES,
    exchange=st.sampled_from([Exchange.SEND, Exchange.POLL]),
    attempts=st.integers(1, 5),
    overdue=st.booleans(),
)
def test_an_agent_with_side_effects_and_no_keys_is_sent_again_only_when_it_certainly_did_not_act(
    outcome: LookupOutcome, exchange: Exchange, attempts: int, overdue: bool
) -> None:
    deadline = NOW if overdue else NOW + timedelta(seconds=5)
    found = verdict(
        PLAIN, outcome, exchange, attempts=attempts, deadline_at=deadline, remote_url="http://pay.test/jobs/1"
    )
    if found.settlement.state is DelegationState.PENDING:
        assert isinstance(outcome, NotDone) and outcome.retryable and exchange is Exchange.SEND


def test_what_was_found_unsendable_names_delegation_and_key() -> None:
    then = found_unsendable(SENT).then
    assert isinstance(then, Wait)
    assert then.details == {"agent": "pay", "delegation": "1.0", "idempotency_key": "k"}
