"""Asking the planner for one decision, and checking it in code: what the model says counts only if it fits.

A decision that does not fit (unknown or forbidden agent, arguments that break its schema, a claim that no reply
bears out) goes back to the planner with the complaint, within a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.budget import Resource
from orchestrator.domain.context import Change, Context, Origin, has_value
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry, Tried
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.errors import BadAnswer, BudgetExhausted
from orchestrator.flow.ports import Planner, PlanRequest

MAX_WAIT_SECONDS = 366 * 24 * 3600.0


def decide(planner: Planner, request: PlanRequest, bad_answers: int) -> Decision:
    """Ask until an answer fits, at most ``bad_answers`` times. Answers that did not fit are noted in ``request.tried``.

    Raises:
        BadAnswer: none fitted; the message tells of the last one.
        BudgetExhausted: what is left of the task's budget covers no further answer, or no call of an agent.
        PlannerUnavailable, PlannerRefused, NoRoute: as the planner raised them.
    """
    complaints: list[str] = []
    spent: list[Usage] = []
    while True:
        proposed: Decision | None = None
        try:
            proposed = planner.decide(replace(request, complaints=tuple(complaints)))
            spent.append(proposed.usage)
            decision = check(proposed, request)
        except BudgetExhausted as error:
            if proposed is not None:
                request.tried.append(in_vain(proposed.usage, error.code, str(error)))
            raise
        except BadAnswer as error:
            complaints.append(str(error))
            usage = error.usage if proposed is None else proposed.usage
            if usage is not None:
                request.tried.append(in_vain(usage, error.code, str(error)))
            if error.usage is not None:
                spent.append(error.usage)
            if len(complaints) >= bad_answers:
                raise BadAnswer(
                    f"{len(complaints)} answers of the planner could not be used; the last: {error}",
                    hint="See the step's reason; another model, or a clearer task, may do better; then retry.",
                    task_id=request.task_id,
                ) from error
            continue
        return replace(decision, usage=_summed(decision.usage, spent, answers=len(complaints) + 1))


def in_vain(usage: Usage, code: str, error: str) -> Tried:
    """The note of an answer that did not become the decision."""
    tokens = usage.tokens_in + usage.tokens_out
    return Tried(usage.model, code, error, tokens, usage.cost, usage.seconds, datetime.now(UTC))


def _summed(last: Usage, spent: Sequence[Usage], answers: int) -> Usage:
    """What the decision cost with its bad answers, which are paid for too."""
    costs = [usage.cost for usage in spent if usage.cost is not None]
    return replace(
        last,
        tokens_in=sum(usage.tokens_in for usage in spent),
        tokens_out=sum(usage.tokens_out for usage in spent),
        cost=sum(costs) if costs else None,
        seconds=sum(usage.seconds for usage in spent),
        answers=answers,
    )


def check(decision: Decision, request: PlanRequest) -> Decision:
    """The decision with its arguments completed from the context, if everything about it fits.

    Raises:
        BadAnswer: saying what does not fit, in words that help the planner to do better.
    """
    match decision.kind:
        case DecisionKind.CALL:
            return _check_calls(decision, request)
        case DecisionKind.RECORD:
            if not decision.records:
                raise BadAnswer("record names no field")
            recorded_changes(decision.records, request.history, datetime.min)
        case DecisionKind.FINISH:
            if missing := request.context.missing_fields:
                raise BadAnswer(f"finish is refused: required fields are still missing: {', '.join(missing)}")
        case DecisionKind.WAIT_FOR_EVENT:
            _check_wait(decision.details, request)
        case DecisionKind.ASK_HUMAN:
            if not str(decision.details.get("question") or "").strip():
                raise BadAnswer("ask_human needs a question")
        case DecisionKind.FAIL:
            pass
    return decision


def _check_calls(decision: Decision, request: PlanRequest) -> Decision:
    if not decision.calls:
        raise BadAnswer("the answer calls no agent and no control tool")
    if request.max_calls < 1:
        raise BudgetExhausted(
            f"all calls of agents that the task's budget allows are used, and it wants {decision.calls[0].agent}",
            reason=Resource.DELEGATIONS.code,
            hint="To go on: `orchestrator task retry ID --raise-budget delegations=N`.",
        )
    if len(decision.calls) > request.max_calls:
        raise BadAnswer(f"{len(decision.calls)} calls in one answer are too many; at most {request.max_calls}")
    agents = {agent.name: agent for agent in request.agents}
    return replace(decision, calls=tuple(_check_call(call, agents, request.context) for call in decision.calls))


def _check_call(call: AgentCall, agents: Mapping[str, AgentSpec], context: Context) -> AgentCall:
    agent = agents.get(call.agent)
    if agent is None:
        raise BadAnswer(f"there is no agent {call.agent!r} for this task; there are: {', '.join(agents) or 'none'}")
    arguments = dict(call.arguments)
    for name, pointer in agent.requires.items():
        try:
            known = resolve(context.collected_data, pointer)
        except PointerError:
            known = None
        if not has_value(known):
            raise BadAnswer(f"{agent.name} needs {pointer.lstrip('/')!r}, which is not known yet: get it first")
        arguments.setdefault(name, known)
    if problem := schema_problem(agent.input_schema, arguments):
        raise BadAnswer(f"arguments of {agent.name} do not fit its input_schema: {problem}")
    return replace(call, arguments=arguments)


def _check_wait(details: Mapping[str, Any], request: PlanRequest) -> None:
    name = details.get("event_type")
    known = [event_type.name for event_type in request.event_types]
    if name is not None and known and name not in known:
        raise BadAnswer(f"there is no event type {name!r}; there are: {', '.join(known)}")
    timeout = details.get("timeout_seconds")
    if timeout is not None and not 0 < float(timeout) <= MAX_WAIT_SECONDS:
        raise BadAnswer(f"timeout_seconds must lie between 0 and {MAX_WAIT_SECONDS:.0f}")


# -- record: fields from replies already there, proved against them --


def recorded_changes(
    records: Sequence[FieldRecord], history: Sequence[HistoryEntry], at: datetime
) -> tuple[Change, ...]:
    """The context changes that ``record`` asks for, each checked against the reply it names.

    Raises:
        BadAnswer: a reference, pointer or quote that the recorded reply does not bear out.
    """
    replies = {
        delegation.ref: delegation
        for entry in history
        if not entry.step.superseded
        for delegation in entry.delegations
        if delegation.state is DelegationState.SUCCEEDED
    }
    return tuple(_recorded_change(record, replies, at) for record in records)


def _recorded_change(record: FieldRecord, replies: Mapping[str, Delegation], at: datetime) -> Change:
    delegation = replies.get(record.delegation)
    if delegation is None:
        there = ", ".join(replies) or "none"
        raise BadAnswer(
            f"record {record.field!r}: no reply has the reference {record.delegation!r}; there are: {there}"
        )
    if not 1 <= len(record.field) <= 200:
        raise BadAnswer("record needs a field name of 1 to 200 characters")
    if record.pointer is not None:
        try:
            value = resolve(delegation.reply, record.pointer)
        except PointerError as error:
            raise BadAnswer(f"record {record.field!r}: in reply {record.delegation} is {error}") from error
        if not has_value(value):
            raise BadAnswer(f"record {record.field!r}: the value at {record.pointer!r} of {record.delegation} is empty")
    else:
        value = _quoted_value(record, delegation)
    origin = Origin(
        *delegation.told_by,
        at,
        step=delegation.step,
        delegation=delegation.key,
        pointer=record.pointer,
        quote=record.quote if record.pointer is None else None,
    )
    return Change(record.field, value, origin)


def _quoted_value(record: FieldRecord, delegation: Delegation) -> Any:
    """The extracted value, if the quoted passage stands in the reply and holds the value word for word."""
    quote = (record.quote or "").strip()
    text = _as_text(record.value)
    if not quote or text is None:
        raise BadAnswer(f"record {record.field!r} needs a pointer, or a plain value with the passage quoted")
    passages = [_squeeze(passage) for passage in _texts(delegation.reply)]
    if not any(_squeeze(quote) in passage for passage in passages):
        raise BadAnswer(f"record {record.field!r}: the passage quoted does not stand in reply {record.delegation}")
    if not _holds(_squeeze(quote), _squeeze(text)):
        raise BadAnswer(f"record {record.field!r}: the value {text!r} does not stand in the passage quoted")
    return record.value


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _holds(quote: str, value: str) -> bool:
    """Whether ``value`` stands in ``quote`` as a whole: ``12`` is not in ``4123``."""
    start = quote.find(value)
    while start >= 0:
        before, after = quote[:start][-1:], quote[start + len(value) :][:1]
        cut_before = before.isalnum() and value[0].isalnum()
        cut_after = after.isalnum() and value[-1].isalnum()
        if not cut_before and not cut_after:
            return True
        start = quote.find(value, start + 1)
    return False


def _texts(value: Any) -> list[str]:
    """Every text and number in a JSON value, keys left out."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    text = _as_text(value)
    return [] if text is None else [text]
