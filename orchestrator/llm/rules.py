"""The planner without a model: backward chaining from the missing fields. Deterministic; the same task, the same way.

For each missing field it looks for an agent that provides it, in the registry's order; what that agent needs is looked
for in the same way. All agents that can be called now and lead to a missing field are called in one decision. A field
that no agent leads to is waited for, where an event type fills it. Where a field cannot be reached at all, nothing is
called for the others either: `NoRoute` says what was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context, has_value
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.errors import NoRoute
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.prompt import fills_of

RULES_VERSION = "rules-1"

_HINT = (
    "Add an agent to agents.yaml whose `provides` names the field, or an event type to events.yaml whose `fills` does; "
    "or let a model plan (ORCHESTRATOR_MODEL). Then retry the task."
)


class RulesPlanner:
    """Plans from what agents declare that they provide and require."""

    def decide(self, request: PlanRequest) -> Decision:
        """The next decision. See `orchestrator.flow.ports.Planner`.

        Raises:
            NoRoute: no agent and no event type leads to a missing field, or the only way was refused.
        """
        context = request.context
        if not context.required_fields:
            return _decision(DecisionKind.FINISH, "the task requires no field, so there is nothing to find out")
        if not context.missing_fields:
            return _decision(DecisionKind.FINISH, "every required field has a value")
        if request.complaints:
            # Asked again, rules can only say the same again.
            raise NoRoute(
                f"the rules see one way only, and it was refused: {request.complaints[-1]}",
                hint="Mend the agent's entry in agents.yaml or the task's data; then retry the task.",
                task_id=request.task_id,
            )
        search = _Search(request)
        goals = {name: search.reach(name) for name in context.missing_fields}
        dead_ends = [goal for goal in goals.values() if isinstance(goal, _DeadEnd)]
        if dead_ends:
            return _give_up(dead_ends, request)
        ways = {name: goal for name, goal in goals.items() if isinstance(goal, _Way)}
        if any(way.calls for way in ways.values()):
            return _call(ways, context)
        return _wait(ways)


# -- decisions ------------------------------------------------------------------------------------------------------


def _decision(kind: DecisionKind, reason: str, **parts: Any) -> Decision:
    return Decision(kind, reason, Usage(model="rules:", prompt_version=RULES_VERSION), **parts)


def _give_up(dead_ends: Sequence[_DeadEnd], request: PlanRequest) -> Decision:
    why = "; ".join(f"no way to {end.field}: {end.why}" for end in dead_ends)
    timed_out = [name for end in dead_ends for name in end.timed_out]
    if timed_out:
        waited = ", ".join(dict.fromkeys(timed_out))
        reason = f"waited for {waited}, which did not come in time, and there is no other way: {why}"
        return _decision(DecisionKind.FAIL, reason, details={"code": "wait_timeout"})
    raise NoRoute(why, hint=_HINT, task_id=request.task_id)


def _call(ways: Mapping[str, _Way], context: Context) -> Decision:
    first_goals: dict[str, tuple[str, _Call]] = {}
    for goal, way in ways.items():
        for call in way.calls:
            first_goals.setdefault(call.agent.name, (goal, call))
    ordered = sorted(first_goals.values(), key=lambda item: item[1].place)
    reason = "; ".join(_why(goal, call) for goal, call in ordered)
    calls = tuple(
        AgentCall(call.agent.name, call.arguments, f"Provide {', '.join(_of_use(call, goal, context))}.")
        for goal, call in ordered
    )
    return _decision(DecisionKind.CALL, reason, calls=calls)


def _of_use(call: _Call, goal: str, context: Context) -> list[str]:
    """What the agent is asked for: the fields not known yet that it provides."""
    unknown = [name for name in call.agent.provides if not has_value(context.collected_data.get(name))]
    return unknown or [call.chain[-1][0] if call.chain else goal]


def _why(goal: str, call: _Call) -> str:
    """`credit_score is missing; `credit_score` provides it and everything it needs (legal_name) is known`."""
    parts = [f"{goal} is missing"]
    for number, (_, agent) in enumerate(call.chain):
        below = call.chain[number + 1 :]
        if below:
            rest = f"but needs {below[0][0]}"
        elif call.needs:
            rest = f"and everything it needs ({', '.join(call.needs)}) is known"
        else:
            rest = "and needs nothing"
        parts.append(f"`{agent}` provides {'that' if number else 'it'} {rest}")
    return "; ".join(parts)


def _wait(ways: Mapping[str, _Way]) -> Decision:
    waits = {name: wanted for way in ways.values() for name, wanted in way.waits.items()}
    parts = [f"{wanted} is missing and only an event brings it ({name})" for name, wanted in waits.items()]
    # Waiting for one of several would sleep through the others.
    details = {"event_type": next(iter(waits))} if len(waits) == 1 else {}
    return _decision(DecisionKind.WAIT_FOR_EVENT, "; ".join(parts), details=details)


# -- the search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """An agent that can be called now."""

    agent: AgentSpec
    place: int
    """Its place in the registry."""
    arguments: Mapping[str, Any]
    needs: tuple[str, ...]
    chain: tuple[tuple[str, str], ...] = ()
    """From the goal down to this call: (field wanted, agent that provides it)."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a field is reached: what can be called now, and what has to be waited for (event type → field)."""

    calls: tuple[_Call, ...] = ()
    waits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _DeadEnd:
    """Why a field cannot be reached."""

    field: str
    why: str
    timed_out: tuple[str, ...] = ()
    """Event types that would have filled it and did not come in time."""
    in_circle: bool = False
    """Whether it was only found dead because a field above it was looked for already."""


class _Search:
    """One decision's search, with what was found kept by field."""

    def __init__(self, request: PlanRequest) -> None:
        self._data = request.context.collected_data
        self._agents = request.agents
        self._event_types = request.event_types
        self._tried = _tried(request.history)
        self._timed_out = _waited_in_vain(request)
        self._found: dict[str, _Way | _DeadEnd] = {}

    def reach(self, wanted: str, above: tuple[str, ...] = ()) -> _Way | _DeadEnd:
        """How to come to a value for this field; ``above`` are the fields that this one is looked for."""
        if wanted in above:
            circle = " needs ".join([*above[above.index(wanted) :], wanted])
            return _DeadEnd(wanted, f"{circle}: a circle", in_circle=True)
        if wanted in self._found:
            return self._found[wanted]
        found = self._search(wanted, above)
        # A dead end found inside a circle may be none when looked at from elsewhere.
        if isinstance(found, _Way) or not found.in_circle:
            self._found[wanted] = found
        return found

    def _search(self, wanted: str, above: tuple[str, ...]) -> _Way | _DeadEnd:
        with_wait: _Way | None = None
        obstacles: list[str] = []
        timed_out: list[str] = []
        in_circle = False
        for place, agent in enumerate(self._agents):
            if wanted not in agent.provides:
                continue
            way = self._through(agent, place, wanted, above)
            if isinstance(way, _DeadEnd):
                obstacles.append(way.why)
                timed_out += way.timed_out
                in_circle |= way.in_circle
            elif not way.waits:
                return way
            elif with_wait is None:
                with_wait = way
        if with_wait is not None:
            return with_wait
        for kind in self._event_types:
            if wanted in fills_of(kind):
                if kind.name not in self._timed_out:
                    return _Way(waits={kind.name: wanted})
                timed_out.append(kind.name)
                obstacles.append(f"event {kind.name} did not come in time")
        return _DeadEnd(wanted, "; ".join(obstacles) or self._nobody(wanted), tuple(timed_out), in_circle)

    def _through(self, agent: AgentSpec, place: int, wanted: str, above: tuple[str, ...]) -> _Way | _DeadEnd:
        """The way to ``wanted`` that goes through this agent."""
        needs = _needs(agent)
        known, unmet = self._look_up(needs)
        if not unmet:
            return self._ready(agent, place, wanted, known, needs)
        calls: list[_Call] = []
        waits: dict[str, str] = {}
        for need in unmet:
            way = self.reach(need, (*above, wanted))
            if isinstance(way, _DeadEnd):
                why = f"`{agent.name}` provides it but needs {need}: {way.why}"
                return _DeadEnd(wanted, why, way.timed_out, way.in_circle)
            calls += [_below(call, wanted, agent.name) for call in way.calls]
            waits |= way.waits
        return _Way(tuple(calls), waits)

    def _ready(
        self, agent: AgentSpec, place: int, wanted: str, known: Mapping[str, Any], needs: Mapping[str, str]
    ) -> _Way | _DeadEnd:
        arguments = {**self._optional(agent), **known}
        for other, earlier, state in self._tried:
            if other == agent.name and earlier == arguments:
                done = "was called with these arguments and did not give it"
                did = done if state is DelegationState.SUCCEEDED else f"was called and is {state.value}"
                return _DeadEnd(wanted, f"`{agent.name}` {did}")
        if problem := schema_problem(agent.input_schema, arguments):
            return _DeadEnd(wanted, f"what is known does not fit the input_schema of `{agent.name}`: {problem}")
        fields = tuple(dict.fromkeys(_field_of(pointer) for pointer in needs.values()))
        return _Way((_Call(agent, place, arguments, fields, ((wanted, agent.name),)),))

    def _look_up(self, needs: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
        known: dict[str, Any] = {}
        unmet: list[str] = []
        for name, pointer in needs.items():
            try:
                value = resolve(dict(self._data), pointer)
            except PointerError:
                value = None
            if has_value(value):
                known[name] = value
            else:
                unmet.append(_field_of(pointer))
        return known, list(dict.fromkeys(unmet))

    def _optional(self, agent: AgentSpec) -> dict[str, Any]:
        """Inputs that nobody requires but that are known under their own names."""
        return {name: self._data[name] for name in _properties(agent) if has_value(self._data.get(name))}

    def _nobody(self, wanted: str) -> str:
        agents = ", ".join(agent.name for agent in self._agents) or "there are none"
        kinds = ", ".join(kind.name for kind in self._event_types) or "there are none"
        return f"no enabled agent provides {wanted} ({agents}) and no event type fills it ({kinds})"


def _below(call: _Call, wanted: str, agent: str) -> _Call:
    return _Call(call.agent, call.place, call.arguments, call.needs, ((wanted, agent), *call.chain))


def _needs(agent: AgentSpec) -> dict[str, str]:
    """Input → pointer into the collected data: what it declares, and what its input_schema cannot do without."""
    required = agent.input_schema.get("required")
    named = required if isinstance(required, Sequence) and not isinstance(required, str) else ()
    implied = {name: "/" + name.replace("~", "~0").replace("/", "~1") for name in named if name not in agent.requires}
    return {**agent.requires, **implied}


def _properties(agent: AgentSpec) -> Iterable[str]:
    properties = agent.input_schema.get("properties")
    return properties if isinstance(properties, Mapping) else ()


def _field_of(pointer: str) -> str:
    if not pointer.startswith("/"):
        return pointer
    return pointer[1:].split("/")[0].replace("~1", "/").replace("~0", "~")


def _tried(history: Sequence[HistoryEntry]) -> list[tuple[str, Mapping[str, Any], DelegationState]]:
    """Every call of the task's present course that ended: the same arguments again would bring nothing new."""
    ended = {DelegationState.SUCCEEDED, DelegationState.FAILED, DelegationState.UNKNOWN, DelegationState.COMPENSATED}
    return [
        (one.agent, one.arguments, one.state)
        for entry in history
        if not entry.step.superseded
        for one in entry.delegations
        if one.state in ended
    ]


def _waited_in_vain(request: PlanRequest) -> frozenset[str]:
    """Event types of the waits at the history's end, where the last one timed out.

    All of them, not only the last: two types that both fail to come would be waited for in turn for ever.
    """
    if not request.wait_timed_out:
        return frozenset()
    vain: set[str] = set()
    for entry in reversed([one for one in request.history if not one.step.superseded]):
        decision = entry.step.decision
        if decision is None or decision.kind is not DecisionKind.WAIT_FOR_EVENT:
            break
        waited_for = decision.details.get("event_type")
        vain |= {waited_for} if waited_for is not None else {kind.name for kind in request.event_types}
    return frozenset(vain)
