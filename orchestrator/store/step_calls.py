"""A step's claim and its usual commits, one round trip each: what goes to the functions, and what their answers mean.

The functions are in `orchestrator.store.functions`. Which commits are usual says `usual_commit`; all others, and those
that meet with a cancel, an event or a repeated answer, take the long way (`orchestrator.store.fenced_commit`).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import (
    Ahead,
    Claim,
    Committed,
    Complete,
    GoOn,
    HistoryEntry,
    Lease,
    NextStep,
    PendingEvent,
    StepCommit,
)
from orchestrator.domain.question import Question
from orchestrator.domain.task import TaskState
from orchestrator.store.engine import jsonb_kept
from orchestrator.store.published import update_body
from orchestrator.store.questions import question_of
from orchestrator.store.rows import (
    changes_to_json,
    context_of,
    decision_columns,
    decision_to_row,
    delegation_columns,
    delegation_of,
    new_delegations_to_json,
    origin_to_json,
    pending_event_of,
    settlement_to_json,
    step_of,
    task_of,
)

CLAIM = (
    "SELECT * FROM claim_step_1(%(task_id)s, %(step)s, %(owner)s, %(lease_for)s, CAST(%(ageing)s AS double precision))"
)

_claims = itertools.count(1)
"""Numbers this process's claims."""

_MOMENTS_OF_TASK = ("created_at", "updated_at", "deadline", "not_before", "ended_at", "doubted_at")
_MOMENTS_OF_STEP = ("started_at", "decided_at", "finished_at")
_MOMENTS_OF_DELEGATION = ("sent_at", "deadline_at", "finished_at", "due_at", "cleared_at")

_NOTHING: dict[str, Any] = {
    "decision": None,
    "reason": None,
    "model": None,
    "prompt_version": None,
    "tokens_in": None,
    "tokens_out": None,
    "cost": None,
    "seconds": None,
    "answers": None,
    "asked": None,
    "keep_prompt": False,
    "delegations": None,
    "settlements": None,
    "spent_tokens": None,
    "spent_money": None,
    "context": None,
    "origins": None,
    "version": None,
    "changes": None,
    "state": None,
    "next_step": None,
    "end_reason": None,
    "progress": False,
    "stall": None,
    "update": None,
    "known": None,
    "required": None,
    "next_owner": None,
    "lease_for": None,
    "ahead": None,
}

_BY_NAME = ", ".join(f"p_{name} => %({name})s" for name in _NOTHING)
COMMIT = (
    f"SELECT * FROM commit_step_1(%(task_id)s, %(epoch)s, %(owner)s, %(step)s, "  # noqa: S608  # names of ours only
    f"p_merged => CAST(%(merged)s AS bigint[]), {_BY_NAME})"
)


def claim_of(lease: Lease, answer: Mapping[str, Any]) -> Claim:
    """The claim that ``claim_step_1`` has made."""
    history = None
    if answer["past_steps"] is not None:
        history = _history_of(answer)
    return Claim(
        lease=lease,
        task=task_of(_timed(answer["task"], _MOMENTS_OF_TASK)),
        context=context_of(answer["context"]),
        step=None if answer["step"] is None else step_of(_timed(answer["step"], _MOMENTS_OF_STEP)),
        delegations=_delegations_of(answer["delegations"]),
        events=_events_of(answer["events"]),
        questions=tuple(question_of(row) for row in answer["questions"] or ()),
        history=history,
    )


def _history_of(answer: Mapping[str, Any]) -> tuple[HistoryEntry, ...]:
    delegations: dict[int, list[Delegation]] = defaultdict(list)
    for one in _delegations_of(answer["past_delegations"]):
        delegations[one.step].append(one)
    questions: dict[int, list[Question]] = defaultdict(list)
    for row in answer["past_questions"] or ():
        question = question_of(row)
        questions[question.step].append(question)
    ended = {row["ended_wait_of"]: _event_of(row) for row in answer["past_events"] or ()}
    steps = [step_of(_timed(row, _MOMENTS_OF_STEP)) for row in answer["past_steps"]]
    return tuple(
        HistoryEntry(step, tuple(delegations[step.number]), tuple(questions[step.number]), ended.get(step.number))
        for step in steps
    )


def usual_commit(lease: Lease, commit: StepCommit, stall: timedelta) -> dict[str, Any] | None:
    """The parameters of ``commit_step_1``; None for a commit of another shape."""
    then = commit.then
    new = {one.index for one in commit.delegations}
    if (
        not isinstance(then, GoOn | NextStep | Complete)
        or commit.tried
        or commit.questions
        or commit.ending_event is not None
        or (commit.asked is not None and commit.decision is None)
        or not {start.index for start in commit.starts} <= new
        or (isinstance(then, GoOn) and (commit.decision is None or commit.settlements))
    ):
        return None
    parameters: dict[str, Any] = {
        **_NOTHING,
        "task_id": lease.task_id,
        "epoch": lease.epoch,
        "owner": lease.owner,
        "step": lease.step,
        "merged": list(commit.merged_events),
    }
    if commit.decision is not None:
        version = commit.decision.usage.prompt_version
        parameters |= decision_to_row(commit.decision)
        parameters["asked"] = None if commit.asked is None else jsonb_kept(commit.asked.to_json())
        parameters["keep_prompt"] = bool(version) and not version.startswith("rules")
    if commit.delegations:
        deadlines = {start.index: start.deadline_at for start in commit.starts}
        parameters["delegations"] = new_delegations_to_json(commit.delegations, deadlines)
    if commit.settlements:
        parameters["settlements"] = jsonb_kept([settlement_to_json(one) for one in commit.settlements])
    if commit.spent is not None:
        parameters |= {"spent_tokens": commit.spent.tokens, "spent_money": commit.spent.money}
    state = TaskState.COMPLETED if isinstance(then, Complete) else TaskState.PROCESSING
    if commit.context is not None:
        parameters |= _context_columns(commit, state)
    if not isinstance(then, GoOn):
        end = _end(lease, commit, state, stall)
        if end is None:
            return None
        parameters |= end
    return parameters


def _context_columns(commit: StepCommit, state: TaskState) -> dict[str, Any]:
    context = commit.context
    if context is None:
        return {}
    document = {
        "required_fields": list(context.required_fields),
        "current_state": state.value,
        "collected_data": dict(context.collected_data),
    }
    return {
        "context": jsonb_kept(document),
        "origins": jsonb_kept({name: origin_to_json(origin) for name, origin in context.origins.items()}),
        "version": context.version,
        "changes": jsonb_kept(changes_to_json(commit.changes)),
    }


def _end(lease: Lease, commit: StepCommit, state: TaskState, stall: timedelta) -> dict[str, Any] | None:
    context = commit.context or commit.unchanged
    if context is None:
        return None
    then = commit.then
    next_step = lease.step if isinstance(then, Complete) else lease.step + 1
    reason = then.reason if isinstance(then, Complete) else None
    body = update_body(
        task_id=lease.task_id,
        state=state.value,
        step=next_step,
        context=context,
        waits_for=None,
        reason_code=None,
        reason=reason,
        source=None,
        low=[one.to_json() for one in commit.low],
    )
    required = len(context.required_fields)
    end = {
        "state": state.value,
        "next_step": next_step,
        "end_reason": reason,
        "progress": commit.progress,
        "stall": stall,
        "update": jsonb_kept(body),
        "known": required - len(context.missing_fields),
        "required": required,
    }
    if isinstance(then, NextStep) and then.owner is not None:
        end |= {"next_owner": claim_owner(then.owner), "lease_for": then.lease_for}
        if then.ahead is not None:
            end["ahead"] = _ahead(then.ahead, context.version)
    return end


def _ahead(ahead: Ahead, version: int) -> str:
    """A decision made ahead, as the columns of its step and of its delegations."""
    ends = {start.index: start.deadline_at for start in ahead.starts}
    return jsonb_kept(
        {
            **decision_columns(ahead.decision),
            "decision": ahead.decision.to_json(),
            "asked": None if ahead.asked is None else ahead.asked.to_json(),
            "base_version": version,
            "delegations": delegation_columns(ahead.delegations, ends),
        }
    )


def claim_owner(owner: str) -> str:
    """The owner of one claim alone, see `orchestrator.store.fenced_commit.fence_of`; ``owner`` is this process."""
    return f"{owner}:{next(_claims):x}"


def committed_of(lease: Lease, commit: StepCommit, answer: Mapping[str, Any]) -> Committed:
    """What ``commit_step_1`` has written."""
    then = commit.then
    claim = _next_claim(commit, answer)
    return Committed(
        state=TaskState.COMPLETED if isinstance(then, Complete) else TaskState.PROCESSING,
        delegations=_delegations_of(answer["delegations"]),
        next_step=lease.step + 1 if isinstance(then, NextStep) else lease.step,
        cancel_requested=answer["cancel_requested"],
        paused=answer["paused"],
        claim=claim,
        finished=None if claim is None else step_of(_timed(answer["step"], _MOMENTS_OF_STEP)),
    )


def _next_claim(commit: StepCommit, answer: Mapping[str, Any]) -> Claim | None:
    context = commit.context or commit.unchanged
    if answer["task"] is None or context is None:
        return None
    row, ahead = answer["task"], answer["ahead"]
    return Claim(
        lease=Lease(row["task_id"], row["next_step"], row["epoch"], row["lease_owner"]),
        task=task_of(_timed(row, _MOMENTS_OF_TASK)),
        context=context,
        step=None if ahead is None else step_of(_timed(ahead, _MOMENTS_OF_STEP)),
        delegations=_delegations_of(answer["ahead_delegations"]),
        events=_events_of(answer["events"]),
        questions=tuple(question_of(one) for one in answer["questions"] or ()),
        begun=ahead is not None,
    )


def _delegations_of(rows: Iterable[dict[str, Any]] | None) -> tuple[Delegation, ...]:
    return tuple(delegation_of(_timed(row, _MOMENTS_OF_DELEGATION)) for row in rows or ())


def _events_of(rows: Iterable[dict[str, Any]] | None) -> tuple[PendingEvent, ...]:
    return tuple(_event_of(row) for row in rows or ())


def _event_of(row: dict[str, Any]) -> PendingEvent:
    return pending_event_of(_timed(row, ("received_at",)))


def _timed(row: dict[str, Any], moments: Sequence[str]) -> dict[str, Any]:
    """A row that came as JSON, with these columns as moments again."""
    for name in moments:
        if row[name] is not None:
            row[name] = datetime.fromisoformat(row[name])
    return row
