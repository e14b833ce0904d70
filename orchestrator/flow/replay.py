"""Taking a task through its recorded course again, by the rules of today: what would lead elsewhere is told. Pure.

What came from outside (the message, events, people's words, agents' replies) is taken from the journal. What the
program makes of it is made anew and compared with the journal: what each giver fills, what is refused, what is missing,
each question, each decision that rules made, each decision of a model as it passes the checks, and how the task ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from orchestrator.domain.context import Change, Context
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.event_type import changes_of_event
from orchestrator.domain.ids import canonical_json
from orchestrator.domain.journal import HistoryEntry, StepState
from orchestrator.domain.task import PartialFailure, TaskState
from orchestrator.domain.value import Value, replace
from orchestrator.errors import BadAnswer, BudgetExhausted, NoRoute
from orchestrator.flow.claims import recorded_changes
from orchestrator.flow.decide import check
from orchestrator.flow.delegate import provided
from orchestrator.flow.divergence import NoChoice, compare, same_json
from orchestrator.flow.fan_out import failure_of
from orchestrator.flow.past import Past, as_kept
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.simulate import BY_HAND, then_of

_SKIPPED = "skipped"
"""Error code of a call that a person went round: they said what its step came to."""

Digests = Mapping[str, str]
"""Part of a question → digest."""


class Readers(Value, frozen=True):
    """What a replay needs of the planner's side."""

    rules: Callable[[PlanRequest], Decision]
    """What rules decide; raises `NoRoute`."""
    retold: Callable[[Decision, PlanRequest], Decision]
    """A model's decision, read once more from tool calls; raises `BadAnswer`."""
    digests: Callable[[PlanRequest], Digests]
    """The parts of a question."""


def replay(
    past: Past, readers: Readers, policy: PartialFailure, questions: Mapping[int, Digests] | None = None
) -> list[str]:
    """Everything that would be otherwise today, in the order of the course; nothing: it would go the same.

    Args:
        past: the task.
        readers: the planner's side.
        policy: what a failed call means for a step, where the task does not say.
        questions: step → the parts of its question as it was when the task was written down; None: not compared.
    """
    return _Replay(past, readers, past.task.partial_failure or policy, questions).run()


class _Replay:
    def __init__(
        self, past: Past, readers: Readers, policy: PartialFailure, questions: Mapping[int, Digests] | None
    ) -> None:
        self.past = past
        self.readers = readers
        self.policy = policy
        self.questions = questions
        self.context = past.context_at(0)
        self.told: list[str] = []
        self.changes = list(past.numbered_changes)

    def run(self) -> list[str]:
        for entry in self.past.course:
            step = entry.step
            if step.asked is not None:
                self._take_in(step.asked.context_version)
                # What a step reads has the store's order; what it merges by itself comes behind.
                self.context = as_kept(self.context)
                self._take_in(step.asked.context_version, step.asked.merged)
                question = self.past.question(entry)
                if question.exact:
                    request = replace(question.request, context=self.context)
                    self._question(entry, request)
                    self._decision(entry, request)
            if step.result_version is not None:
                self._take_in(step.result_version, entry=entry)
            self._replies(entry)
        self._take_in(None)
        self._end()
        return self.told

    # -- what came from outside, and what it fills

    def _take_in(self, version: int | None, more: int = 0, entry: HistoryEntry | None = None) -> None:
        """The changes up to this version (None: all), and so many of the next; each giver's are derived anew.

        ``entry`` is the step that made them, where one did.
        """
        taken = []
        while self.changes:
            number, change = self.changes[0]
            if version is not None and number > version:
                if number > version + 1 or more <= 0:
                    break
                more -= 1
            taken.append(change)
            self.changes.pop(0)
        for _, group in groupby(taken, key=_giver):
            self._one_giver(list(group), entry)

    def _one_giver(self, recorded: Sequence[Change], entry: HistoryEntry | None) -> None:
        derived = self._derived(recorded, entry)
        told = [replace(change, refused=None) for change in recorded] if derived is None else derived
        after = self.context
        admitted: list[Change] = []
        for change in told:
            if _is_known(after, change):
                continue
            admitted.append(after.admit(change))
            after = self.context.apply(admitted)
        if sorted(map(_outline, admitted)) != sorted(map(_outline, recorded)):
            was, now = _words(recorded), _words(admitted)
            self.told.append(f"{_giver_words(recorded[0])} would now change: {now}; on record: {was}")
            # The course goes on as it did: one difference is told once.
            admitted = list(recorded)
        self.context = replace(self.context.apply(admitted), version=self.context.version)

    def _derived(self, recorded: Sequence[Change], entry: HistoryEntry | None) -> Sequence[Change] | None:
        """What the giver's own words fill by the rules of today; None where these are not on record."""
        origin = recorded[0].origin
        if origin.delegation is not None:
            return None if entry is None else self._from_reply(recorded, entry)
        if origin.kind == "event":
            events = [one.ended_by for one in self.past.history if one.ended_by is not None]
            for event in events:
                if (event.event_type or "event", event.received_at) == (origin.name, origin.at):
                    kinds = {kind.name: kind for offer in self.past.offers.values() for kind in offer.event_types}
                    kind = kinds.get(event.event_type or "")
                    return changes_of_event(kind, event.event_type, event.event_data, event.received_at)
        if origin.kind == "person":
            for question in (question for one in self.past.course for question in one.questions):
                if (question.step, question.answered_at) == (origin.step, origin.at):
                    return question.changes()
        return None

    def _from_reply(self, recorded: Sequence[Change], entry: HistoryEntry) -> Sequence[Change] | None:
        """What a reply fills: by the step's own ``record``, or by what its agent provides."""
        origin = recorded[0].origin
        records = () if entry.step.decision is None else entry.step.decision.records
        if {change.field for change in recorded} <= {record.field for record in records}:
            try:
                found = recorded_changes(records, self.past.question(entry).request.history, origin.at)
            except BadAnswer:
                return None  # told of where the decision is checked
            return [change for change in found if change.origin.delegation == origin.delegation]
        one = next((one for one in entry.delegations if one.key == origin.delegation), None)
        agents = self.past.question(entry).request.agents
        agent = next((agent for agent in agents if one is not None and agent.name == one.agent), None)
        return None if one is None or agent is None else provided(agent, one, origin.at)

    # -- what was asked and decided

    def _question(self, entry: HistoryEntry, request: PlanRequest) -> None:
        number = entry.step.number
        if self.context.is_complete:
            self.told.append(f"step {number} would not be decided: every required field has a value")
        if self.questions is None or (was := self.questions.get(number)) is None:
            return
        now = self.readers.digests(request)
        others = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
        if others:
            self.told.append(f"step {number} would be asked another question; what differs: {', '.join(others)}")

    def _decision(self, entry: HistoryEntry, request: PlanRequest) -> None:
        then = then_of(entry)
        if isinstance(then, Decision) and then.usage.model == BY_HAND:
            return
        by_rules = isinstance(then, Decision) and then.usage.model.startswith("rules:")
        if isinstance(then, NoChoice) and then.code != NoRoute.code:
            return
        try:
            if isinstance(then, Decision) and not by_rules:
                now = check(self.readers.retold(then, request), request)
            else:
                now = check(self.readers.rules(request), request)
        except NoRoute as error:
            if isinstance(then, Decision):
                self.told.append(f"step {entry.step.number} would now fail: {error}")
            return
        except (BadAnswer, BudgetExhausted) as error:
            self.told.append(f"step {entry.step.number}: its decision would now be refused: {error}")
            return
        comparison = compare(then, now, request.history)
        # A model's decision is read, not made: it has to come out word for word.
        others = comparison.differences if by_rules else (*comparison.differences, *comparison.wording)
        self.told += (f"step {entry.step.number} would be decided otherwise: {one}" for one in others)

    def _replies(self, entry: HistoryEntry) -> None:
        """What the calls of a step come to."""
        step, calls = entry.step, entry.delegations
        if step.decision is None or step.decision.kind is not DecisionKind.CALL or not calls:
            return
        if not all(one.state.is_settled for one in calls) or self._was_skipped(entry):
            return
        # A call that was undone had succeeded.
        undone = DelegationState.COMPENSATED
        calls = tuple(replace(one, state=DelegationState.SUCCEEDED) if one.state is undone else one for one in calls)
        failure = failure_of(calls, self.policy)
        if step.state is StepState.FINISHED and failure is not None:
            self.told.append(f"step {step.number} would now fail: {failure.code}: {failure.reason}")
        elif step.state is StepState.FAILED and any(one.error_code == step.error_code for one in calls):
            if failure is None:
                self.told.append(f"step {step.number} would not fail any more ({step.error_code} on record)")
            elif failure.code != step.error_code:
                self.told.append(f"step {step.number} would fail as {failure.code}; on record: {step.error_code}")

    def _was_skipped(self, entry: HistoryEntry) -> bool:
        """Whether a person said what the step came to, in place of its calls."""
        if any(one.error_code == _SKIPPED for one in entry.delegations):
            return True
        origins = (change.origin for change in self.past.changes)
        return any((one.kind, one.delegation, one.step) == ("person", None, entry.step.number) for one in origins)

    def _end(self) -> None:
        task = self.past.task
        last = self.past.course[-1].step.decision if self.past.course else None
        finished = last is not None and last.kind is DecisionKind.FINISH
        if task.state is TaskState.COMPLETED and not self.context.is_complete and not finished:
            missing = ", ".join(self.context.missing_fields) or "no field is required"
            self.told.append(f"the task would not be completed: {missing}")
        if task.state is TaskState.FAILED and last is not None and last.kind is DecisionKind.FAIL:
            code = str(last.details.get("code") or "planner_gave_up")
            if code != task.reason_code:
                self.told.append(f"the task would fail as {code}; on record: {task.reason_code}")
        if not same_json(dict(self.context.collected_data), dict(self.past.now.collected_data)):
            self.told.append("the task would know other values at its end")


def _giver(change: Change) -> tuple[object, ...]:
    origin = change.origin
    return origin.kind, origin.name, origin.at, origin.step, origin.delegation, change.removed


def _giver_words(change: Change) -> str:
    origin = change.origin
    return f"{origin.kind} {origin.name}" + (f" (step {origin.step})" if origin.step is not None else "")


def _is_known(context: Context, change: Change) -> bool:
    data = context.collected_data
    return not change.removed and change.field in data and same_json(data[change.field], change.value)


def _outline(change: Change) -> tuple[str, str, bool, bool]:
    return change.field, canonical_json(change.value), change.removed, change.refused is not None


def _words(changes: Sequence[Change]) -> str:
    def one(change: Change) -> str:
        value = "(removed)" if change.removed else repr(change.value)[:120]
        return f"{change.field} = {value}" + (" (refused)" if change.refused is not None else "")

    return ", ".join(map(one, changes)) or "nothing"
