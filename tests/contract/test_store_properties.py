"""Whatever workers, events and people do to a task in whatever order, PostgreSQL lets through only what is legal.

Random courses on the real store: several workers with old and new leases, leases that run out, calls, questions,
events, sweeps, undos, and a person's hand in every way. After each act: no illegal move, epochs and steps only grow,
an ended task stays ended but for a person's hand, an overtaken worker writes nothing, nobody begins what is paused, who
is asked can answer once and nobody else can, what is undone stays so, and every former version of the context is what
it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import (
    Cancel,
    Claim,
    Complete,
    Fail,
    GoOn,
    NextStep,
    Settlement,
    StepCommit,
    Then,
    Wait,
)
from orchestrator.domain.question import Question, QuestionKind, QuestionState
from orchestrator.domain.task import Task, TaskState, WaitsFor, may_move
from orchestrator.domain.undo import Begun, Ended, Rest, Settled, Tried, UndoCommit, newest_first
from orchestrator.domain.value import replace
from orchestrator.errors import AnswerRefused, LeaseLost, NotAllowed
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

COURSES: Mapping[str, Sequence[tuple[Any, ...]]] = {
    "call and reply": [("claim", 1), ("call",), ("reply",)],
    "ask and answer": [("claim", 1), ("ask",), ("answer",)],
    "pause and resume": [("pause",), ("claim", 1), ("resume",)],
    "call and undo": [("claim", 1), ("call",), ("commit", 0, "fail", {}), ("undo",), ("claim", 1)],
    "call, ask and undo": [
        *(("claim", 1), ("call",), ("reply",), ("claim", 1), ("ask",)),
        *(("cancel and undo",), ("answer",), ("claim", 1)),
    ],
}
"""What would rarely follow by chance."""

# NUL is refused before it comes here: from Kafka, agents and models, and on the command line.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=3)
FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.none() | TEXTS, max_size=2)
HAND = {"retry", "rerun", "restart", "skip", "undo"}
"""What opens an ended task again."""
_ON = frozenset({QuestionState.ANSWERED, QuestionState.TIMED_OUT, QuestionState.WITHDRAWN})
QUESTION_MOVES = {QuestionState.OPEN: _ON, QuestionState.ANSWERED: frozenset({QuestionState.SETTLED})}

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
    st.tuples(st.sampled_from(["call", "reply", *COURSES])),
    st.tuples(st.sampled_from(["ask", "ask and answer", "answer"])),
    st.tuples(st.sampled_from(["pause", "resume", "resume", "undo", "cancel and undo"])),
    st.tuples(st.sampled_from(["skip", "restart"]), FIELDS),
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
        self.questions: dict[str, Question] = {}
        self.undone: set[str] = set()
        self.asked = self.called = False
        self.versions = {1: dict(world.store.context(self.task_id).collected_data)}

    def read_fence(self) -> tuple[int, int, str | None]:
        (row,) = self.world.sql("SELECT epoch, next_step, lease_owner FROM tasks WHERE task_id = :id", id=self.task_id)
        return row.epoch, row.next_step, row.lease_owner

    # -- acts

    def act(self, name: str, *details: Any) -> None:
        """Do it, and look at what came of it."""
        before, fence = self.task, self.fence
        by_hand = name in HAND
        match name, details:
            case "claim", (ahead,):
                claim = self.world.store.claim(self.task_id, max(1, fence[1] + ahead - 1), "w", LEASE)
                if isinstance(claim, Claim):
                    assert not before.paused, "what is paused was begun"
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
            case _ if name in COURSES:
                for one in COURSES[name]:
                    self.act(*one)
                return
            case "call", ():
                self.call()
            case "reply", ():
                self.commit(0, NextStep(), {}, replied=True)
            case "ask", ():
                self.ask()
            case "answer", ():
                self.answer()
            case "sweep", ():
                self.world.store.ring_due(10, STALL)
            case _:
                try:
                    self.hand(name, *details)
                except NotAllowed:
                    by_hand = False
                    assert self.read_fence() == fence, "what is refused changes nothing"
        self.look(before, fence, by_hand=by_hand)

    def held(self) -> Claim | None:
        """The newest claim, where it holds and its step goes forward."""
        claim = self.claims[0] if self.claims else None
        forward = claim is not None and claim.task.state is not TaskState.COMPENSATING
        return claim if claim is not None and forward and self.holds(claim) else None

    def holds(self, claim: Claim) -> bool:
        lease = claim.lease
        return (lease.epoch, lease.step, lease.owner) == self.read_fence() and not self.task.state.is_terminal

    def call(self) -> None:
        """A decision with a call that is under way, where the step has none."""
        claim = self.held()
        if claim is not None and not any(one.step.number == claim.lease.step for one in self.decided()):
            self.called = True
            self.world.decide(claim, key=f"{self.task_id}:{claim.lease.step}")

    def decided(self) -> list[Any]:
        return [one for one in self.world.store.history(self.task_id) if one.step.decision is not None]

    def ask(self) -> None:
        """A question to a person, and the wait for its answer."""
        claim = self.held()
        if claim is None:
            return
        self.asked = True
        step, ref = claim.lease.step, f"{claim.lease.step}.{len(self.questions)}"
        question = Question(ref, QuestionKind.QUESTION, step, "Which?", datetime.now(UTC), choices=("x", "y"))
        waits = Wait(WaitsFor.PERSON, None, {"questions": [ref]}, same_step=True)
        self.world.store.commit(claim.lease, StepCommit(waits, questions=(question,)))

    def answer(self) -> None:
        store = self.world.store
        asked = store.questions(task_id=self.task_id)
        ref = asked[0].question.ref if asked else None
        try:
            store.answer(self.task_id, ref, "x", who="me", why="test")
        except AnswerRefused:
            assert not asked, "who is asked could not answer"
            return
        assert asked, "an answer was taken that nobody had asked for"
        event("answered")

    def commit(self, age: int, then: Then, values: Mapping[str, Any], *, replied: bool = False) -> None:
        if age >= len(self.claims):
            return
        claim = self.claims[age]
        if claim.task.state is TaskState.COMPENSATING:
            self.undo(claim, then)
            return
        holds = self.holds(claim)
        context = self.world.store.context(self.task_id)
        changes = tuple(change(name, value, claim.lease.step) for name, value in values.items())
        commit = StepCommit(
            then,
            context=context.apply(changes) if changes else None,
            changes=changes,
            settlements=(Settlement(0, DelegationState.SUCCEEDED, reply={"a": 1}),) if replied else (),
            questions=tuple(
                replace(one, state=QuestionState.SETTLED)
                for one in claim.questions
                if one.state is QuestionState.ANSWERED
            ),
        )
        try:
            committed = self.world.store.commit(claim.lease, commit)
        except LeaseLost:
            assert not holds, "who holds the lease was refused"
            event("fenced")
            return
        assert holds, f"an overtaken worker wrote {then}"
        if not isinstance(then, GoOn) and not committed.refused_for_events:
            assert self.read_fence()[2] is None, "a commit that ends the execution gives the lease back"

    def undo(self, claim: Claim, then: Then) -> None:
        """What a worker does that undoes: end it, rest, or go on with the newest that is open."""
        store, holds = self.world.store, self.holds(claim)
        open_ones = newest_first(one for one in store.undo_items(self.task_id) if not one.is_closed)
        index = 0
        match then:
            case Complete():
                commit = UndoCommit(Ended())
            case Wait():
                commit = UndoCommit(Rest(WaitsFor.RETRY, datetime.now(UTC) + SOON, "later"))
            case _ if not open_ones:
                commit = UndoCommit(Ended())
            case _ if not open_ones[0].is_settled:
                acted = DelegationState.FAILED if isinstance(then, Fail) else DelegationState.SUCCEEDED
                settled = Settled(open_ones[0].delegation.key, Settlement(index, acted, reply={"a": 1}))
                commit = UndoCommit(GoOn(), settled=settled)
            case _:
                key, failed = open_ones[0].delegation.key, isinstance(then, Fail)
                assert key not in self.undone, "what is undone was to be undone again"
                became = DelegationState.FAILED if failed else DelegationState.SUCCEEDED
                tried = Tried(key, Settlement(index, became, reply={}), closed=True)
                commit = UndoCommit(GoOn(), begun=Begun(key, {}, datetime.now(UTC) + SOON), tried=tried)
        try:
            written = store.write_undo(claim.lease, commit)
        except LeaseLost:
            assert not holds, "who holds the lease of an undo was refused"
            event("undo fenced")
            return
        assert holds, "an overtaken worker undid"
        event("undo worked")
        if written.state is not TaskState.COMPENSATING:
            event("undo ended")
            assert all(one.is_closed for one in written.items), "an undo ended before its work"

    def hand(self, name: str, *details: Any) -> None:
        store = self.world.store
        match name, details:
            case "retry", ():
                store.retry(self.task_id, who="me", why="test")
            case "cancel", ():
                store.cancel(self.task_id, who="me", why="test")
            case "rerun", (step, edits):
                store.rerun(self.task_id, step, edits, who="me", why="test")
            case "cancel and undo", ():
                store.cancel(self.task_id, who="me", why="test", undo=True)
            case "undo", ():
                store.undo(self.task_id, who="me", why="test")
            case "pause", ():
                store.pause(self.task_id, who="me", why="test")
            case "resume", ():
                store.resume(self.task_id, who="me", why="test")
            case "restart", (edits,):
                store.restart(self.task_id, edits, who="me", why="test")
            case "skip", (values,):
                changes = tuple(change(field, value) for field, value in values.items())
                store.skip(self.task_id, self.fence[1], {}, changes, who="me", why="test")
        event(f"by hand: {name}")
        undone = self.task.undo is not None and self.task.state.is_terminal
        assert not (undone and name in {"retry", "rerun", "skip"}), "what was undone was gone on with"
        assert name not in {"pause", "resume"} or (name == "pause") != self.task.paused, "it stood so already"

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
        assert self.task.waits_for is not None or state is not TaskState.WAITING
        assert self.task.waits_for is None or state in {TaskState.WAITING, TaskState.COMPENSATING}
        assert (self.task.ended_at is None) == (not state.is_terminal)
        assert not state.is_terminal or self.fence[2] is None, "an ended task is held"
        self.look_at_history()
        if self.asked:
            self.look_at_questions()
        if self.called:
            undone = {one.delegation.key for one in self.world.store.undo_items(self.task_id) if one.is_undone}
            assert undone >= self.undone, "what was undone is not any more"
            self.undone = undone

    def look_at_questions(self) -> None:
        steps = self.world.store.history(self.task_id)
        for question in (one for entry in steps for one in entry.questions):
            before = self.questions.get(question.ref, question)
            if question.state is not before.state:
                assert question.state in QUESTION_MOVES.get(before.state, ()), f"{before.state} to {question.state}"
            assert before.answer in (None, question.answer), "an answer has changed"
            self.questions[question.ref] = question
        nobody = self.task.state.is_terminal or self.task.state is TaskState.COMPENSATING
        assert not nobody or not self.world.store.questions(task_id=self.task_id), "a task that has ended asks"
        open_ones = [one for one in self.questions.values() if one.state is QuestionState.OPEN]
        assert not open_ones or self.task.state is not TaskState.COMPENSATING, "what is undone has open questions"

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
