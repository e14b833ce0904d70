"""A task's journal written by hand, step by step, for unit tests of what looks back at it: no server, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.asked import Asked, Offer
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType, changes_of_event
from orchestrator.domain.ids import idempotency_key
from orchestrator.domain.journal import HistoryEntry, PendingEvent, Step, StepState
from orchestrator.domain.question import Question, QuestionKind, QuestionState
from orchestrator.domain.task import Task, TaskState
from orchestrator.domain.value import replace
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.delegate import provided
from orchestrator.flow.past import Past

START = datetime(2026, 11, 2, 10, tzinfo=UTC)
USAGE = Usage("openai:then", 1000, 50, 0.5, 2.0, "1")


def agent(name: str, *provides: str, needs: Sequence[str] = (), **parts: Any) -> AgentSpec:
    """An agent that provides these fields under their own names."""
    return AgentSpec(
        name,
        f"Gives {', '.join(provides)}.",
        "http://agent.test/",
        provides={field: f"/{field}" for field in provides},
        requires={field: f"/{field}" for field in needs},
        **parts,
    )


def calls(*named: str | tuple[str, Mapping[str, Any]], reason: str = "because", usage: Usage = USAGE) -> Decision:
    """A decision to call these, each by name or with its arguments."""
    wanted = [(one, {}) if isinstance(one, str) else one for one in named]
    return Decision(DecisionKind.CALL, reason, usage, calls=tuple(AgentCall(name, given) for name, given in wanted))


def control(kind: str, usage: Usage = USAGE, **details: Any) -> Decision:
    """A decision for a control tool."""
    return Decision(DecisionKind(kind), "because", usage, details=details)


def records(*fields: FieldRecord) -> Decision:
    """A decision to fill fields from replies."""
    return Decision(DecisionKind.RECORD, "it stands there", USAGE, records=fields)


class Journal:
    """A task as it goes. Each method is what happened next."""

    def __init__(
        self, *required: str, agents: Sequence[AgentSpec], events: Sequence[EventType] = (), **data: Any
    ) -> None:
        self.agents = {one.name: one for one in agents}
        self.offer = Offer(tuple(agents), tuple(events))
        self.required = required
        self.history: list[HistoryEntry] = []
        self.versions: list[tuple[int, datetime, Sequence[Change]]] = []
        self.context = Context(0, required)
        self.seconds = 0
        self.merged: list[Change] = []
        self.task = Task("t-1", "Do it", required, TaskState.PROCESSING, 1, START, START)
        self._write([Change(name, value, Origin("message", "event_data", self.now())) for name, value in data.items()])

    def now(self) -> datetime:
        """A moment that grows with each call."""
        self.seconds += 1
        return START + timedelta(seconds=self.seconds)

    def event(self, name: str, *, ends_wait: bool = False, **data: Any) -> None:
        """An event came; it is merged by the next step's commit."""
        kind = next((one for one in self.offer.event_types if one.name == name), None)
        event = PendingEvent(self.seconds, name, data, self.now())
        self.merged += changes_of_event(kind, name, data, event.received_at)
        if ends_wait:
            self.history[-1] = replace(self.history[-1], ended_by=event)

    def by_hand(self, name: str, value: Any, step: int) -> None:
        """A person set a field, at this step."""
        self._write([Change(name, value, Origin("person", "ann", self.now(), step=step))])

    def step(
        self,
        decision: Decision | None,
        *,
        replies: Sequence[Any] = (),
        answer: Any = None,
        error: tuple[str, str] | None = None,
        asked: bool = True,
        **parts: Any,
    ) -> HistoryEntry:
        """A step decided this, and its calls were answered so (an error as an exception)."""
        number = len(self.history) + 1
        base, merged = self.context.version, list(self.merged)
        at = self.now()
        delegations = self._delegations(number, decision, replies)
        questions = self._questions(number, decision, answer)
        changes = [*merged]
        self.merged = []
        if decision is not None and decision.kind is DecisionKind.RECORD:
            changes += recorded_changes(decision.records, self.history, at)
        for one in delegations:
            if one.state is DelegationState.SUCCEEDED and error is None:
                changes += provided(self.agents.get(one.agent), one, at)
        for question in questions:
            changes += question.changes()
        self._write(changes)
        put = Asked(base, len(merged), tuple(range(1, number)), self.offer.digest)
        step = Step(
            "t-1",
            number,
            StepState.FAILED if error else StepState.FINISHED,
            decision,
            1,
            base,
            self.context.version,
            at,
            at,
            self.now(),
            error_code=error and error[0],
            error=error and error[1],
            asked=put if asked else None,
        )
        entry = HistoryEntry(replace(step, **parts), tuple(delegations), tuple(questions))
        self.history.append(entry)
        return entry

    def past(self, state: str = "completed", code: str | None = None, **task: Any) -> Past:
        """The whole of it."""
        ended = replace(self.task, state=TaskState(state), reason_code=code, next_step=len(self.history) + 1, **task)
        return Past(ended, self.history, self.versions, {self.offer.digest: self.offer})

    def _delegations(self, number: int, decision: Decision | None, replies: Sequence[Any]) -> list[Delegation]:
        found = []
        for index, (call, reply) in enumerate(zip(() if decision is None else decision.calls, replies, strict=True)):
            failed = isinstance(reply, Exception)
            key = idempotency_key("t-1", number, index, call.agent, dict(call.arguments))
            found.append(
                Delegation(
                    "t-1", number, index, call.agent, call.arguments, call.task, key,
                    DelegationState.FAILED if failed else DelegationState.SUCCEEDED, attempts=1,
                    sent_at=self.now(), finished_at=self.now(), reply=None if failed else reply,
                    error_code="agent_failed" if failed else None, error=str(reply) if failed else None,
                )
            )  # fmt: skip
        return found

    def _questions(self, number: int, decision: Decision | None, answer: Any) -> list[Question]:
        if decision is None or decision.kind is not DecisionKind.ASK_HUMAN:
            return []
        details = decision.details
        asked = Question(
            str(number), QuestionKind.QUESTION, number, details["question"], self.now(), field=details.get("field")
        )
        if answer is None:
            return [asked]
        settled = replace(asked, state=QuestionState.SETTLED, answer=answer, answered_by="ann", answered_at=self.now())
        return [settled]

    def _write(self, changes: Sequence[Change]) -> None:
        admitted: list[Change] = []
        before = self.context
        for change in changes:
            data = self.context.collected_data
            if not change.removed and change.field in data and data[change.field] == change.value:
                continue
            admitted.append(self.context.admit(change))
            self.context = before.apply(admitted)
        if admitted:
            self.versions.append((self.context.version, self.now(), admitted))
