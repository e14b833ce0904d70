"""The planner without a model: backward chaining from the missing fields. Deterministic; the same task, the same way.

For each missing field it looks for an agent that provides it: the one with the fewest agents before it, and of these
the first in the registry; what that agent needs is looked for in the same way. All agents that can be called now and
lead to a missing field are called in one decision. A field that no agent leads to is waited for, where an event type
fills it. Where a field cannot be reached at all, nothing is called for the others either: `NoRoute` says what was
looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.by_identity import ByIdentity
from orchestrator.domain.context import Context, has_value
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import DECLINED, Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.value import Value
from orchestrator.errors import NoRoute
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.prompt import fills_of

RULES_VERSION = "rules-1"

_SENTENCES = 8
"""How much of a dead end is told for each field."""

_HINT = (
    "Add an agent to agents.yaml whose `provides` names the field, or an event type to events.yaml whose `fills` does; "
    "or let a model plan (ORCHESTRATOR_MODEL). Then retry the task."
)


class RulesPlanner:
    """Plans from what agents declare that they provide and require."""

    def decide_at_once(self, request: PlanRequest) -> Decision | None:
        """The next decision; None where there is none. See `orchestrator.flow.planning.AtOnce`."""
        try:
            return self.decide(request)
        except NoRoute:
            return None

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
        ways = {goal: search.way(goal) for goal in context.missing_fields}
        if unreachable := [goal for goal, way in ways.items() if way is None]:
            return _give_up(search, unreachable, request)
        open_ways = {goal: way for goal, way in ways.items() if way is not None}
        if any(way.calls for way in open_ways.values()):
            return _call(open_ways, request)
        return _wait(open_ways)


# -- decisions ------------------------------------------------------------------------------------------------------


def _decision(kind: DecisionKind, reason: str, **parts: Any) -> Decision:
    return Decision(kind, reason, Usage(model="rules:", prompt_version=RULES_VERSION), **parts)


def _give_up(search: _Search, unreachable: Sequence[str], request: PlanRequest) -> Decision:
    reasons, timed_out = zip(*(search.why_not(goal) for goal in unreachable), strict=True)
    why = "; ".join(dict.fromkeys(reasons))
    if late := dict.fromkeys(name for names in timed_out for name in names):
        reason = f"waited for {', '.join(late)}, which did not come in time, and there is no other way: {why}"
        return _decision(DecisionKind.FAIL, reason, details={"code": "wait_timeout"})
    raise NoRoute(why, hint=_HINT, task_id=request.task_id)


def _call(ways: Mapping[str, _Way], request: PlanRequest) -> Decision:
    """Call what can be called now, as many as one decision may; the rest follows in the next step."""
    first_goals: dict[str, tuple[str, _Call]] = {}
    for goal, way in ways.items():
        for call in way.calls:
            first_goals.setdefault(call.agent.name, (goal, call))
    ordered = sorted(first_goals.values(), key=lambda item: item[1].place)[: max(1, request.max_calls)]
    reason = "; ".join(_why(goal, call) for goal, call in ordered)
    calls = tuple(
        AgentCall(call.agent.name, call.arguments, f"Provide {', '.join(_of_use(call, request.context))}.")
        for _, call in ordered
    )
    return _decision(DecisionKind.CALL, reason, calls=calls)


def _of_use(call: _Call, context: Context) -> list[str]:
    """What the agent is asked for: the fields not known yet that it provides."""
    unknown = [name for name in call.agent.provides if not has_value(context.collected_data.get(name))]
    return unknown or [call.chain[-1][0]]


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


class _Call(Value, frozen=True):
    """An agent that can be called now."""

    agent: AgentSpec
    place: int
    """Its place in the registry."""
    arguments: Mapping[str, Any]
    needs: tuple[str, ...]
    chain: tuple[tuple[str, str], ...]
    """From the goal down to this call: (field wanted, agent that provides it)."""


class _Way(Value, frozen=True):
    """How a field is reached: what can be called now, and what has to be waited for (event type → field)."""

    calls: tuple[_Call, ...]
    waits: Mapping[str, str]


class _Candidate(Value, frozen=True):
    """An agent as it stands: what it would be called with, and what it still lacks."""

    agent: AgentSpec
    place: int
    arguments: Mapping[str, Any]
    needs: tuple[str, ...]
    unmet: tuple[str, ...]
    obstacle: str | None
    """Why it cannot be called although it lacks nothing."""


class _Search:
    """One decision's search: first forward, which fields can be reached at all; then back from the goals."""

    def __init__(self, request: PlanRequest) -> None:
        self._data = dict(request.context.known_data)
        self._event_types = request.event_types
        self._timed_out = _waited_in_vain(request)
        tried = _tried(request.history)
        self._candidates = [self._candidate(place, agent, tried) for place, agent in enumerate(request.agents)]
        self._reached: dict[str, _Candidate | EventType] = {}
        self._spread()
        # Events stand behind agents: first for what no agent provides at all, then for what none leads to.
        provided = {name for one in self._candidates for name in one.agent.provides}
        self._expect(lambda name: name not in provided)
        self._expect(lambda _: True)

    def way(self, goal: str) -> _Way | None:
        """How to come to a value for this field; None: not at all."""
        if goal not in self._reached:
            return None
        calls: list[_Call] = []
        waits: dict[str, str] = {}
        seen: set[str] = set()
        open_ends: list[tuple[str, tuple[tuple[str, str], ...]]] = [(goal, ())]
        while open_ends:
            wanted, chain = open_ends.pop(0)
            if wanted in seen:
                continue
            seen.add(wanted)
            found = self._reached[wanted]
            if isinstance(found, EventType):
                waits[found.name] = wanted
                continue
            chain = (*chain, (wanted, found.agent.name))
            if not found.unmet:
                calls.append(_Call(found.agent, found.place, found.arguments, found.needs, chain))
            open_ends += [(need, chain) for need in found.unmet]
        return _Way(tuple(calls), waits)

    def why_not(self, goal: str) -> tuple[str, list[str]]:
        """What stands between us and an unreachable field, and the event types that did not come in time."""
        sentences: list[str] = []
        timed_out: list[str] = []
        seen: list[str] = [goal]
        for wanted in seen:
            prefix = f"no way to {wanted}: " if wanted == goal else f"{wanted}: "
            obstacles: list[str] = []
            for one in self._candidates:
                if wanted not in one.agent.provides:
                    continue
                lacking = [need for need in one.unmet if need not in self._reached]
                circle = " (a circle)" if goal in lacking or wanted in lacking else ""
                needs = f"`{one.agent.name}` provides it but needs {', '.join(lacking)}{circle}"
                obstacles.append(one.obstacle or needs)
                # The loop goes on with what is appended here.
                seen += [need for need in lacking if need not in seen]
            for kind in self._event_types:
                if wanted in fills_of(kind):
                    timed_out.append(kind.name)
                    obstacles.append(f"event {kind.name} did not come in time")
            sentences.append(prefix + (", and ".join(obstacles) or self._nobody(wanted)))
        shown = sentences[:_SENTENCES] + (["…"] if len(sentences) > _SENTENCES else [])
        return "; ".join(shown), timed_out

    def _candidate(self, place: int, agent: AgentSpec, tried: Sequence[Delegation]) -> _Candidate:
        needs = _needs(agent)
        known, unmet = self._look_up(needs.pointers)
        arguments = {**self._optional(agent), **known}
        obstacle = None
        if not unmet:
            obstacle = _tried_already(agent, arguments, tried)
            if obstacle is None and (problem := schema_problem(agent.input_schema, arguments)):
                obstacle = f"what is known does not fit the input_schema of `{agent.name}`: {problem}"
        return _Candidate(agent, place, arguments, needs.fields, unmet, obstacle)

    def _spread(self) -> None:
        """Add what agents lead to, level by level: the shortest way wins, then the registry's order."""
        while True:
            level: dict[str, _Candidate] = {}
            for one in self._candidates:
                if one.obstacle is None and all(need in self._reached for need in one.unmet):
                    for name in one.agent.provides:
                        if name not in self._reached:
                            level.setdefault(name, one)
            if not level:
                return
            self._reached |= level

    def _expect(self, wanted: Callable[[str], bool]) -> None:
        """Add what events can fill, and what agents lead to from there."""
        for kind in self._event_types:
            if kind.name not in self._timed_out:
                for name in fills_of(kind):
                    if wanted(name):
                        self._reached.setdefault(name, kind)
        self._spread()

    def _look_up(self, needs: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
        known: dict[str, Any] = {}
        unmet: list[str] = []
        for name, pointer in needs.items():
            try:
                value = resolve(self._data, pointer)
            except PointerError:
                value = None
            if has_value(value):
                known[name] = value
            else:
                unmet.append(_field_of(pointer))
        return known, tuple(dict.fromkeys(unmet))

    def _optional(self, agent: AgentSpec) -> dict[str, Any]:
        """Inputs that nobody requires but that are known under their own names."""
        return {name: self._data[name] for name in _properties(agent) if has_value(self._data.get(name))}

    def _nobody(self, wanted: str) -> str:
        agents = ", ".join(one.agent.name for one in self._candidates) or "there are none"
        kinds = ", ".join(kind.name for kind in self._event_types) or "there are none"
        return f"no enabled agent provides {wanted} ({agents}) and no event type fills it ({kinds})"


def _tried_already(
    agent: AgentSpec,
    arguments: Mapping[str, Any],
    tried: Sequence[Delegation],
) -> str | None:
    for one in tried:
        if one.agent == agent.name and one.arguments == arguments:
            if one.error_code == DECLINED:
                return f"the call of `{agent.name}` with what is known was not approved ({one.error})"
            what = "did not give it" if one.state is DelegationState.SUCCEEDED else f"is {one.state.value}"
            return f"`{agent.name}` was called with what is known and {what}"
    return None


class _Needs(Value, frozen=True):
    """What an agent cannot be called without."""

    pointers: Mapping[str, str]
    """Input → pointer into the collected data: what it declares, and what its input_schema cannot do without."""
    fields: tuple[str, ...]
    """The context fields that these point into."""


_needs_seen = ByIdentity[_Needs](most=4096)


def _needs(agent: AgentSpec) -> _Needs:
    return _needs_seen.of((agent,), lambda: _needs_of(agent))


def _needs_of(agent: AgentSpec) -> _Needs:
    required = agent.input_schema.get("required")
    named = required if isinstance(required, Sequence) and not isinstance(required, str) else ()
    implied = {name: "/" + name.replace("~", "~0").replace("/", "~1") for name in named if name not in agent.requires}
    pointers = {**agent.requires, **implied}
    return _Needs(pointers, tuple(dict.fromkeys(_field_of(pointer) for pointer in pointers.values())))


def fields_needed(agent: AgentSpec) -> tuple[str, ...]:
    """The context fields without which an agent cannot be called."""
    return _needs(agent).fields


def _properties(agent: AgentSpec) -> Iterable[str]:
    properties = agent.input_schema.get("properties")
    return properties if isinstance(properties, Mapping) else ()


def _field_of(pointer: str) -> str:
    if not pointer.startswith("/"):
        return pointer
    return pointer[1:].split("/")[0].replace("~1", "/").replace("~0", "~")


def _tried(history: Sequence[HistoryEntry]) -> list[Delegation]:
    """Every call of the task's present course that ended: the same arguments again would bring nothing new."""
    ended = {DelegationState.SUCCEEDED, DelegationState.FAILED, DelegationState.UNKNOWN, DelegationState.COMPENSATED}
    return [one for entry in history if not entry.step.superseded for one in entry.delegations if one.state in ended]


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
