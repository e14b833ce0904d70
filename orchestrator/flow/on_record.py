"""What the world answered to a task, as its journal has it: replies, events and people's answers. Pure.

`OnRecord.carry_out` does with a decision what a step would do, from these alone. What is not among them is not guessed:
`Uncovered` says what nobody can know. Each answer is there once: what a second call of an agent with the same arguments
would have brought is not known either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.context import Change, Context
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import changes_of_event
from orchestrator.domain.journal import HistoryEntry, PendingEvent, Step, StepState
from orchestrator.domain.question import Question, QuestionKind, QuestionState, answer_problem
from orchestrator.domain.task import PartialFailure, TaskState
from orchestrator.domain.value import Value, replace
from orchestrator.domain.wait import EventWait
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.delegate import provided
from orchestrator.flow.divergence import same_json
from orchestrator.flow.fan_out import failure_of
from orchestrator.flow.past import Past, as_it_was, as_kept
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.waiting import question_of

_ANSWERED = frozenset({QuestionState.ANSWERED, QuestionState.SETTLED})


class Uncovered(Exception):
    """What a decision needs is not on record; the message says what."""


class Ending(Value, frozen=True):
    """How a task ends."""

    state: TaskState
    code: str = ""
    """Reason code of a failure."""
    reason: str = ""


class Carried(Value, frozen=True):
    """A decision carried out from the record."""

    entry: HistoryEntry
    """The step as it would stand in the journal."""
    context: Context
    """What is known afterwards."""
    sources: tuple[str, ...]
    """Where on record the answers stand: ``reply 5.0``, ``event approved``…"""
    ending: Ending | None
    """None: the task goes on."""


class OnRecord:
    """The answers of one task's journal that a course has not used up.

    Args:
        past: the task.
        policy: what a failed call means for its step.
    """

    def __init__(self, past: Past, policy: PartialFailure) -> None:
        self._task_id = past.task.task_id
        self._policy = policy
        course = [entry for entry in past.history if not entry.step.superseded]
        given_up = [entry for entry in past.history if entry.step.superseded]
        entries = [as_it_was(entry) for entry in (*course, *given_up)]
        self._replies = [one for entry in entries for one in entry.delegations if one.is_closed]
        self._questions = [one for entry in entries for one in entry.questions]
        self._answers = [one for one in self._questions if one.kind is QuestionKind.QUESTION and one.state in _ANSWERED]
        self._events = list(_events(past))
        self._seen_until: datetime | None = None

    def use(self, entry: HistoryEntry) -> None:
        """Take what a step on record used out: it is part of the course already."""
        keys = {one.key for one in entry.delegations}
        self._replies = [one for one in self._replies if one.key not in keys]
        asked = {one.ref for one in entry.questions}
        self._answers = [one for one in self._answers if one.ref not in asked]
        if entry.ended_by is not None:
            self._take_event(entry.ended_by)

    def see_until(self, moment: datetime | None) -> None:
        """Events that came until then are in the context already."""
        self._seen_until = moment

    def carry_out(self, decision: Decision, request: PlanRequest) -> Carried:
        """Do what a step would do with a decision on this question.

        Raises:
            Uncovered: it needs an answer that is not on record.
        """
        match decision.kind:
            case DecisionKind.CALL:
                return self._call(decision, request)
            case DecisionKind.RECORD:
                changes = recorded_changes(decision.records, request.history, self._now(request))
                return self._carried(
                    decision, request, changes, tuple(f"reply {r.delegation}" for r in decision.records)
                )
            case DecisionKind.WAIT_FOR_EVENT:
                return self._wait(decision, request)
            case DecisionKind.ASK_HUMAN:
                return self._ask(decision, request)
            case DecisionKind.FINISH:
                ending = Ending(TaskState.COMPLETED, reason=decision.reason)
            case DecisionKind.FAIL:
                code = str(decision.details.get("code") or "planner_gave_up")
                ending = Ending(TaskState.FAILED, code, decision.reason)
        return Carried(_entry(decision, request, request.context.version), request.context, (), ending)

    def _call(self, decision: Decision, request: PlanRequest) -> Carried:
        found = [self._reply_to(call) for call in decision.calls]
        for reply in found:
            self._replies.remove(reply)
        delegations = tuple(
            replace(reply, step=request.step, index=index, task=call.task)
            for index, (call, reply) in enumerate(zip(decision.calls, found, strict=True))
        )
        sources = tuple(f"reply {one.ref}" for one in found)
        if failure := failure_of(delegations, self._policy):
            entry = _entry(decision, request, None, delegations=delegations, error=(failure.code, failure.reason))
            return Carried(entry, request.context, sources, Ending(TaskState.FAILED, failure.code, failure.reason))
        agents = {agent.name: agent for agent in request.agents}
        changes = [
            change
            for one in delegations
            if one.state is DelegationState.SUCCEEDED
            for change in provided(agents.get(one.agent), one, one.finished_at or self._now(request))
        ]
        asked = tuple(
            replace(question, ref=f"{request.step}.{question.ref.partition('.')[2]}", step=request.step)
            for one in found
            for question in self._questions
            if question.index == one.index and question.step == one.step
        )
        return self._carried(decision, request, changes, sources, delegations=delegations, questions=asked)

    def _reply_to(self, call: AgentCall) -> Delegation:
        """The reply on record to this very call; one that succeeded before one that failed."""
        same = [
            one for one in self._replies if one.agent == call.agent and same_json(one.arguments, dict(call.arguments))
        ]
        same.sort(key=lambda one: one.state is not DelegationState.SUCCEEDED)
        if not same:
            raise Uncovered(f"no reply of {call.agent} to these arguments is on record")
        if not same[0].state.is_settled:
            raise Uncovered(f"what became of the call of {call.agent} on record is not known")
        return same[0]

    def _wait(self, decision: Decision, request: PlanRequest) -> Carried:
        now = self._now(request)
        wait = EventWait.begun(decision.details, request.step, now)
        # A wait for just any event is for a new one.
        candidates = self._events if wait.is_for_some else [one for one in self._events if not self._is_seen(one)]
        event = wait.ended_by(candidates)
        if event is None:
            raise Uncovered(f"{wait.words()} is not on record; what would have come, or not, is not known")
        self._take_event(event)
        kind = next((one for one in request.event_types if one.name == event.event_type), None)
        changes = changes_of_event(kind, event.event_type, event.event_data, event.received_at)
        return self._carried(
            decision, request, changes, (f"event {event.event_type or '(of no type)'}",), ended_by=event
        )

    def _ask(self, decision: Decision, request: PlanRequest) -> Carried:
        asked = question_of(decision, request.step, self._now(request))
        fields = set(asked.all_fields())
        for one in self._answers:
            same = set(one.all_fields()) == fields if fields else not one.all_fields() and _same_text(one, asked)
            if same and answer_problem(asked, one.answer) is None:
                break
        else:
            wanted = f"for {', '.join(sorted(fields))}" if fields else "to this question"
            raise Uncovered(f"no answer of a person {wanted} that fits is on record")
        self._answers.remove(one)
        answered = replace(
            asked,
            state=QuestionState.SETTLED,
            answer=one.answer,
            answered_by=one.answered_by,
            why=one.why,
            answered_at=one.answered_at,
        )
        changes = answered.changes()
        return self._carried(decision, request, changes, (f"answer to question {one.ref}",), questions=(answered,))

    def _carried(
        self,
        decision: Decision,
        request: PlanRequest,
        changes: Iterable[Change],
        sources: tuple[str, ...],
        **parts: Any,
    ) -> Carried:
        context = changed(request.context, changes)
        entry = _entry(decision, request, context.version, **parts)
        done = Ending(TaskState.COMPLETED, reason="every required field has a value")
        return Carried(entry, context, sources, done if context.is_complete else None)

    def _now(self, request: PlanRequest) -> datetime:
        """A moment of the record to put on what is simulated: the time of the simulation means nothing in it."""
        times = [origin.at for origin in request.context.origins.values()]
        return max([*times, *([self._seen_until] if self._seen_until else [])], default=datetime.min)

    def _is_seen(self, event: PendingEvent) -> bool:
        return self._seen_until is not None and event.received_at <= self._seen_until

    def _take_event(self, event: PendingEvent) -> None:
        self._events = [
            one for one in self._events if (one.event_type, one.received_at) != (event.event_type, event.received_at)
        ]


def changed(context: Context, changes: Iterable[Change]) -> Context:
    """The context after these changes, as one version, by the rules by which a step changes it."""
    admitted: list[Change] = []
    after = context
    for change in changes:
        data = after.collected_data
        if not change.removed and change.field in data and data[change.field] == change.value:
            continue
        admitted.append(after.admit(change))
        after = context.apply(admitted)
    return as_kept(after)


def _entry(
    decision: Decision,
    request: PlanRequest,
    version: int | None,
    *,
    delegations: Sequence[Delegation] = (),
    questions: Sequence[Question] = (),
    ended_by: PendingEvent | None = None,
    error: tuple[str | None, str | None] = (None, None),
) -> HistoryEntry:
    step = Step(
        request.task_id,
        request.step,
        StepState.FINISHED if version is not None else StepState.FAILED,
        decision,
        1,
        request.context.version,
        version,
        error_code=error[0],
        error=error[1],
    )
    return HistoryEntry(step, tuple(delegations), tuple(questions), ended_by)


def _same_text(one: Question, other: Question) -> bool:
    return " ".join(one.text.split()).casefold() == " ".join(other.text.split()).casefold()


def _events(past: Past) -> Iterator[PendingEvent]:
    """Every event that the journal still tells of, oldest first.

    Those that ended a wait are there as they came. Of the others the journal has what they filled; their data is put
    together from that.
    """
    whole = [entry.ended_by for entry in past.history if entry.ended_by is not None]
    filled: dict[tuple[str, datetime], list[Change]] = {}
    for change in past.changes:
        if change.origin.kind == "event":
            filled.setdefault((change.origin.name, change.origin.at), []).append(change)
    for event in whole:
        filled.pop((event.event_type or "event", event.received_at), None)
    parts = [
        PendingEvent(0, None if name == "event" else name, _data_of(changes), at)
        for (name, at), changes in filled.items()
    ]
    yield from sorted([*whole, *parts], key=lambda event: event.received_at)


def _data_of(changes: Iterable[Change]) -> Mapping[str, Any]:
    data: dict[str, Any] = {}
    for change in changes:
        place = data
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in (change.origin.pointer or "/").split("/")[1:]
        ]
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[last] = change.value
    return data
