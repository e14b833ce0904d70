"""Asking the planner for one decision, and checking it in code: what the model says counts only if it fits.

A decision that does not fit (unknown or forbidden agent, arguments that break its schema, a claim that no reply
bears out) goes back to the planner with the complaint, within a bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.budget import Resource
from orchestrator.domain.context import Context, has_value
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.journal import Tried
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.keepable import keepable_text, unkeepable
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.domain.value import replace
from orchestrator.errors import BadAnswer, BudgetExhausted
from orchestrator.flow.check_wait import checked_question, checked_wait
from orchestrator.flow.claims import check_records
from orchestrator.flow.ports import Planner, PlanRequest

MAX_TASK_CHARS = 4_000
"""How much of the planner's own words an agent is sent."""

CORRECTED = "corrected"
"""Key of `Decision.details`: inputs (``agent.input``) for which the planner gave another value than the context has."""

RESERVED_CODES = frozenset(
    {
        "agent_unknown", "bad_decision", "canceled", "context_too_large", "deadline_passed",
        "delegation_limit", "lease_lost",
        "no_progress", "planner_refused", "planner_unavailable", "poison", "step_limit", "store_unavailable",
    }
)  # fmt: skip
"""Reason codes by which the program itself ends a task: no planner speaks in its name."""


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
            proposed = planner.decide(replace(request, complaints=tuple(complaints)) if complaints else request)
            spent.append(proposed.usage)
            decision = check(proposed, request)
        except BudgetExhausted as error:
            if proposed is not None:
                request.tried.append(in_vain(proposed.usage, error.code, str(error)))
            raise
        except BadAnswer as error:
            complaint = keepable_text(str(error))
            complaints.append(complaint)
            usage = error.usage if proposed is None else proposed.usage
            if usage is not None:
                request.tried.append(in_vain(usage, error.code, complaint))
            if error.usage is not None:
                spent.append(error.usage)
            if len(complaints) >= bad_answers:
                raise BadAnswer(
                    f"{len(complaints)} answers of the planner could not be used; the last: {complaint}",
                    hint="See the step's reason; another model, or a clearer task, may do better; then retry.",
                    task_id=request.task_id,
                ) from error
            continue
        if len(spent) == 1 and not complaints:
            return decision
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
    if unkeepable(decision.to_json()):
        # Words are kept as far as they can be; what is acted on is not mended but sent back.
        calls = tuple(replace(call, task=keepable_text(call.task)) for call in decision.calls)
        decision = replace(decision, reason=keepable_text(decision.reason), calls=calls)
        if flaw := unkeepable(decision.to_json()):
            raise BadAnswer(f"the answer {flaw}")
    match decision.kind:
        case DecisionKind.CALL:
            return _check_calls(decision, request)
        case DecisionKind.RECORD:
            check_records(decision.records, request)
        case DecisionKind.FINISH:
            if missing := request.context.missing_fields:
                raise BadAnswer(f"finish is refused: required fields are still missing: {', '.join(missing)}")
        case DecisionKind.WAIT_FOR_EVENT:
            return _with_own_code(replace(decision, details=checked_wait(decision.details, request)), "timeout_code")
        case DecisionKind.ASK_HUMAN:
            return _with_own_code(replace(decision, details=checked_question(decision.details)), "timeout_code")
        case DecisionKind.FAIL:
            return _with_own_code(decision)
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
    calls: list[AgentCall] = []
    corrected: list[str] = []
    for call in decision.calls:
        checked, inputs = _check_call(call, agents, request.context)
        corrected += [f"{call.agent}.{name}" for name in inputs]
        # Calls that differ only in what the context decides are one call: it would act twice.
        if not any((checked.agent, checked.arguments) == (other.agent, other.arguments) for other in calls):
            calls.append(checked)
    details = {**decision.details, CORRECTED: corrected} if corrected else decision.details
    return replace(decision, calls=tuple(calls), details=details)


def _check_call(call: AgentCall, agents: Mapping[str, AgentSpec], context: Context) -> tuple[AgentCall, list[str]]:
    """The call with each input of ``requires`` as the context has it; and which the planner gave otherwise."""
    agent = agents.get(call.agent)
    if agent is None:
        there = ", ".join(agents) or "none"
        raise BadAnswer(f"there is no agent {call.agent[:200]!r} for this task; there are: {there}")
    arguments = dict(call.arguments)
    corrected = []
    for name, pointer in agent.requires.items():
        try:
            known = resolve(context.known_data, pointer)
        except PointerError:
            known = None
        if not has_value(known):
            raise BadAnswer(f"{agent.name} needs {pointer.lstrip('/')!r}, which is not known yet: get it first")
        if name in arguments and arguments[name] != known:
            corrected.append(name)
        arguments[name] = known
    if problem := schema_problem(agent.input_schema, arguments):
        raise BadAnswer(f"arguments of {agent.name} do not fit its input_schema: {problem}")
    return replace(call, arguments=arguments, task=call.task[:MAX_TASK_CHARS]), corrected


def _with_own_code(decision: Decision, key: str = "code") -> Decision:
    """A failure under a short name that is the planner's own; without one where it has none."""
    code = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(decision.details.get(key) or "")).strip("_")[:64]
    details = {name: value for name, value in decision.details.items() if name != key}
    if code and code not in RESERVED_CODES and not code.startswith("budget"):
        details[key] = code
    return replace(decision, details=details)
