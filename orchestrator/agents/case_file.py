"""A file of cases for `orchestrator eval`: questions as people write them, with the choices that are right.

Agents and event types stand in it as in agents.yaml and events.yaml (an agent needs no ``url``: none is called), or in
files of their own that it names. The keys are documented in docs/eval.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.agents.entry import AgentEntry
from orchestrator.agents.event_types import EventEntry, EventTypeRegistry
from orchestrator.agents.registry import Registry
from orchestrator.agents.yaml_file import FileProblem, entries_of, name_of, read_document, report, validate
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.field_schema import schema_flaw
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.errors import CasesError
from orchestrator.flow.delegate import provided
from orchestrator.flow.judge import Case, Expected, ExpectedCall
from orchestrator.flow.on_record import changed
from orchestrator.flow.ports import PlanRequest

_TOP = frozenset({"agents", "events", "agents_file", "events_file", "cases"})
_HINT = "docs/eval.md has every key; `orchestrator eval --starter` prints a file to begin with."
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_NOBODY = "http://agent.invalid/"

Part = TypeVar("Part", AgentSpec, EventType)


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Call(_Form):
    agent: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    reply: Any = None
    error: str | None = None


class _Step(_Form):
    calls: list[_Call] = Field(default_factory=list)
    waited_for: str | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _is_one(self) -> _Step:
        if bool(self.calls) == (self.waited_for is not None):
            raise ValueError("a step has `calls` or `waited_for`")
        return self


class _ExpectedCall(_Form):
    agent: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class _Expected(_Form):
    call: str | _ExpectedCall | None = None
    calls: list[str | _ExpectedCall] | None = Field(None, min_length=1)
    control: Literal["finish", "record", "wait_for_event", "ask_human", "fail"] | None = None
    details: dict[str, Any] = Field(default_factory=dict, alias="with")
    none_fits: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> _Expected:
        named = [one for one in (self.call, self.calls, self.control, self.none_fits) if one is not None]
        if len(named) != 1:
            raise ValueError("each expected choice has one of `call`, `calls`, `control`, `none_fits`")
        if self.details and self.control is None:
            raise ValueError("`with` goes with `control`")
        return self

    def expected(self) -> Expected:
        """The choice as the flow knows it."""
        wanted = self.calls if self.calls is not None else [self.call] if self.call is not None else []
        calls = tuple(
            ExpectedCall(one) if isinstance(one, str) else ExpectedCall(one.agent, one.arguments) for one in wanted
        )
        control = None if self.control is None else DecisionKind(self.control)
        return Expected(calls, control, self.details, bool(self.none_fits))


class _Case(_Form):
    name: str = Field(min_length=1, max_length=200)
    description: str = Field(min_length=1)
    required_fields: list[str] | dict[str, dict[str, Any]] = Field(default_factory=list)
    known: dict[str, Any] = Field(default_factory=dict)
    agents: list[str] | None = None
    events: list[str] | None = None
    steps: list[_Step] = Field(default_factory=list)
    wait_timed_out: bool = False
    expect: list[_Expected] = Field(min_length=1)
    weight: float = Field(1.0, gt=0)


def load_cases(path: Path) -> Sequence[Case]:
    """Read and check a file of cases.

    Raises:
        CasesError: naming every problem at once, each with its case and key.
        RegistryError, EventTypesError: a file that it names is wrong.
    """
    try:
        document = read_document(path)
        if not isinstance(document, dict) or set(document) - _TOP:
            raise FileProblem(f"its top level may have the keys {', '.join(sorted(_TOP))}")
        entries = {key: entries_of(document, key) for key in ("agents", "events", "cases")}
        files = {key: _beside(path, document.get(key)) for key in ("agents_file", "events_file")}
    except FileProblem as error:
        raise CasesError(f"{path}: {error}", hint=_HINT) from error
    problems: list[str] = []
    agents = _agents(entries["agents"], problems)
    event_types = _event_types(entries["events"], problems)
    if files["agents_file"] is not None:
        agents += Registry.load(files["agents_file"]).enabled()
    if files["events_file"] is not None:
        event_types += EventTypeRegistry.load(files["events_file"]).all()
    cases: list[Case] = []
    names: set[str] = set()
    for position, entry in enumerate(entries["cases"], start=1):
        label = name_of(entry, position)
        form, wrong = validate(_Case, entry)
        problems += [f"case {label}: {problem}" for problem in wrong]
        if form is None:
            continue
        if form.name in names:
            problems.append(f"case {label}: the name appears twice")
        names.add(form.name)
        try:
            cases.append(_case(form, agents, event_types))
        except FileProblem as error:
            problems.append(f"case {label}: {error}")
    if not problems and not cases:
        problems.append("there is no case in it")
    if problems:
        raise CasesError(report(path, problems), hint=_HINT)
    return cases


def _beside(path: Path, name: Any) -> Path | None:
    if name is not None and not isinstance(name, str):
        raise FileProblem("agents_file and events_file are names of files")
    return None if name is None else path.parent / name


def _agents(entries: Sequence[Mapping[str, Any]], problems: list[str]) -> list[AgentSpec]:
    found = []
    for position, entry in enumerate(entries, start=1):
        model, wrong = validate(AgentEntry, {"url": _NOBODY, **entry})
        problems += [f"agent {name_of(entry, position)}: {problem}" for problem in wrong]
        if model is not None:
            found.append(model.spec())
    return found


def _event_types(entries: Sequence[Mapping[str, Any]], problems: list[str]) -> list[EventType]:
    found = []
    for position, entry in enumerate(entries, start=1):
        model, wrong = validate(EventEntry, entry)
        problems += [f"event type {name_of(entry, position)}: {problem}" for problem in wrong]
        if model is not None:
            found.append(model.event_type())
    return found


def _case(form: _Case, agents: Sequence[AgentSpec], event_types: Sequence[EventType]) -> Case:
    offered = _named(agents, form.agents, "agent")
    events = _named(event_types, form.events, "event type")
    by_name = {agent.name: agent for agent in offered}
    expected = tuple(one.expected() for one in form.expect)
    for one in (call for choice in expected for call in choice.calls):
        if one.agent not in by_name:
            raise FileProblem(f"it expects a call of {one.agent!r}, which is not on offer in it")
    required, schemas = _required(form)
    origin = Origin("message", "event_data", _AT)
    context = changed(
        Context(0, required, field_schemas=schemas),
        [Change(name, value, origin) for name, value in form.known.items()],
    )
    history: list[HistoryEntry] = []
    for number, step in enumerate(form.steps, start=1):
        entry = _entry(step, number, context.version, by_name)
        succeeded = [one for one in entry.delegations if one.state is DelegationState.SUCCEEDED]
        context = changed(context, [c for one in succeeded for c in provided(by_name.get(one.agent), one, _AT)])
        history.append(entry)
    request = PlanRequest(
        task_id=f"case {form.name}",
        step=len(history) + 1,
        description=form.description,
        context=context,
        agents=offered,
        event_types=events,
        history=history,
        wait_timed_out=form.wait_timed_out,
    )
    return Case(form.name, request, expected, form.weight)


def _named(parts: Sequence[Part], names: Sequence[str] | None, what: str) -> list[Part]:
    if names is None:
        return list(parts)
    found = {part.name: part for part in parts}
    if unknown := [name for name in names if name not in found]:
        raise FileProblem(f"there is no {what} {', '.join(unknown)} in the file")
    return [found[name] for name in names]


def _required(form: _Case) -> tuple[tuple[str, ...], Mapping[str, Mapping[str, Any]]]:
    if isinstance(form.required_fields, list):
        return tuple(dict.fromkeys(form.required_fields)), {}
    for name, schema in form.required_fields.items():
        if schema and (flaw := schema_flaw(schema)):
            raise FileProblem(f"required field {name!r}: {flaw}")
    return tuple(form.required_fields), {name: schema for name, schema in form.required_fields.items() if schema}


def _entry(step: _Step, number: int, version: int, agents: Mapping[str, AgentSpec]) -> HistoryEntry:
    usage = Usage("case")
    if step.waited_for is not None:
        details = {"event_type": step.waited_for}
        decision = Decision(DecisionKind.WAIT_FOR_EVENT, step.reason or "as the case tells", usage, details=details)
        return HistoryEntry(Step("case", number, StepState.FINISHED, decision, 1, version), ())
    for call in step.calls:
        if call.agent not in agents:
            raise FileProblem(f"step {number} calls {call.agent!r}, which is not on offer in it")
    calls = tuple(AgentCall(call.agent, call.arguments) for call in step.calls)
    decision = Decision(DecisionKind.CALL, step.reason or "as the case tells", usage, calls=calls)
    delegations = tuple(
        Delegation(
            "case",
            number,
            index,
            call.agent,
            call.arguments,
            "",
            f"case:{number}:{index}",
            DelegationState.SUCCEEDED if call.error is None else DelegationState.FAILED,
            attempts=1,
            reply=call.reply,
            error_code=None if call.error is None else "agent_failed",
            error=call.error,
        )
        for index, call in enumerate(step.calls)
    )
    return HistoryEntry(Step("case", number, StepState.FINISHED, decision, 1, version), delegations)
