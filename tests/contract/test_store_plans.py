"""A task is found by its key also where statistics were made when nothing was going on, and much has come since."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.journal import Claim, NextStep
from orchestrator.domain.message import TaskMessage
from orchestrator.store import cancellations, delegations, questions, resolve, room, spending, steps, sweep, undo
from orchestrator.store.engine import text
from tests.support.store_world import STALL, StoreWorld


@pytest.fixture
def burst(store_world: StoreWorld) -> StoreWorld:
    """An idle system, analyzed, to which tasks then come in numbers: fifteen for each of twenty tenants."""
    store_world.accept(*(TaskMessage(f"old-{number}", "Do it", ("a",)) for number in range(50)))
    store_world.sql("UPDATE tasks SET state = 'completed', due_at = NULL, ended_at = now()")
    store_world.sql("ANALYZE")
    tenants = [f"t-{number}" for number in range(20)]
    store_world.accept(
        *(TaskMessage(f"new-{number}", "Do it", ("a",), tenant=tenants[number % 20]) for number in range(300))
    )
    return store_world


def reads_of(world: StoreWorld, act: Callable[[], object]) -> int:
    """Rows of tasks that an act reads, by the counters of the one connection that all of this goes over."""

    def reads() -> int:
        world.sql("SELECT pg_stat_force_next_flush()")
        counters = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'tasks'"
        return int(world.sql(counters)[0][0])

    before = reads()
    act()
    return reads() - before


def test_a_step_reads_its_own_task_only(burst: StoreWorld) -> None:
    """Its claim, its decision and its end."""
    claims: list[Claim] = []
    assert 1 <= reads_of(burst, lambda: claims.append(burst.claim(task_id="new-7"))) <= 3
    assert 1 <= reads_of(burst, lambda: burst.decide(claims[0])) <= 6
    assert 1 <= reads_of(burst, lambda: burst.end(claims[0], NextStep(), a="v")) <= 6


def test_a_look_at_whose_turn_it_is_leaps_from_group_to_group(burst: StoreWorld) -> None:
    """Twenty groups, each with fifteen tasks that are due: all of them are not read for each, which were 6,000."""
    burst.sql("UPDATE tasks SET due_at = now() - interval '1 second' WHERE state = 'received'")
    rung: list[Any] = []
    read = reads_of(burst, lambda: rung.extend(burst.store.ring_due(40, STALL)))
    assert len(rung) == 40
    assert read <= 1_500


def test_taking_in_looks_for_those_who_wait_by_their_turns(burst: StoreWorld) -> None:
    def take_in() -> None:
        burst.accept(*(TaskMessage(f"more-{number}", "Do it", ("a",), tenant="t-1") for number in range(5)))

    assert reads_of(burst, take_in) <= 50


# Statements that find tasks or questions by their key, and ask for a state beside it.
BY_KEY = {
    "a reservation": spending._RESERVE,
    "a step woken": steps._WAKE_STEP,
    "a step woken by a delegation": delegations._WAKE_STEP,
    "an undo woken": cancellations.WAKE_UNDO,
    "the fence of an undo": undo._FENCE,
    "a task woken by an answer": questions._WAKE,
    "a task woken by a person": resolve._WAKE,
    "tasks woken by early events": sweep._WAKE_JOINED,
    "tasks woken by room": room._WAITING,
    "delegations woken by room": room._WAKE_DELEGATIONS,
    "delegations rung": delegations._RING,
    "an answer": questions._STORE_ANSWER,
    "open questions": questions._OPEN_OF_TASK,
    "questions withdrawn": questions._WITHDRAW,
}
VALUES: dict[str, Any] = {
    "task_id": "new-7",
    "ids": ["new-7", "new-8"],
    "epoch": 1,
    "owner": "w",
    "step": 1,
    "stall": timedelta(seconds=10),
    "due_in": timedelta(seconds=10),
    "rows": '[{"task_id": "new-7", "step": 1, "index": 0}]',
    "ref": "q",
    "busy": False,
    "limit": 10,
    "patience": timedelta(seconds=10),
    "most": timedelta(seconds=10),
    "who": "somebody",
    "why": "because",
    "answer": "{}",
    **dict.fromkeys(("tokens", "money", "reserved_tokens", "reserved_money"), 0),
}


def test_what_is_found_by_its_key_is_not_looked_for_by_its_state(burst: StoreWorld) -> None:
    by_state = {}
    for name, statement in BY_KEY.items():
        values = {parameter: VALUES[parameter] for parameter in statement.compile().params}
        with burst.store.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # tables are small here
            plan = "\n".join(connection.execute(text(f"EXPLAIN {statement.text}"), values).scalars())
        if re.search(r"tasks_(due|turn|in_flight|by_state)|questions_open", plan):
            by_state[name] = plan
    assert not by_state
