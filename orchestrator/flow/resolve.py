"""Settling by a person's word what became of a delegation that is ``unknown``.

The word takes the place of the agent's own: a reply is held to the agent's ``output_schema`` as if the agent had sent
it, and the step that finds it goes on from the journal as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.errors import NotAllowed
from orchestrator.flow.control import ring
from orchestrator.flow.ports import Agents, Dispatcher


class ResolveStore(Protocol):
    """What is read and written of it, each in one transaction. Both raise `TaskNotFound`."""

    def unknown_delegations(self, task_id: str) -> Sequence[Delegation]:
        """The task's delegations whose outcome is unknown, in order; those of superseded steps left out."""

    def resolve(self, delegation: Delegation, resolution: Resolution, *, who: str, why: str) -> Dispatch | None:
        """Write the word and audit it; the doorbell of the step that waited for it, None where none did.

        Raises:
            NotAllowed: a worker is at the task, or the delegation is unknown no more.
        """


class Resolver:
    """Takes a person's word."""

    def __init__(self, store: ResolveStore, dispatcher: Dispatcher, agents: Agents) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.agents = agents

    def resolve(
        self, task_id: str, ref: str | None, resolution: Resolution, *, who: str, why: str
    ) -> tuple[Delegation, Dispatch | None]:
        """Settle one delegation; returns it as it was, and the doorbell that was rung.

        Args:
            task_id: its task.
            ref: ``{step}.{index}``; None where only one is unknown.
            resolution: what became of it.
            who: for the audit, and the origin of the values that come from the reply.
            why: for the audit.

        Raises:
            TaskNotFound: no task has this id.
            NotAllowed: none, several or another is unknown; the reply does not fit; a worker is at the task.
        """
        delegation = self._find(task_id, ref)
        if resolution.outcome is Outcome.SUCCEEDED:
            self._check_reply(delegation, resolution)
        doorbell = self.store.resolve(delegation, resolution, who=who, why=why)
        if doorbell is not None:
            ring(self.dispatcher, doorbell)
        return delegation, doorbell

    def _find(self, task_id: str, ref: str | None) -> Delegation:
        unknown = self.store.unknown_delegations(task_id)
        found = [one for one in unknown if ref in (None, one.ref)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(f"{one.ref} ({one.agent})" for one in unknown)
        if not unknown:
            what = "has no delegation whose outcome is unknown"
        elif ref is None:
            what = f"has {len(unknown)} delegations whose outcome is unknown, say which with --delegation: {names}"
        else:
            what = f"has no delegation {ref} whose outcome is unknown; it has {names}"
        raise NotAllowed(
            f"task {task_id!r} {what}", hint=f"See `orchestrator task show {task_id} --steps`.", task_id=task_id
        )

    def _check_reply(self, delegation: Delegation, resolution: Resolution) -> None:
        agent = self.agents.get(delegation.agent)
        if agent is None:
            raise NotAllowed(
                f"agents.yaml has no agent {delegation.agent!r} any more, so its reply cannot be checked",
                hint="Put its entry back, or settle the delegation as failed.",
                task_id=delegation.task_id,
            )
        if agent.output_schema is None:
            return
        if problem := schema_problem(agent.output_schema, resolution.reply):
            raise NotAllowed(
                f"the reply does not fit the output_schema of {agent.name}: {problem}",
                hint="Its entry in agents.yaml says what it must look like.",
                task_id=delegation.task_id,
            )
