"""What a task spends, in PostgreSQL: reserved before the call, settled after, and spent where the worker died."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from orchestrator.domain.budget import Resource, Spent, Used
from orchestrator.domain.journal import Fail, NextStep, StepCommit, Tried, Wait
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost
from tests.support.store_world import StoreWorld, change

WHO: dict[str, Any] = {"who": "ann", "why": "because"}


def test_what_a_dead_worker_had_reserved_is_spent_by_the_claim_that_follows(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    store_world.store.reserve(claim.lease, Spent(tokens=100, reserved_tokens=900, reserved_money=Decimal("0.25")))
    assert store_world.store.task("t-1").spent.reserved_tokens == 900
    store_world.expire()
    again = store_world.claim(owner="w2")
    assert again.task.spent == Spent(tokens=1000, money=Decimal("0.25"))
    with pytest.raises(LeaseLost):
        store_world.store.reserve(claim.lease, Spent(reserved_tokens=1))
    assert store_world.store.task("t-1").spent == Spent(tokens=1000, money=Decimal("0.25"))


def test_a_commit_settles_what_was_reserved_and_keeps_what_was_tried(store_world: StoreWorld) -> None:
    store_world.task()
    claim = store_world.claim()
    reserved = Spent(reserved_tokens=900, reserved_money=Decimal("0.25"))
    store_world.store.reserve(claim.lease, reserved)
    tried = Tried("openai:a", "bad_decision", "no tool", tokens=40, cost=0.001)
    store_world.store.commit(
        claim.lease, StepCommit(NextStep(), spent=reserved.plus(120, Decimal("0.01")), tried=(tried,))
    )
    assert store_world.store.task("t-1").spent == Spent(tokens=120, money=Decimal("0.01"))
    assert store_world.store.history("t-1")[0].step.tried == (tried,)
    wait = Wait(WaitsFor.RETRY, None, reason_code="planner_unavailable")
    second = store_world.claim(2)
    store_world.store.commit(second.lease, StepCommit(wait, tried=(tried, replace(tried, model="openai:b"))))
    assert [one.model for one in store_world.store.history("t-1")[1].step.tried] == ["openai:a", "openai:b"]


def test_delegations_are_counted_with_their_decision(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.decide(store_world.claim())
    assert store_world.store.task("t-1").spent.delegations == 1


def test_steps_without_a_new_field_are_counted_and_a_retry_starts_anew(store_world: StoreWorld) -> None:
    store_world.task("t-1", "a", "b")
    store_world.end(store_world.claim(), NextStep())
    store_world.end(store_world.claim(2), NextStep())
    assert store_world.store.task("t-1").idle_steps == 2
    claim = store_world.claim(3)
    changes = (change("a", 1),)
    store_world.store.commit(
        claim.lease, StepCommit(NextStep(), context=claim.context.apply(changes), changes=changes, progress=True)
    )
    assert store_world.store.task("t-1").idle_steps == 0
    store_world.end(store_world.claim(4), NextStep())
    store_world.end(store_world.claim(5), Fail("no_progress", "nothing new"))
    assert store_world.store.task("t-1").idle_steps == 1
    store_world.store.retry("t-1", **WHO)
    assert store_world.store.task("t-1").idle_steps == 0


def test_a_raised_budget_adds_up_and_is_audited(store_world: StoreWorld) -> None:
    store_world.task()
    for amount in (Decimal(500), Decimal("0.5")):
        store_world.end(store_world.claim(), Fail("budget_tokens", "used up"))
        store_world.store.retry("t-1", **WHO, raise_budget={"tokens": 500, "money": amount})
    assert store_world.store.task("t-1").raised == {"tokens": 1000, "money": 500.5}
    (first, _) = store_world.sql("SELECT details FROM audit ORDER BY id")
    assert first.details == {"step": 1, "raised": {"tokens": "500", "money": "500"}}


def test_an_update_tells_what_runs_low(store_world: StoreWorld) -> None:
    store_world.task()
    low = Used(Resource.TOKENS, Decimal(900), Decimal(1000))
    store_world.store.commit(store_world.claim().lease, StepCommit(NextStep(), low=(low,)))
    bodies = [row.body for row in store_world.store.updates("t-1")]
    assert "budget_warnings" not in bodies[0]
    assert bodies[-1]["budget_warnings"] == [{"what": "tokens", "spent": 900, "limit": 1000}]
