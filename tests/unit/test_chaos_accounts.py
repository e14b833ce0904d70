"""The accounts of a storm complain of what is wrong with a task of their sort, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.chaos.accounts import Books, complaints, right_ends
from tests.chaos.cast import CHOICES, answer_of, approves

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
APPROVED = next(name for name in map(str, range(100)) if approves(name))
DECLINED = next(name for name in map(str, range(100)) if not approves(name))


def entry(agent: str, task_id: str = "t", **parts: Any) -> dict[str, Any]:
    known = {"calls": 1, "effects": 1, "told": 0, "answer": None, "canceled": 0}
    return {"agent": agent, "key": f"{task_id}:{agent}", "task_id": task_id, **known, **parts}


def call(agent: str, task_id: str = "t", state: str = "succeeded", error_code: str | None = None) -> dict[str, Any]:
    return {"agent": agent, "idempotency_key": f"{task_id}:{agent}", "state": state, "error_code": error_code}


def task(description: str, task_id: str = "t", **parts: Any) -> dict[str, Any]:
    known = {"state": "completed", "reason_code": None, "not_before": None, "deadline": None}
    return {"task_id": task_id, "description": description, **known, **parts}


def ended(at: datetime) -> dict[str, Any]:
    return {"task_id": "t", "created_at": at, "body": {"state": "failed"}}


NOTHING = Books([], [], [], [], [])
RIGHT = answer_of("t")
WRONG = next(one for one in CHOICES if one != RIGHT)


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        (entry("booker"), entry("booker", effects=2), "booker acted 2 times"),
        (
            entry("painter", told=1, answer=RIGHT),
            entry("painter", told=2, answer=RIGHT),
            "painter was given the answer to t:painter 2 times",
        ),
        (entry("tailor", told=1, answer=RIGHT), entry("tailor", told=1, answer=WRONG), "which nobody said"),
        (
            entry("signer", APPROVED),
            entry("signer", DECLINED, effects=0),
            f"signer was called for {DECLINED}, which a person had declined",
        ),
    ],
)
def test_what_an_agent_did(right: dict[str, Any], wrong: dict[str, Any], says: str) -> None:
    assert complaints(replace(NOTHING, entries=[right])) == []
    (complaint,) = complaints(replace(NOTHING, entries=[wrong]))
    assert says in complaint


def test_an_agent_that_was_never_told_cannot_have_gone_on() -> None:
    books = replace(NOTHING, entries=[entry("painter")], delegations=[call("painter")])
    (complaint,) = complaints(books)
    assert "painter was never told" in complaint


def test_what_counts_as_canceled_is_gone_at_its_agent() -> None:
    canceled = call("shipper", state="failed", error_code="agent_canceled")
    gone, there = entry("shipper", canceled=1, effects=0), entry("shipper")
    assert complaints(replace(NOTHING, delegations=[canceled], entries=[gone])) == []
    (complaint,) = complaints(replace(NOTHING, delegations=[canceled], entries=[there]))
    assert "shipper counts as canceled" in complaint


def test_nothing_begins_before_its_time() -> None:
    later = task("book for order 1", not_before=NOON)
    for at, wrong in ((NOON, 0), (NOON - timedelta(seconds=1), 1)):
        step = {"task_id": "t", "step_number": 1, "started_at": at}
        assert len(complaints(replace(NOTHING, tasks=[later], steps=[step]))) == wrong


def test_a_deadline_ends_its_task_for_that_reason_and_not_before() -> None:
    def books(reason: str, at: datetime) -> Books:
        late = task("overdue for order 1", state="failed", reason_code=reason, deadline=NOON)
        return replace(NOTHING, tasks=[late], updates=[ended(at)])

    assert complaints(books("deadline_passed", NOON)) == []
    assert "before its deadline" in complaints(books("deadline_passed", NOON - timedelta(seconds=1)))[0]
    assert "failed as no_route" in complaints(books("no_route", NOON))[0]


def test_how_a_task_may_end() -> None:
    assert right_ends(task("sign for order 1", APPROVED)) == right_ends(task("pay for order 1")) == {"completed"}
    for description, name in (
        ("sign for order 1", DECLINED),
        ("overdue for order 1", "t"),
        ("doomed for order 1", "t"),
    ):
        assert right_ends(task(description, name)) == {"failed"}
