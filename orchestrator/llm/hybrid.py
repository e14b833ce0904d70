"""Rules where they leave no choice, a model where there is one: no tokens for what `provides` and `requires` settle.

Rules decide where every missing field, and everything that is needed on the way to it, is given by exactly one agent or
one event type, nothing on the way was tried in vain, and every argument is a known field. All else is for the model:
two agents for one field, a call that failed, an argument that somebody must word, a task that requires no field.
"""

from __future__ import annotations

from orchestrator.domain.context import has_value
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.value import replace
from orchestrator.errors import NoRoute
from orchestrator.flow.planning import Planner, PlanRequest
from orchestrator.llm.prompt import fills_of
from orchestrator.llm.rules import RulesPlanner, fields_needed

_FAILED = frozenset({DelegationState.FAILED, DelegationState.UNKNOWN})


class HybridPlanner:
    """Asks ``model`` only where the rules leave a choice."""

    def __init__(self, model: Planner) -> None:
        self.model = model
        self._rules = RulesPlanner()

    def prepare(self) -> None:
        """Build the model now. Raises `ConfigurationError`."""
        if prepare := getattr(self.model, "prepare", None):
            prepare()

    def close(self) -> None:
        """Give connections back."""
        if close := getattr(self.model, "close", None):
            close()

    def decide_at_once(self, request: PlanRequest) -> Decision | None:
        """What the rules decide; None where a model has to be asked. See `orchestrator.flow.planning.AtOnce`."""
        if why_a_model(request) is not None:
            return None
        decision = self._rules.decide_at_once(request)
        return None if decision is None else _by_rules(decision)

    def decide(self, request: PlanRequest) -> Decision:
        """See `orchestrator.flow.planning.Planner`."""
        why = why_a_model(request)
        if why is None:
            try:
                return _by_rules(self._rules.decide(request))
            except NoRoute as error:
                why = f"the rules see no way: {error}"
        decision = self.model.decide(request)
        return replace(decision, why_asked=why)


def _by_rules(decision: Decision) -> Decision:
    return replace(decision, reason=f"{decision.reason} (rules decided: there is no other way)")


def why_a_model(request: PlanRequest) -> str | None:
    """Why rules may not decide; None: they leave exactly one way."""
    context = request.context
    if not context.required_fields:
        return "the task requires no field: only its description says what is wanted"
    if request.complaints:
        return "an answer was refused"
    if request.wait_timed_out:
        return "a wait timed out"
    course = [entry for entry in request.history if not entry.step.superseded]
    if failed := [one.agent for entry in course for one in entry.delegations if one.state in _FAILED]:
        return f"a call of {failed[-1]} failed"
    called = {one.agent for entry in course for one in entry.delegations if one.state is DelegationState.SUCCEEDED}
    wanted = list(context.missing_fields)
    for field in wanted:  # the loop goes on with what is appended here
        agents = [agent for agent in request.agents if field in agent.provides]
        events = [kind.name for kind in request.event_types if field in fills_of(kind)]
        ways = [*(agent.name for agent in agents), *(f"event {name}" for name in events)]
        if not ways:
            return f"no agent provides {field} and no event type fills it"
        if len(ways) > 1:
            return f"{field} can come from {', '.join(ways)}"
        for agent in agents:
            if agent.name in called:
                return f"{agent.name} was called and {field} is still missing"
            needed = [name for name in fields_needed(agent) if not has_value(context.known_data.get(name))]
            wanted += [name for name in needed if name not in wanted]
    return None
