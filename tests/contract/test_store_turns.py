"""Whose turn it is, on real PostgreSQL: urgency, ageing, the window, tenants' shares and caps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from orchestrator.domain.journal import Complete, Dispatch, NextStep, Wait
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.turns import PLACES, TurnRules, Window, place_of
from orchestrator.flow.ports import Received, Taken
from orchestrator.store import PostgresStore, make_engine
from tests.support.store_world import AT_ONCE, STALL, StoreWorld

MINUTE = timedelta(minutes=1)


@pytest.fixture
def capped(database_url: str) -> Iterator[StoreWorld]:
    """Two tasks in flight for each tenant, five for ``big``; a share of one."""
    store = PostgresStore(make_engine(database_url), turns=TurnRules(MINUTE, share=1, cap=2, caps={"big": 5}))
    yield StoreWorld(store)
    store.close()


def give(
    world: StoreWorld,
    names: Sequence[str],
    tenant: str | None = None,
    priority: int = 4,
    due_in: timedelta = AT_ONCE,
    window: Window | None = None,
) -> Sequence[Taken]:
    """Take in tasks of these names as one batch."""
    messages = [TaskMessage(name, "Do it", ("a",), priority=priority, tenant=tenant) for name in names]
    batch = [Received(world.record(), message) for message in messages]
    return world.store.accept(batch, due_in=due_in, window=window)


def ring(world: StoreWorld, limit: int = 100, **how: object) -> list[str]:
    return [bell.task_id for bell in world.store.ring_due(limit, STALL, **how)]  # type: ignore[arg-type]  # as it takes them


def waited(world: StoreWorld, name: str, how_long: timedelta) -> None:
    """Let a task be due since then."""
    world.sql("UPDATE tasks SET due_at = now() - :ago WHERE task_id = :id", ago=how_long, id=name)


def test_urgent_ones_come_first_and_equals_by_age(store_world: StoreWorld) -> None:
    for number in range(5):
        give(store_world, [f"low-{number}"], priority=1)
    give(store_world, ["high"], priority=9)
    assert ring(store_world, 3) == ["high", "low-0", "low-1"]
    assert ring(store_world) == ["low-2", "low-3", "low-4"]


def test_only_what_has_room_in_the_broker_is_rung(store_world: StoreWorld) -> None:
    give(store_world, ["high"], priority=7)
    give(store_world, ["low"], priority=6)
    assert ring(store_world, until=place_of(7, 1)) == ["high"]
    assert ring(store_world) == ["low"]


def test_a_full_window_has_room_for_what_is_more_urgent(store_world: StoreWorld) -> None:
    full = Window(10, [10 if place == place_of(4, 1) else 0 for place in range(PLACES)])
    taken = [
        *give(store_world, ["low"], priority=3, due_in=STALL, window=full),
        *give(store_world, ["high"], priority=8, due_in=STALL, window=full),
    ]
    assert [item.dispatch for item in taken] == [None, Dispatch("high", 1, 8, 0)]
    assert ring(store_world) == ["low"], "what had no room is due at once, what was rung is not"


def test_a_batch_fills_the_window_with_its_most_urgent(store_world: StoreWorld) -> None:
    messages = [TaskMessage(f"p-{priority}", "Do it", ("a",), priority=priority) for priority in (0, 9, 3, 7)]
    batch = [Received(store_world.record(), message) for message in messages]
    taken = store_world.store.accept(batch, due_in=STALL, window=Window(2))
    assert [item.dispatch.task_id for item in taken if item.dispatch] == ["p-9", "p-7"]


def test_a_new_task_does_not_slip_in_before_older_ones(store_world: StoreWorld) -> None:
    give(store_world, ["old"], priority=4)
    later = [
        *give(store_world, ["new"], priority=4, due_in=STALL),
        *give(store_world, ["high"], priority=5, due_in=STALL),
        *give(store_world, ["elsewhere"], tenant="b", due_in=STALL),
    ]
    assert [item.dispatch is not None for item in later] == [False, True, True]


# -- ageing


def test_a_level_for_each_minute_and_no_more_than_the_most_urgent(store_world: StoreWorld) -> None:
    give(store_world, ["new"], priority=5)
    give(store_world, ["old", "older"], priority=2)
    waited(store_world, "old", 2 * MINUTE)
    waited(store_world, "older", 60 * MINUTE)
    bells = store_world.store.ring_due(10, STALL)
    assert [(bell.task_id, bell.priority) for bell in bells] == [("older", 9), ("new", 5), ("old", 4)]


def test_what_is_gained_by_waiting_stays_with_the_task(store_world: StoreWorld) -> None:
    give(store_world, ["t-1"], priority=1)
    waited(store_world, "t-1", 3 * MINUTE)
    ring(store_world)
    claim = store_world.claim()
    assert (claim.task.priority, claim.task.urgency) == (1, 4)
    store_world.end(claim, NextStep())
    assert store_world.claim(2).task.urgency == 4, "a step that comes at once gains nothing"


def test_waiting_for_the_world_is_no_waiting_for_a_turn(store_world: StoreWorld) -> None:
    store_world.task()
    store_world.end(store_world.claim(), Wait(WaitsFor.EVENT, None, same_step=False))
    store_world.sql("UPDATE tasks SET updated_at = now() - interval '1 day'")
    store_world.event("t-1", None, a=1)
    assert store_world.claim(2).task.urgency == 4


def test_one_that_waits_in_the_broker_behind_urgent_ones_is_rung_again_higher_up(store_world: StoreWorld) -> None:
    give(store_world, ["t-1"], priority=0)
    assert [bell.priority for bell in store_world.store.ring_due(10, STALL)] == [0]
    store_world.sql("UPDATE tasks SET ready_at = ready_at - interval '3 minutes', due_at = now() - interval '1 second'")
    assert ring(store_world, busy=True, ahead=0) == [], "nothing more urgent waits there: it would only be doubled"
    assert [bell.priority for bell in store_world.store.ring_due(10, STALL, busy=True, ahead=9)] == [3]


# -- tenants


def test_a_backlog_does_not_hold_up_another_tenants_single_task(store_world: StoreWorld) -> None:
    give(store_world, [f"a-{number:02}" for number in range(40)], tenant="a")
    first = store_world.store.ring_due(30, STALL)
    assert [bell.lane for bell in first] == [0] * 10 + [1] * 20, "a share of ten, then beyond it"
    (single,) = give(store_world, ["b-1"], tenant="b", due_in=STALL)
    assert single.dispatch == Dispatch("b-1", 1, 4, 0), "in the lane before"


def test_tenants_take_turns(store_world: StoreWorld) -> None:
    for tenant in ("a", "b", None):
        give(store_world, [f"{tenant}-{number}" for number in range(3)], tenant=tenant)
    found = ring(store_world)
    assert [name.partition("-")[2] for name in found] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert {name.partition("-")[0] for name in found[:3]} == {"a", "b", "None"}


def test_what_is_begun_goes_before_what_is_new(store_world: StoreWorld) -> None:
    store_world.task("begun", due_in=STALL)
    store_world.end(store_world.claim(1, "begun"), Wait(WaitsFor.RETRY, None))
    give(store_world, ["new-1", "new-2"])
    store_world.sql("UPDATE tasks SET due_at = now() - interval '1 ms' WHERE task_id = 'begun'")
    assert ring(store_world) == ["begun", "new-1", "new-2"]


def test_no_more_than_the_cap_in_flight(capped: StoreWorld) -> None:
    give(capped, [f"a-{number}" for number in range(6)], tenant="a")
    give(capped, [f"big-{number}" for number in range(6)], tenant="big")
    give(capped, [f"free-{number}" for number in range(6)])
    found = ring(capped)
    assert sorted(found) == [
        *(f"a-{number}" for number in range(2)),
        *(f"big-{number}" for number in range(5)),
        *(f"free-{number}" for number in range(6)),
    ]
    assert ring(capped) == []
    capped.end(capped.claim(1, "a-0"), Complete("done"), a=1)
    assert ring(capped) == ["a-2"], "one ended, one may start"
    capped.end(capped.claim(1, "a-1"), Wait(WaitsFor.EVENT, None, same_step=False))
    assert ring(capped) == ["a-3"], "one that waits takes no place"


def test_the_bridge_starts_none_beyond_the_cap(capped: StoreWorld) -> None:
    taken = give(capped, ["a-0", "a-1", "a-2"], tenant="a", due_in=STALL)
    assert [item.dispatch is not None for item in taken] == [True, True, False]
    assert ring(capped) == []
    capped.end(capped.claim(1, "a-0"), Wait(WaitsFor.EVENT, None, same_step=False))
    assert ring(capped) == ["a-2"]
    assert capped.event("a-0", None, a=1).dispatch is None, "woken, and no place is free"
    capped.end(capped.claim(1, "a-1"), Complete("done"), a=1)
    assert ring(capped) == ["a-0"], "begun before, so before any new one"


def test_doorbells_lost_with_the_broker_are_rung_again_under_a_cap(capped: StoreWorld) -> None:
    give(capped, [f"a-{number}" for number in range(50)], tenant="a")
    assert ring(capped) == ["a-0", "a-1"]
    capped.sql("UPDATE tasks SET due_at = now() WHERE rings > 0")
    assert ring(capped, limit=1) == ["a-0"], "not behind those that were never rung"


def test_many_who_let_tasks_start_at_once_keep_to_the_cap(capped: StoreWorld) -> None:
    give(capped, [f"a-{number:02}" for number in range(40)], tenant="a")
    with ThreadPoolExecutor(8) as pool:
        swept = [pool.submit(ring, capped, 3) for _ in range(8)]
        taken = [pool.submit(give, capped, [f"late-{number}"], "a", 4, STALL) for number in range(8)]
    rung = sum(len(one.result()) for one in swept)
    rung += sum(item.dispatch is not None for one in taken for item in one.result())
    assert rung == 2
