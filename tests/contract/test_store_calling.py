"""Commits that several threads make at the same moment share a transaction, and none is in another's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import psycopg2
import pytest
from sqlalchemy import text

from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Claim, Committed, NextStep, NotClaimed, Settlement, StepCommit
from orchestrator.errors import LeaseLost
from orchestrator.store.calling import LARGE, Kind
from orchestrator.store.step_calls import CLAIMS, COMMITS
from tests.support.processes import wait_for
from tests.support.store_world import LEASE, StoreWorld

Result = TypeVar("Result")

SOON = 30.0
"""Seconds after which a test gives up."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as found:
        yield found


def decided(world: StoreWorld, *task_ids: str) -> list[Claim]:
    """Tasks whose first step has its call in flight."""
    claims = []
    for task_id in task_ids:
        world.task(task_id)
        claim = world.claim(task_id=task_id)
        world.decide(claim, key=f"key-{task_id}")
        claims.append(claim)
    return claims


def finish(world: StoreWorld, claim: Claim, reply: Any = "fine") -> Committed:
    settled = Settlement(0, DelegationState.SUCCEEDED, reply=reply)
    commit = StepCommit(NextStep(), settlements=(settled,), unchanged=claim.context)
    return world.store.commit(claim.lease, commit)


def together(
    world: StoreWorld,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    *calls: Callable[[], Result],
    kind: Kind = COMMITS,
) -> list[Future[Result]]:
    """Calls that all wait while the first one is under way; that one runs alone, the others in one transaction."""
    send, first, go = world.store.send, threading.Event(), threading.Event()

    def held_up(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if not first.is_set():
            first.set()
            assert go.wait(SOON)
        return send(*args, **kwargs)

    monkeypatch.setattr(world.store, "send", held_up)
    made = [pool.submit(calls[0])]
    assert first.wait(SOON)

    def all_wait() -> bool:
        return world.store.kinds[kind].waiting == len(made) - 1

    for call in calls[1:]:
        made.append(pool.submit(call))
        wait_for(all_wait, SOON, "it waits")
    go.set()
    return made


def test_those_that_come_meanwhile_share_a_transaction(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = decided(store_world, "t-0", "t-1", "t-2", "t-3")
    commits = [partial(finish, store_world, claim) for claim in claims]
    first, *others = [one.result(SOON) for one in together(store_world, pool, monkeypatch, *commits)]
    assert len({one.left_by for one in others}) == 1
    assert first.left_by != others[0].left_by
    for claim in claims:
        task_id = claim.task.task_id
        assert store_world.store.task(task_id).next_step == 2
        (entry,) = store_world.store.history(task_id)
        assert [one.reply for one in entry.delegations] == ["fine"]


def test_one_that_lost_its_lease_undoes_no_other(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = decided(store_world, "t-0", "t-1", "t-2")
    store_world.expire("t-1")
    store_world.claim(task_id="t-1", owner="w2")
    commits = [partial(finish, store_world, claim) for claim in claims]
    _, fenced, other = together(store_world, pool, monkeypatch, *commits)
    with pytest.raises(LeaseLost):
        fenced.result(SOON)
    assert other.result(SOON).next_step == 2
    assert [store_world.store.task(task_id).next_step for task_id in ("t-1", "t-2")] == [1, 2]


def test_one_that_postgresql_refuses_undoes_no_other(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = decided(store_world, "t-0", "t-1", "t-2")
    replies = ["fine", "no text of PostgreSQL: \0", "fine"]
    commits = [partial(finish, store_world, claim, reply) for claim, reply in zip(claims, replies, strict=True)]
    _, refused, other = together(store_world, pool, monkeypatch, *commits)
    with pytest.raises(psycopg2.DataError):
        refused.result(SOON)
    assert other.result(SOON).next_step == 2
    assert [store_world.store.task(task_id).next_step for task_id in ("t-1", "t-2")] == [1, 2]


def test_one_that_waits_for_a_lock_holds_up_none_that_shares_its_transaction(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = decided(store_world, "t-0", "t-1", "t-2")
    with store_world.store.engine.connect() as other:
        other.execute(text("SELECT FROM tasks WHERE task_id = 't-1' FOR UPDATE"))
        commits = [partial(finish, store_world, claim) for claim in claims]
        _, waiting, free = together(store_world, pool, monkeypatch, *commits)
        assert free.result(SOON).next_step == 2
        assert not waiting.done()
        other.rollback()
    assert waiting.result(SOON).next_step == 2


def test_one_that_is_large_goes_alone(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = decided(store_world, "t-0", "t-1")
    large = pool.submit(finish, store_world, claims[1], "x" * LARGE)
    (first,) = together(store_world, pool, monkeypatch, partial(finish, store_world, claims[0]))
    assert (first.result(SOON).next_step, large.result(SOON).next_step) == (2, 2)
    assert store_world.store.history("t-1")[0].delegations[0].reply == "x" * LARGE


def test_of_claims_made_together_each_gets_its_own_answer(
    store_world: StoreWorld, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task_id in ("t-0", "t-1", "t-2"):
        store_world.task(task_id)
    store_world.claim(task_id="t-1")
    names = ("t-0", "t-1", "nobody", "t-2")
    claims = [partial(store_world.store.claim, name, 1, "w2", LEASE) for name in names]
    found = [one.result(SOON) for one in together(store_world, pool, monkeypatch, *claims, kind=CLAIMS)]
    assert [one if isinstance(one, NotClaimed) else one.task.task_id for one in found] == [
        "t-0",
        NotClaimed.HELD,
        NotClaimed.NO_TASK,
        "t-2",
    ]


def test_many_that_claim_and_commit_at_once_all_get_their_own(store_world: StoreWorld) -> None:
    task_ids = [f"t-{number}" for number in range(64)]
    for task_id in task_ids:
        store_world.task(task_id)

    def work(task_id: str) -> tuple[str, Committed, NotClaimed]:
        claim = store_world.claim(task_id=task_id)
        assert claim.task.task_id == claim.lease.task_id == task_id
        store_world.decide(claim, key=f"key-{task_id}")
        again = store_world.store.claim(task_id, 1, "another", LEASE)
        assert isinstance(again, NotClaimed)
        return task_id, finish(store_world, claim, task_id), again

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(work, task_ids))
    assert [task_id for task_id, _, _ in done] == task_ids
    assert {again for _, _, again in done} == {NotClaimed.HELD}
    for task_id in task_ids:
        (entry,) = store_world.store.history(task_id)
        assert [one.reply for one in entry.delegations] == [task_id]
        assert store_world.store.task(task_id).next_step == 2
