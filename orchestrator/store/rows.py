"""Rows to domain values and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping

from orchestrator.domain.asked import Asked
from orchestrator.domain.budget import Spent
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.decision import Decision, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import NewDelegation, PendingEvent, Settlement, Step, StepState, Tried
from orchestrator.domain.task import PartialFailure, Task, TaskState, WaitsFor
from orchestrator.store.engine import jsonb_kept

Row = Mapping[str, Any] | RowMapping


def task_of(row: Row) -> Task:
    """A row of ``tasks``."""
    return Task(
        task_id=row["task_id"],
        description=row["description"],
        required_fields=tuple(row["required_fields"]),
        state=TaskState(row["state"]),
        next_step=row["next_step"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        waits_for=WaitsFor(row["waits_for"]) if row["waits_for"] else None,
        wait=row["wait"],
        paused=row["paused"],
        cancel_requested=row["cancel_requested"],
        priority=row["priority"],
        aged=row["aged"],
        lane=row["lane"],
        tenant=row["tenant"],
        allowed_agents=None if row["allowed_agents"] is None else tuple(row["allowed_agents"]),
        on_failure=row["on_failure"],
        partial_failure=PartialFailure(row["partial_failure"]) if row["partial_failure"] else None,
        deadline=row["deadline"],
        not_before=row["not_before"],
        budget=row["budget"],
        raised=row["budget_raised"],
        spent=Spent(
            delegations=row["spent_delegations"],
            tokens=row["spent_tokens"],
            money=Decimal(row["spent_money"]),
            reserved_tokens=row["reserved_tokens"],
            reserved_money=Decimal(row["reserved_money"]),
        ),
        idle_steps=row["idle_steps"],
        reason_code=row["reason_code"],
        reason=row["reason"],
        lost_leases=row["lost_leases"],
        ended_at=row["ended_at"],
        versions=row["versions"],
        undo=row["undo"],
        steps_before=row["steps_before"],
        doubted_at=row["doubted_at"],
    )


def origin_to_json(origin: Origin) -> dict[str, Any]:
    """Parts without a value are left out."""
    parts = {
        "kind": origin.kind,
        "name": origin.name,
        "at": origin.at.isoformat(),
        "step": origin.step,
        "delegation": origin.delegation,
        "pointer": origin.pointer,
        "quote": origin.quote,
    }
    return {name: value for name, value in parts.items() if value is not None}


def origin_of(data: Mapping[str, Any]) -> Origin:
    """The inverse of `origin_to_json`."""
    return Origin(**{**data, "at": datetime.fromisoformat(data["at"])})


def changes_to_json(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The form kept in ``context_versions.changes``."""
    return [
        {
            "field": change.field,
            "value": change.value,
            "origin": origin_to_json(change.origin),
            **({"removed": True} if change.removed else {}),
            **({"refused": change.refused} if change.refused is not None else {}),
        }
        for change in changes
    ]


def changes_of(data: Iterable[Mapping[str, Any]]) -> tuple[Change, ...]:
    """The inverse of `changes_to_json`."""
    return tuple(
        Change(c["field"], c["value"], origin_of(c["origin"]), c.get("removed", False), c.get("refused")) for c in data
    )


def context_columns(context: Context, changes: Iterable[Change], state: TaskState) -> dict[str, Any]:
    """What is kept as JSON of a new version of a context, by column."""
    return {
        "context": {
            "required_fields": context.required_fields,
            "current_state": state.value,
            "collected_data": dict(context.collected_data),
        },
        "origins": {name: origin_to_json(origin) for name, origin in context.origins.items()},
        "changes": changes_to_json(changes),
    }


def context_of(row: Row) -> Context:
    """A row of ``task_contexts``."""
    return Context(
        version=row["version"],
        required_fields=tuple(row["context"]["required_fields"]),
        collected_data=row["context"]["collected_data"],
        origins={name: origin_of(data) for name, data in row["origins"].items()},
        field_schemas=row.get("field_schemas") or {},
    )


def step_of(row: Row) -> Step:
    """A row of ``steps``."""
    usage = Usage(
        model=row["model"] or "",
        tokens_in=row["tokens_in"] or 0,
        tokens_out=row["tokens_out"] or 0,
        cost=None if row["cost"] is None else float(row["cost"]),
        seconds=row["seconds"] or 0.0,
        prompt_version=row["prompt_version"] or "",
        answers=row["answers"] or 1,
    )
    return Step(
        task_id=row["task_id"],
        number=row["step_number"],
        state=StepState(row["state"]),
        decision=None if row["decision"] is None else Decision.from_json(row["decision"], usage),
        attempts=row["attempts"],
        base_version=row["base_version"],
        result_version=row["result_version"],
        started_at=row["started_at"],
        decided_at=row["decided_at"],
        finished_at=row["finished_at"],
        error_code=row["error_code"],
        error=row["error"],
        tried=tuple(Tried.from_json(one) for one in row["tried"]),
        superseded=row["superseded"],
        asked=None if row["asked"] is None else Asked.from_json(row["asked"]),
    )


def decision_to_row(decision: Decision) -> dict[str, Any]:
    """The columns of ``steps`` that a decision fills."""
    return {"decision": jsonb_kept(decision.to_json()), **decision_columns(decision)}


def decision_columns(decision: Decision) -> dict[str, Any]:
    """Those beside the decision itself."""
    usage = decision.usage
    return {
        "reason": decision.reason,
        "model": usage.model,
        "prompt_version": usage.prompt_version,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "cost": usage.cost,
        "seconds": usage.seconds,
        "answers": usage.answers,
    }


def delegation_of(row: Row) -> Delegation:
    """A row of ``delegations``."""
    return Delegation(
        task_id=row["task_id"],
        step=row["step_number"],
        index=row["index"],
        agent=row["agent"],
        arguments=row["arguments"],
        task=row["task"],
        key=row["idempotency_key"],
        state=DelegationState(row["state"]),
        attempts=row["attempts"],
        sent_at=row["sent_at"],
        deadline_at=row["deadline_at"],
        remote_url=row["remote_url"],
        reply=row["reply"],
        error_code=row["error_code"],
        error=row["error"],
        finished_at=row["finished_at"],
        settled_by=row["settled_by"],
        due_at=row["due_at"],
        parked=row["parked"],
        lost_leases=row["lost_leases"],
        reply_token=row["reply_token"],
        told=row["told"],
        cleared_at=row["cleared_at"],
    )


def compensation_of(row: Row) -> Delegation:
    """A row of ``compensations``."""
    return Delegation(
        task_id=row["task_id"],
        step=row["step_number"],
        index=row["index"],
        agent=row["agent"],
        arguments=row["arguments"],
        task=row["task"],
        key=row["idempotency_key"],
        state=DelegationState(row["state"]),
        attempts=row["attempts"],
        sent_at=row["sent_at"],
        deadline_at=row["deadline_at"],
        remote_url=row["remote_url"],
        reply=row["reply"],
        error_code=row["error_code"],
        error=row["error"],
        finished_at=row["finished_at"],
        cleared_at=row["cleared_at"],
    )


def new_delegations_to_json(delegations: Iterable[NewDelegation]) -> str:
    """As the statement that inserts them takes them, all in one parameter."""
    return jsonb_kept(delegation_columns(delegations, {}))


def delegation_columns(delegations: Iterable[NewDelegation], deadlines: Mapping[int, datetime]) -> list[dict[str, Any]]:
    """Those of each, ready for JSON; ``deadlines`` of those sent at once."""
    return [
        {
            "index": one.index,
            "agent": one.agent,
            "arguments": dict(one.arguments),
            "task": one.task,
            "key": one.key,
            "side_effects": one.side_effects,
            "reply_token": one.reply_token,
            "deadline_at": deadlines[one.index].isoformat() if one.index in deadlines else None,
        }
        for one in delegations
    ]


def settlement_to_json(settlement: Settlement) -> dict[str, Any]:
    """As statements take it, many in one parameter."""
    return {
        "index": settlement.index,
        "state": settlement.state.value,
        "reply": settlement.reply,
        "error_code": settlement.error_code,
        "error": settlement.error,
        "remote_url": settlement.remote_url,
        "parked": settlement.parked,
        "may_have_acted": settlement.may_have_acted,
        "deadline_at": None if settlement.deadline_at is None else settlement.deadline_at.isoformat(),
    }


def pending_event_of(row: Row) -> PendingEvent:
    """A row of ``inbox`` that waits to be merged."""
    return PendingEvent(row["id"], row["event_type"], row["body"], row["received_at"])
