"""Which event ends a wait, and how long it lasts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import PendingEvent
from orchestrator.domain.question import OnTimeout
from orchestrator.domain.wait import EventWait, match_problem

AT = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)


def event(number: int, event_type: str | None = "paid", **data: Any) -> PendingEvent:
    return PendingEvent(number, event_type, data, AT)


@pytest.mark.parametrize(
    ("wait", "fits"),
    [
        ({}, True),
        ({"event_type": "paid"}, True),
        ({"event_type": "shipped"}, False),
        ({"match": {"/order/id": "O-1"}}, True),
        ({"match": {"/order/id": "O-2"}}, False),
        ({"match": {"/order/id": "O-1", "/lines/0/count": 2}}, True),
        ({"match": {"/lines/0/count": 2.0}}, True),
        ({"match": {"/lines/0/count": "2"}}, False),
        ({"match": {"/open": True}}, True),
        ({"match": {"/open": 1}}, False),
        ({"match": {"/one": True}}, False),
        ({"match": {"/order/nothing": "O-1"}}, False),
        ({"event_type": "shipped", "match": {"/order/id": "O-1"}}, False),
    ],
)
def test_an_event_fits_by_type_and_by_what_stands_at_each_place(wait: dict[str, Any], fits: bool) -> None:
    came = event(1, order={"id": "O-1"}, lines=[{"count": 2}], open=True, one=1)
    assert EventWait(3, **wait).fits(came) is fits


def test_the_first_that_fits_ends_the_wait() -> None:
    wait = EventWait(3, "paid", {"/order": "O-2"})
    came = [event(1, order="O-1"), event(2, "shipped", order="O-2"), event(3, order="O-2"), event(4, order="O-2")]
    ended_by = wait.ended_by(came)
    assert ended_by is not None and ended_by.inbox_id == 3


def test_a_wait_is_kept_as_json_and_read_again() -> None:
    details = {"event_type": "paid", "match": {"/order": "O-1"}, "timeout_seconds": 60, "on_timeout": "fail",
               "timeout_code": "not_paid"}  # fmt: skip
    wait = EventWait.begun(details, 3, AT)
    assert EventWait.in_force(wait.to_json()) == wait
    assert (wait.until, wait.on_timeout, wait.timeout_code) == (AT + timedelta(minutes=1), OnTimeout.FAIL, "not_paid")
    assert wait.is_over_at(AT + timedelta(minutes=1)) and not wait.is_over_at(AT)
    assert EventWait.in_force(EventWait.begun({}, 1, AT).to_json()) == EventWait(1)
    for other in ({}, {"questions": ["3"]}, {"agent": "pay", "delegation": "1.0"}):
        assert EventWait.in_force(other) is None


CLOSED = EventType("paid", schema={"type": "object", "properties": {"order": {}}, "additionalProperties": False})


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({"order": "O-1"}, "no JSON pointer"),
        ({"/order": {"id": 1}}, "must be a text"),
        ({"/order": [1]}, "must be a text"),
        ({"/orders": "O-1"}, "it has order"),
        ({f"/{n}": n for n in range(30)}, "at most 20"),
        ("O-1", "must be an object"),
    ],
)
def test_a_match_that_can_never_be_is_refused(match: Any, said: str) -> None:
    assert said in (match_problem(match, CLOSED) or "")


def test_a_match_that_can_be_is_taken() -> None:
    assert match_problem({"/order/id": "O-1"}, CLOSED) is None
    assert match_problem({"/anything": 1}, None) is None
