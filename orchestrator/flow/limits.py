"""Asking before calling: the port to the limits that all workers share, and how a step or a model's question uses it.

A call that may not be made now is not made, counts as no attempt, and holds no worker: the task waits in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import Delegation, DelegationState, LookupOutcome
from orchestrator.domain.journal import Dispatch, Fail, Settlement, Wait
from orchestrator.domain.limits import Limited, NotNow, limited_agent, went_well
from orchestrator.domain.task import WaitsFor
from orchestrator.errors import AtCapacity
from orchestrator.flow.delegate import Verdict
from orchestrator.flow.ports import Planner, PlanRequest

Wake = Callable[[Sequence[Dispatch]], None]
"""Rings for those who may try again, since there is room."""


class Permit(Protocol):
    """The right to make one call now. Frees itself some time after its process has died."""

    def leave(self, well: bool | None) -> None:
        """The call is over; whether it went well, None: that cannot be said. Raises nothing; may be said twice."""


class Limits(Protocol):
    """Caps, rates and breakers shared by all workers. May forget everything at any time."""

    def enter(self, what: Limited, waiter: Dispatch) -> Permit | NotNow:
        """Ask to make one call. ``waiter`` is rung when there is room again, if that can be told. Raises nothing."""


class Unlimited:
    """Limits that refuse nothing."""

    def enter(self, what: Limited, waiter: Dispatch) -> Permit | NotNow:  # noqa: ARG002 - the port's signature
        """A permit."""
        return _Free()


class _Free:
    def leave(self, well: bool | None) -> None:
        """Nothing was held."""


class Gate:
    """One call of an agent on its way through the limits; as a context manager it gives back what it holds."""

    def __init__(self, limits: Limits, waiter: Dispatch) -> None:
        self._limits = limits
        self._waiter = waiter
        self._permit: Permit | None = None
        self.refused: NotNow | None = None

    def opens(self, agent: AgentSpec) -> bool:
        """Whether the agent may be called now; `refused` says why not. May be asked again."""
        if self._permit is not None:
            return True
        answer = self._limits.enter(limited_agent(agent), self._waiter)
        if isinstance(answer, NotNow):
            self.refused = answer
            return False
        self._permit, self.refused = answer, None
        return True

    @property
    def refused_reply(self) -> NotNow:
        """Why it did not open; to be asked after it did not."""
        if self.refused is None:
            raise AssertionError("the gate was not asked, or it opened")
        return self.refused

    def passed(self, outcome: LookupOutcome) -> None:
        """The call is over."""
        self._leave(went_well(outcome))

    def _leave(self, well: bool | None) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.leave(well)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(None)


def not_now(agent: AgentSpec, delegation: Delegation, gate: Gate, now: datetime) -> Verdict:
    """What a refusal means: the delegation stays as it is and the task waits, or fails where waiting is given up."""
    refused = gate.refused_reply
    settlement = Settlement(
        delegation.index,
        delegation.state,
        error_code=refused.code,
        error=refused.reason,
        remote_url=delegation.remote_url,
        parked=delegation.parked,
    )
    if refused.for_good:
        # Nothing was sent now; a retry by hand sends it.
        failed = Settlement(delegation.index, DelegationState.FAILED, error_code="agent_down", error=refused.reason)
        return Verdict(failed, Fail("agent_down", refused.reason))
    details = {"agent": agent.name, "delegation": delegation.ref}
    due_at = now + timedelta(seconds=refused.retry_in)
    return Verdict(settlement, Wait(WaitsFor.AGENT, due_at, details, reason_code=refused.code, reason=refused.reason))


class LimitedPlanner:
    """A planner whose questions pass the limits of its model."""

    def __init__(self, planner: Planner, limits: Limits, model: Limited) -> None:
        self._planner = planner
        self._limits = limits
        self._model = model

    def prepare(self) -> None:
        """Build the model now. Raises `ConfigurationError`."""
        if prepare := getattr(self._planner, "prepare", None):
            prepare()

    def close(self) -> None:
        """Give connections back."""
        if close := getattr(self._planner, "close", None):
            close()

    def decide(self, request: PlanRequest) -> Decision:
        """Ask, if that may be now.

        Raises:
            AtCapacity: not now; nothing was asked.
            BadAnswer, PlannerUnavailable, PlannerRefused, NoRoute: as the planner raised them.
        """
        permit = self._limits.enter(self._model, Dispatch(request.task_id, request.step))
        if isinstance(permit, NotNow):
            raise AtCapacity(permit.reason, retry_after=permit.retry_in)
        try:
            return self._planner.decide(request)
        finally:
            permit.leave(None)
