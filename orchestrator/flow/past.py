"""A task's past, put together from its journal: what each step was asked, and what its replies brought. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.asked import Offer
from orchestrator.domain.context import Change, Context
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.task import Task
from orchestrator.domain.value import Value, replace
from orchestrator.flow.ports import PlanRequest, ReadStore

Versions = Sequence[tuple[int, datetime, Sequence[Change]]]
"""As `ReadStore.versions` gives them."""


class Question(Value, frozen=True):
    """What the planner was asked for one step."""

    request: PlanRequest
    exact: bool
    """Whether it is the very question. False where the journal does not say what was on offer: then no agents and event
    types are in it, and the context is the one that the step started from."""


class Past:
    """A task with everything that is on record of it."""

    def __init__(
        self,
        task: Task,
        history: Sequence[HistoryEntry],
        versions: Versions,
        offers: Mapping[str, Offer],
        field_schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.task = task
        self.history = history
        self.offers = offers
        self.versions = versions
        self._changes = {number: tuple(changes) for number, _, changes in versions}
        self._contexts = {0: Context(0, task.required_fields, field_schemas=field_schemas or {})}
        for number, _, changes in versions:
            after = self.now.apply(changes)
            # A version without changes still counts: numbers name rows of the history.
            self._contexts[number] = replace(after, version=number)

    @classmethod
    def load(cls, store: ReadStore, task_id: str) -> Past:
        """Read it from a store.

        Raises:
            TaskNotFound: there is no such task.
        """
        task = store.task(task_id)
        history = store.history(task_id)
        digests = {entry.step.asked.offer for entry in history if entry.step.asked is not None}
        schemas = store.context(task_id).field_schemas
        return cls(task, history, store.versions(task_id), store.offers(sorted(digests)), schemas)

    @property
    def course(self) -> Sequence[HistoryEntry]:
        """The steps of its present course: those that no rerun went back before."""
        return [entry for entry in self.history if not entry.step.superseded]

    @property
    def changes(self) -> Sequence[Change]:
        """Every change of its context, oldest first, those refused included."""
        return [change for _, change in self.numbered_changes]

    @property
    def numbered_changes(self) -> Sequence[tuple[int, Change]]:
        """The same, each with the version that it belongs to."""
        return [(number, change) for number in sorted(self._changes) for change in self._changes[number]]

    @property
    def now(self) -> Context:
        """What the task knows now."""
        return self._contexts[max(self._contexts)]

    def context_at(self, version: int, merged: int = 0) -> Context:
        """The context of a version, with the first ``merged`` changes of the next on top."""
        context = as_kept(self._contexts.get(version, self.now))
        return context.apply(self._changes.get(version + 1, ())[:merged])

    def question(self, entry: HistoryEntry) -> Question:
        """What the planner was asked for a step."""
        step = entry.step
        asked = step.asked
        offer = None if asked is None else self.offers.get(asked.offer)
        if asked is None:
            context = self.context_at(step.base_version)
            shown = [one.step.number for one in self.history if one.step.number < step.number]
            shown = shown if step.superseded else [n for n in shown if not self._entry(n).step.superseded]
        else:
            context = self.context_at(asked.context_version, asked.merged)
            shown = list(asked.steps)
        request = PlanRequest(
            task_id=self.task.task_id,
            step=step.number,
            description=self.task.description,
            context=context,
            agents=() if offer is None else offer.agents,
            event_types=() if offer is None else offer.event_types,
            history=[as_it_was(self._entry(number)) for number in shown],
            wait_timed_out=asked is not None and asked.wait_timed_out,
            complaints=() if asked is None else asked.complaints,
            prompt_version=(step.decision.usage.prompt_version if step.decision is not None else None)
            or self.task.versions.get("prompt"),
        )
        return Question(request, exact=offer is not None)

    def learned(self, entry: HistoryEntry) -> tuple[Change, ...]:
        """What the replies of a step brought into the context, by ``provides`` or by the step's own ``record``."""
        step = entry.step
        if step.result_version is None:
            return ()
        own = {delegation.key for delegation in entry.delegations}
        recorded = set() if step.decision is None else {record.field for record in step.decision.records}
        return tuple(
            change
            for number, changes in self._changes.items()
            if step.base_version < number <= step.result_version
            for change in changes
            if change.origin.delegation in own or (change.origin.kind == "agent" and change.field in recorded)
        )

    def _entry(self, number: int) -> HistoryEntry:
        return next(entry for entry in self.history if entry.step.number == number)


def as_kept(context: Context) -> Context:
    """The context with its fields in the order in which the store gives them back: a prompt shows them in it."""
    names = sorted(context.collected_data, key=lambda name: (len(name.encode()), name.encode()))
    data = {name: context.collected_data[name] for name in names}
    return replace(context, collected_data=data)


def as_it_was(entry: HistoryEntry) -> HistoryEntry:
    """A step as a later one saw it: no part of a course given up yet, nothing compensated yet."""
    delegations = tuple(_before_undo(one) for one in entry.delegations)
    return replace(entry, step=replace(entry.step, superseded=False), delegations=delegations)


def _before_undo(delegation: Delegation) -> Delegation:
    undone = delegation.state is DelegationState.COMPENSATED
    return replace(delegation, state=DelegationState.SUCCEEDED) if undone else delegation
