"""Taking a step into one's own hands: its calls again with other arguments, or its results given by a person.

What a person enters is held to the agents' schemas as if the planner or the agent had said it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Dispatch, HistoryEntry, NewDelegation
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.question import Question
from orchestrator.domain.task import Task
from orchestrator.domain.value import replace
from orchestrator.errors import NotAllowed
from orchestrator.flow.approval import approvals_for
from orchestrator.flow.control import ring
from orchestrator.flow.delegate import new_delegations, provided
from orchestrator.flow.ports import Agents, Dispatcher


class ByHandStore(Protocol):
    """What is read and written of it. All raise `TaskNotFound`; writes `NotAllowed` where the state does not fit."""

    def task(self, task_id: str) -> Task:
        """One task."""

    def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """All steps with their delegations, oldest first."""

    def rerun_decided(
        self,
        task_id: str,
        step: int,
        decision: Decision,
        rows: Callable[[int], tuple[NewDelegation, ...]],
        asked: Callable[[int], Sequence[Question]],
        *,
        who: str,
        why: str,
        edits: Mapping[str, Any],
    ) -> Dispatch:
        """As ``rerun``, with this decision on record for the new step; ``rows`` gives its calls for that number.

        ``asked`` gives what people are asked before these may be made.
        """

    def skip(
        self, task_id: str, step: int, replies: Mapping[int, Any], changes: Sequence[Change], *, who: str, why: str
    ) -> Dispatch:
        """End the present step with these replies and values, and go on with the next."""


class ByHand:
    """A person in the place of the planner, or of an agent."""

    def __init__(self, store: ByHandStore, dispatcher: Dispatcher, agents: Agents) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.agents = agents

    def rerun_arguments(
        self, task_id: str, step: int, edits: Mapping[int, Mapping[str, Any]], *, who: str, why: str
    ) -> Dispatch:
        """Make the calls of a step again, under a new number and new keys, with some arguments changed.

        Args:
            task_id: the task.
            step: whose decision is taken, and before which the context goes back.
            edits: place of the call, from 0 → argument → value; null takes an argument out.
            who: for the audit.
            why: for the audit.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: the step called nobody, or not so many; the arguments do not fit; the state does not.
        """
        decision = self._calls_of(task_id, step)
        calls = list(decision.calls)
        for index, values in edits.items():
            if not 0 <= index < len(calls):
                what = f"step {step} of task {task_id!r} made {len(calls)} calls, numbered from 0; there is no {index}"
                raise NotAllowed(what, hint=f"See `orchestrator task show {task_id} --steps`.", task_id=task_id)
            arguments = {**calls[index].arguments, **values}
            kept = {name: value for name, value in arguments.items() if value is not None}
            calls[index] = AgentCall(calls[index].agent, kept, calls[index].task)
        for call in calls:
            self._check_call(task_id, call)
        named = ", ".join(f"{calls[index].agent}: {', '.join(values)}" for index, values in edits.items())
        reason = f"as in step {step}, with arguments corrected by {who} ({named})"
        corrected = Decision(DecisionKind.CALL, reason, Usage("by hand", answers=0), calls=tuple(calls))
        task = self.store.task(task_id)
        doorbell = self.store.rerun_decided(
            task_id,
            step,
            corrected,
            lambda number: new_delegations(task, number, corrected, self.agents),
            # Whoever approves is asked anew: what was approved were other arguments.
            lambda number: approvals_for(task, number, corrected, self.agents),
            who=who,
            why=why,
            edits={str(index): dict(values) for index, values in edits.items()},
        )
        ring(self.dispatcher, doorbell)
        return doorbell

    def skip(
        self, task_id: str, values: Mapping[str, Any], replies: Mapping[int, Any], *, who: str, why: str
    ) -> Dispatch:
        """End the present step with given results, and go on with the next.

        Args:
            task_id: the task.
            values: fields of the context, entered as they are.
            replies: place of a call, from 0 → its agent's output, which fills the fields that the agent provides.
            who: for the audit, and the origin of the values.
            why: for the audit.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: there is no such call, it has succeeded, its reply does not fit; the state does not fit.
        """
        task, at = self.store.task(task_id), datetime.now(UTC)
        step = task.next_step
        present = [d for entry in self.store.history(task_id) if entry.step.number == step for d in entry.delegations]
        changes: list[Change] = []
        for delegation in present:
            if delegation.index in replies:
                given = self._given(delegation, replies[delegation.index], who)
                changes += provided(self.agents.get(delegation.agent), given, at)
            elif delegation.state is DelegationState.SUCCEEDED:
                changes += provided(self.agents.get(delegation.agent), delegation, at)
        for index in set(replies) - {one.index for one in present}:
            what = f"step {step} of task {task_id!r} has no call {index}; it made {len(present)}, numbered from 0"
            raise NotAllowed(what, hint=f"See `orchestrator task show {task_id} --steps`.", task_id=task_id)
        changes += [Change(name, value, Origin("person", who, at, step=step)) for name, value in values.items()]
        doorbell = self.store.skip(task_id, step, replies, changes, who=who, why=why)
        ring(self.dispatcher, doorbell)
        return doorbell

    def _calls_of(self, task_id: str, step: int) -> Decision:
        found = next((one.step for one in self.store.history(task_id) if one.step.number == step), None)
        if found is None or found.decision is None or found.decision.kind is not DecisionKind.CALL:
            self.store.task(task_id)
            what = f"step {step} of task {task_id!r} called no agent, so it has no arguments"
            raise NotAllowed(what, hint=f"See `orchestrator task show {task_id} --steps`.", task_id=task_id)
        return found.decision

    def _check_call(self, task_id: str, call: AgentCall) -> None:
        agent = self._agent(call.agent, task_id)
        if problem := schema_problem(agent.input_schema, dict(call.arguments)):
            raise NotAllowed(
                f"the arguments do not fit the input_schema of {call.agent}: {problem}",
                hint="Its entry in agents.yaml says what it takes.",
                task_id=task_id,
            )

    def _given(self, delegation: Delegation, reply: Any, who: str) -> Delegation:
        if delegation.state is DelegationState.SUCCEEDED:
            what = f"call {delegation.ref} of task {delegation.task_id!r} has succeeded: its own reply counts"
            raise NotAllowed(what, task_id=delegation.task_id)
        agent = self._agent(delegation.agent, delegation.task_id)
        if agent.output_schema is not None and (problem := schema_problem(agent.output_schema, reply)):
            raise NotAllowed(
                f"the reply does not fit the output_schema of {agent.name}: {problem}",
                hint="Its entry in agents.yaml says what it must look like.",
                task_id=delegation.task_id,
            )
        return replace(delegation, reply=reply, settled_by=who)

    def _agent(self, name: str, task_id: str) -> AgentSpec:
        agent = self.agents.get(name)
        if agent is None:
            hint = "Put its entry back, or rerun the task without --arguments."
            raise NotAllowed(f"agents.yaml has no agent {name!r} any more", hint=hint, task_id=task_id)
        return agent
