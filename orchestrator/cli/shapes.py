"""The JSON shapes of the domain's values in `--json` output. Pure; names are the domain's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Conflict, Context, Origin
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import HistoryEntry, Step
from orchestrator.domain.limits import LimitState
from orchestrator.domain.question import Question
from orchestrator.domain.task import Task
from orchestrator.flow.question_port import OpenQuestion


def task_json(task: Task) -> dict[str, Any]:
    """A task's row; ``waits_since`` is when it began to wait."""
    return {
        "task_id": task.task_id,
        "task_description": task.description,
        "state": task.state.value,
        "waits_for": task.waits_for.value if task.waits_for else None,
        "waits_since": task.updated_at if task.waits_for else None,
        "wait": dict(task.wait),
        "paused": task.paused,
        "cancel_requested": task.cancel_requested,
        "reason_code": task.reason_code,
        "reason": task.reason,
        "next_step": task.next_step,
        "required_fields": list(task.required_fields),
        "priority": task.priority,
        "tenant": task.tenant,
        "allowed_agents": None if task.allowed_agents is None else list(task.allowed_agents),
        "on_failure": task.on_failure,
        "deadline": task.deadline,
        "not_before": task.not_before,
        "budget": dict(task.budget),
        "lost_leases": task.lost_leases,
        "doubted_at": task.doubted_at,
        "versions": dict(task.versions),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "ended_at": task.ended_at,
    }


def origin_json(origin: Origin | None) -> dict[str, Any] | None:
    """Who gave a value, and where it stood."""
    if origin is None:
        return None
    return {
        "kind": origin.kind,
        "name": origin.name,
        "at": origin.at,
        "step": origin.step,
        "delegation": origin.delegation,
        "pointer": origin.pointer,
        "quote": origin.quote,
    }


def fields_json(context: Context) -> list[dict[str, Any]]:
    """Required fields first, in their order, then what else is known; each with value and origin."""
    missing = set(context.missing_fields)
    problems = context.field_problems
    others = [name for name in context.collected_data if name not in context.required_fields]
    return [
        {
            "field": name,
            "required": name in context.required_fields,
            "missing": name in missing,
            "problem": problems.get(name),
            "schema": context.field_schemas.get(name),
            "value": context.collected_data.get(name),
            "origin": origin_json(context.origins.get(name)),
        }
        for name in (*context.required_fields, *others)
    ]


def change_json(change: Change) -> dict[str, Any]:
    """One field of a context version's delta."""
    return {
        "field": change.field,
        "value": change.value,
        "removed": change.removed,
        "refused": change.refused,
        "origin": origin_json(change.origin),
    }


def delegation_json(delegation: Delegation) -> dict[str, Any]:
    """One call of an agent."""
    return {
        "ref": delegation.ref,
        "agent": delegation.agent,
        "task": delegation.task,
        "arguments": dict(delegation.arguments),
        "key": delegation.key,
        "state": delegation.state.value,
        "attempts": delegation.attempts,
        "sent_at": delegation.sent_at,
        "deadline_at": delegation.deadline_at,
        "finished_at": delegation.finished_at,
        "seconds": delegation_seconds(delegation),
        "remote_url": delegation.remote_url,
        "reply": delegation.reply,
        "error_code": delegation.error_code,
        "error": delegation.error,
        "settled_by": delegation.settled_by,
    }


def question_json(one: OpenQuestion) -> dict[str, Any]:
    """What waits for a person, with the call that it is about where it is about one."""
    return {
        "task_id": one.task_id,
        "task_description": one.description,
        **_question_json(one.question),
        "agent": one.agent,
        "arguments": None if one.arguments is None else dict(one.arguments),
    }


def _question_json(question: Question) -> dict[str, Any]:
    return {
        "question": question.ref,
        "kind": question.kind.value,
        "text": question.text,
        "choices": list(question.choices),
        "schema": None if question.schema is None else dict(question.schema),
        "fields": list(question.all_fields()),
        "who": question.who,
        "state": question.state.value,
        "asked_at": question.asked_at,
        "timeout_at": question.timeout_at,
        "on_timeout": question.on_timeout.value,
        "escalate_to": question.escalate_to,
        "escalate_at": question.escalate_at,
        "escalated_at": question.escalated_at,
        "answer": question.answer,
        "answered_by": question.answered_by,
        "why": question.why,
        "answered_at": question.answered_at,
    }


def step_json(entry: HistoryEntry) -> dict[str, Any]:
    """One step: decision, why, what it cost, and its delegations."""
    step, decision = entry.step, entry.step.decision
    return {
        "step": step.number,
        "state": step.state.value,
        "superseded": step.superseded,
        "attempts": step.attempts,
        "decision": None if decision is None else decision.to_json(),
        "reason": None if decision is None else decision.reason,
        "usage": None
        if decision is None
        else {
            "model": decision.usage.model,
            "tokens_in": decision.usage.tokens_in,
            "tokens_out": decision.usage.tokens_out,
            "cost": decision.usage.cost,
            "seconds": decision.usage.seconds,
            "answers": decision.usage.answers,
            "prompt_version": decision.usage.prompt_version,
        },
        "tried": [one.to_json() for one in step.tried],
        "base_version": step.base_version,
        "result_version": step.result_version,
        "started_at": step.started_at,
        "decided_at": step.decided_at,
        "finished_at": step.finished_at,
        "seconds": step_seconds(step),
        "error_code": step.error_code,
        "error": step.error,
        "delegations": [delegation_json(delegation) for delegation in entry.delegations],
        "questions": [_question_json(question) for question in entry.questions],
        "ended_by_event": None
        if entry.ended_by is None
        else {"event_type": entry.ended_by.event_type, "received_at": entry.ended_by.received_at},
    }


def agent_json(agent: AgentSpec, state: LimitState | None) -> dict[str, Any]:
    """A registry entry as `agent list` shows it; ``now`` is null where Redis does not tell."""
    return {
        "name": agent.name,
        "description": agent.description,
        "protocol": agent.protocol,
        "url": agent.url,
        "health": agent.health,
        "provides": dict(agent.provides),
        "requires": dict(agent.requires),
        "side_effects": agent.side_effects,
        "idempotent": agent.idempotent,
        "requires_approval": agent.requires_approval,
        "compensate": None if agent.compensate is None else agent.compensate.url,
        "cancel": None if agent.cancel is None else agent.cancel.url or "location",
        "enabled": agent.enabled,
        "limits": {"max_concurrency": agent.limits.max_concurrency, "rate": agent.limits.rate},
        "now": None if state is None else limit_state_json(state),
    }


def limit_state_json(state: LimitState) -> dict[str, Any]:
    """How it stands with an agent's limits; ``open_for`` in seconds, null while its breaker is closed."""
    return {
        "in_flight": state.in_flight,
        "waiting": state.waiting,
        "failures": state.failures,
        "breaker": "closed" if state.open_for is None else "open",
        "open_for": state.open_for,
    }


def step_seconds(step: Step) -> float | None:
    """How long a step took from its first execution to its end."""
    if step.started_at is None or step.finished_at is None:
        return None
    return (step.finished_at - step.started_at).total_seconds()


def delegation_seconds(delegation: Delegation) -> float | None:
    """How long a delegation took from its first attempt to its end."""
    if delegation.sent_at is None or delegation.finished_at is None:
        return None
    return (delegation.finished_at - delegation.sent_at).total_seconds()


def without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what is None or empty: a message names only what was asked for."""
    return {name: value for name, value in document.items() if value not in (None, (), [], {})}


def conflict_json(conflict: Conflict) -> dict[str, Any]:
    """Two givers of one field that disagree."""
    return {
        "field": conflict.field,
        "kept": conflict.kept,
        "kept_from": origin_json(conflict.kept_from),
        "other": conflict.other,
        "other_from": origin_json(conflict.other_from),
        "why": conflict.why,
    }
