"""Whatever workers, events and people do to a task in whatever order, PostgreSQL lets through only what is legal.

Random courses on the real store: several workers with old and new leases, leases that run out, events, sweeps, a
person's hand. After each act: no illegal move, epochs and steps only grow, an ended task stays ended but for a person's
hand, an overtaken worker writes nothing, and every former version of the context is still what it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from orchestrator.domain.journal import Cancel, Claim, Complete, Fail, GoOn, NextStep, StepCommit, Then, Wait
from orchestrator.domain.task import Task, TaskState, WaitsFor, may_move
from orchestrator.errors import LeaseLost, NotAllowed
from tests.support.store_world import LEASE, STALL, StoreWorld, change

SOON = timedelta(minutes=5)


def wait(waits_for: WaitsFor, same_step: bool) -> Then:
    return Wait(waits_for, datetime.now(UTC) + SOON, {"event_type": "x"}, same_step=same_step, reason_code="because")


THENS: Mapping[str, Callable[[], Then]] = {
    "go on": GoOn,
    "next": NextStep,
    "wait for event": lambda: wait(WaitsFor.EVENT, same_step=False),
    "wait for retry": lambda: wait(WaitsFor.RETRY, same_step=True),
    "wait for person": lambda: wait(WaitsFor.PERSON, same_step=True),
    "complete": lambda: Complete("done"),
    "fail": lambda: Fail("broken", "broken"),
    "cancel": lambda: Cancel("canceled"),
}

FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.none() | st.text(max_size=3), max_size=2)
ACTS = st.one_of(
    # Several kinds of a work-like act, so that courses get far.
    st.tuples(st.just("step"), st.sampled_from(sorted(THENS)), FIELDS),
    st.tuples(st.just("step"), st.sampled_from(["next", "wait for event", "wait for retry", "go on"]), FIELDS),
    st.tuples(st.just("claim"), st.sampled_from([1, 1, 1, 0, 2])),
    st.tuples(st.just("commit"), st.integers(0, 3), st.sampled_from(sorted(THENS)), FIELDS),
    st.tuples(st.just("time passes")),
    st.tuples(st.just("event"), FIELDS),
    st.tuples(st.just("sweep")),
    st.tuples(st.sampled_from(["retry", "retry", "retry", "cancel"])),
    st.tuples(st.just("rerun"), st.integers(1, 4), FIELDS),
)


class Course:
    """One task, what is done to it, and what must hold after each act."""

    def __init__(self, world: StoreWorld) -> None:
        self.world = world
        self.task_id = f"p-{uuid.uuid4().hex[:12]}"
        world.task(self.task_id, "a", "b", x=1)
        self.claims: list[Claim] = []
        self.task = world.store.task(self.task_id)
        self.fence = self.read_fence()
        self.versions = {1: dict(world.store.context(self.task_id).collected_data)}

    def read_fence(self) -> tuple[int, int, str | None]:
        (row,) = self.world.sql("SELECT epoch, next_step, lease_owner FROM tasks WHERE task_id = :id", id=self.task_id)
        return row.epoch, row.next_step, row.lease_owner

    # -- acts

    def act(self, name: str, *details: Any) -> None:
        """Do it, and look at what came of it."""
        before, fence = self.task, self.fence
        by_hand = name in {"retry", "rerun"}
        match name, details:
            case "claim", (ahead,):
                claim = self.world.store.claim(self.task_id, max(1, fence[1] + ahead - 1), "w", LEASE)
                if isinstance(claim, Claim):
                    self.claims.insert(0, claim)
            case "step", (then, values):
                self.act("claim", 1)
                self.act("commit", 0, then, values)
                return
            case "commit", (age, then, values):
                self.commit(age, THENS[then](), values)
            case "time passes", ():
                self.world.expire(self.task_id)
            case "event", (values,):
                self.world.event(self.task_id, **values)
            case "sweep", ():
                self.world.store.ring_due(10, STALL)
            case _:
                try:
                    self.hand(name, *details)
                except NotAllowed:
                    by_hand = False
        self.look(before, fence, by_hand=by_hand)

    def commit(self, age: int, then: Then, values: Mapping[str, Any]) -> None:
        if age >= len(self.claims):
            return
        claim = self.claims[age]
        holds = (
            claim.lease.epoch,
            claim.lease.step,
            claim.lease.owner,
        ) == self.fence and not self.task.state.is_terminal
        context = self.world.store.context(self.task_id)
        changes = tuple(change(name, value, claim.lease.step) for name, value in values.items())
        commit = StepCommit(then, context=context.apply(changes) if changes else None, changes=changes)
        try:
            committed = self.world.store.commit(claim.lease, commit)
        except LeaseLost:
            assert not holds, "who holds the lease was refused"
            event("fenced")
            return
        assert holds, f"an overtaken worker wrote {then}"
        if not isinstance(then, GoOn) and not committed.refused_for_events:
            assert self.read_fence()[2] is None, "a commit that ends the execution gives the lease back"

    def hand(self, name: str, *details: Any) -> None:
        store = self.world.store
        match name, details:
            case "retry", ():
                store.retry(self.task_id, who="me", why="test")
            case "cancel", ():
                store.cancel(self.task_id, who="me", why="test")
            case "rerun", (step, edits):
                store.rerun(self.task_id, step, edits, who="me", why="test")

    # -- what must hold

    def look(self, before: Task, fence: tuple[int, int, str | None], *, by_hand: bool) -> None:
        self.task, self.fence = self.world.store.task(self.task_id), self.read_fence()
        state = self.task.state
        if state is not before.state:
            event(f"{before.state} to {state}")
            assert may_move(before.state, state)
            assert by_hand or not before.state.is_terminal, "an ended task moved by itself"
        assert self.fence[0] >= fence[0], "an epoch went back"
        assert self.fence[1] >= fence[1], "a step number went back"
        assert (self.task.waits_for is None) == (state is not TaskState.WAITING)
        assert (self.task.ended_at is None) == (not state.is_terminal)
        assert not state.is_terminal or self.fence[2] is None, "an ended task is held"
        self.look_at_history()

    def look_at_history(self) -> None:
        store = self.world.store
        context = store.context(self.task_id)
        row = store.context_row(self.task_id)["context"]
        assert row["current_state"] == self.task.state.value
        assert row["collected_data"] == dict(context.collected_data)
        assert context.version >= max(self.versions)
        self.versions.setdefault(context.version, dict(context.collected_data))
        assert [number for number, _, _ in store.versions(self.task_id)] == list(range(1, context.version + 1))
        for version, data in self.versions.items():
            assert dict(store.context(self.task_id, version).collected_data) == data, f"version {version} has changed"


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=st.lists(ACTS, min_size=8, max_size=25))
def test_whatever_is_done_in_whatever_order_only_legal_moves_happen(
    store_world: StoreWorld, acts: list[tuple[Any, ...]]
) -> None:
    course = Course(store_world)
    for act in acts:
        course.act(*act)
