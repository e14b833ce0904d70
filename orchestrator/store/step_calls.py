"""A step's claim and its usual commits, one round trip each: what goes to the functions, and what their answers mean.

The functions are in `orchestrator.store.functions`. Which commits are usual says `usual_commit`; all others, and those
that meet with a cancel, an event or a repeated answer, take the long way (`orchestrator.store.fenced_commit`).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.asked import Asked
from orchestrator.domain.context import Context
from orchestrator.domain.decision import Decision
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import (
    Ahead,
    Claim,
    Committed,
    Complete,
    GoOn,
    HistoryEntry,
    Lease,
    NewDelegation,
    NextStep,
    PendingEvent,
    Start,
    Step,
    StepCommit,
    StepState,
)
from orchestrator.domain.question import Question
from orchestrator.domain.task import TaskState
from orchestrator.domain.value import replace
from orchestrator.store.calling import Documents, Rows
from orchestrator.store.published import update_body
from orchestrator.store.questions import question_of
from orchestrator.store.rows import (
    context_columns,
    context_of,
    decision_columns,
    delegation_columns,
    delegation_of,
    pending_event_of,
    settlement_to_json,
    step_of,
    task_of,
)

# A claim that a crash of PostgreSQL forgets has done nothing yet: it need not wait for the disk.
CLAIMS = Rows(
    "SELECT *, pg_current_xact_id()::text AS left_by "
    "FROM claim_step_1(%(task_id)s, %(step)s, %(owner)s, %(lease_for)s, CAST(%(ageing)s AS double precision))",
    durable=False,
)
COMMITS = Documents("commit_steps_1", durable=True)

_claims = itertools.count(1)
"""Numbers this process's claims."""

_MOMENTS_OF_TASK = ("created_at", "updated_at", "deadline", "not_before", "ended_at", "doubted_at")
_MOMENTS_OF_STEP = ("started_at", "decided_at", "finished_at")
_MOMENTS_OF_DELEGATION = ("sent_at", "deadline_at", "finished_at", "due_at", "cleared_at")


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
    """What ``commit_steps_1`` takes, for JSON; None for a commit of another shape."""
    then = commit.then
    new = {one.index for one in commit.delegations}
    if (
        not isinstance(then, GoOn | NextStep | Complete)
        or commit.tried
        or commit.questions
        or commit.ending_event is not None
        or (commit.asked is not None and commit.decision is None)
        or len(commit.settlements) > 1
        or not {start.index for start in commit.starts} <= new
        or (isinstance(then, GoOn) and (commit.decision is None or commit.settlements))
    ):
        return None
    written: dict[str, Any] = {
        "task_id": lease.task_id,
        "epoch": lease.epoch,
        "owner": lease.owner,
        "step": lease.step,
    }
    if commit.merged_events:
        written["merged"] = commit.merged_events
    if commit.decision is not None:
        written |= _decided(commit.decision, commit.asked)
        written["keep_prompt"] = _keeps_prompt(commit)
    if commit.delegations:
        deadlines = {start.index: start.deadline_at for start in commit.starts}
        written["delegations"] = delegation_columns(commit.delegations, deadlines)
    for settlement in commit.settlements:
        columns = settlement_to_json(settlement)
        written |= {"settled_index": columns.pop("index"), "settled_state": columns.pop("state"), **columns}
    if commit.spent is not None:
        written |= {"spent_tokens": commit.spent.tokens, "spent_money": str(commit.spent.money)}
    state = TaskState.COMPLETED if isinstance(then, Complete) else TaskState.PROCESSING
    if commit.context is not None:
        written |= context_columns(commit.context, commit.changes, state)
        written["version"] = commit.context.version
    if not isinstance(then, GoOn):
        context = commit.context or commit.unchanged
        if context is None:
            return None
        written |= _end(lease, commit, context, state, stall)
    return written


def _keeps_prompt(commit: StepCommit) -> bool:
    version = "" if commit.decision is None else commit.decision.usage.prompt_version
    return bool(version) and not version.startswith("rules")


def _decided(decision: Decision, asked: Asked | None) -> dict[str, Any]:
    """The columns of ``steps`` that a decision fills, and the question that it answers."""
    return {
        **decision_columns(decision),
        "decision": decision.to_json(),
        "asked": None if asked is None else asked.to_json(),
    }


def _end(lease: Lease, commit: StepCommit, context: Context, state: TaskState, stall: timedelta) -> dict[str, Any]:
    then = commit.then
    next_step = lease.step if isinstance(then, Complete) else lease.step + 1
    reason = then.reason if isinstance(then, Complete) else None
    required = len(context.required_fields)
    end = {
        "state": state.value,
        "next_step": next_step,
        "end_reason": reason,
        "progress": commit.progress,
        "stall": _interval(stall),
        "body": update_body(
            task_id=lease.task_id,
            state=state.value,
            step=next_step,
            context=context,
            waits_for=None,
            reason_code=None,
            reason=reason,
            source=None,
            low=[one.to_json() for one in commit.low],
        ),
        "known": required - len(context.missing_fields),
        "required": required,
        "steps_decided": commit.steps_decided,
    }
    if isinstance(then, NextStep) and then.owner is not None and then.lease_for is not None:
        end |= {"next_owner": claim_owner(then.owner), "lease_for": _interval(then.lease_for)}
        if then.ahead is not None:
            end |= _ahead(then.ahead, context.version)
        if then.task is not None and not _keeps_prompt(commit):
            end["left_by"] = lease.left_by
    return end


def _interval(length: timedelta) -> str:
    return f"{length.total_seconds():f} seconds"


def _ahead(ahead: Ahead, version: int) -> dict[str, Any]:
    """A decision made ahead, as the columns of its step and of its delegation."""
    ends = {start.index: start.deadline_at for start in ahead.starts}
    (delegation,) = delegation_columns(ahead.delegations, ends)
    columns = {**delegation, **_decided(ahead.decision, ahead.asked), "version": version}
    return {f"ahead_{name}": value for name, value in columns.items() if name != "index"}


def claim_owner(owner: str) -> str:
    """The owner of one claim alone, see `orchestrator.store.fenced_commit.fence_of`; ``owner`` is this process."""
    return f"{owner}:{next(_claims):x}"


def committed_of(lease: Lease, commit: StepCommit, written: Mapping[str, Any], answer: Mapping[str, Any]) -> Committed:
    """What ``commit_steps_1`` has written, given what `usual_commit` made of it."""
    then = commit.then
    return Committed(
        state=TaskState.COMPLETED if isinstance(then, Complete) else TaskState.PROCESSING,
        delegations=_made(lease, commit.delegations, commit.starts) if commit.delegations else None,
        next_step=lease.step + 1 if isinstance(then, NextStep) else lease.step,
        cancel_requested=answer["cancel_requested"],
        paused=answer["paused"],
        claim=_next_claim(lease, commit, written["next_owner"], answer) if answer["claimed"] else None,
        # With the version of its prompt the row has become another than the worker knows.
        left_by=None if _keeps_prompt(commit) else answer["left_by"],
    )


def _next_claim(lease: Lease, commit: StepCommit, owner: str, answer: Mapping[str, Any]) -> Claim | None:
    then, context = commit.then, commit.context or commit.unchanged
    if context is None or not isinstance(then, NextStep):
        return None
    ahead = then.ahead if answer["ahead"] else None
    task = then.task if answer["task"] is None else task_of(_timed(answer["task"], _MOMENTS_OF_TASK))
    if task is None:
        raise AssertionError(f"task {lease.task_id!r} was not given back")
    if answer["task"] is None and ahead is not None:
        task = replace(task, spent=replace(task.spent, delegations=task.spent.delegations + len(ahead.delegations)))
    following = Lease(lease.task_id, lease.step + 1, lease.epoch + 1, owner, left_by=answer["left_by"])
    return Claim(
        lease=following,
        task=task,
        context=context,
        step=None if ahead is None else _open_step(following, ahead, context.version),
        delegations=() if ahead is None else _made(following, ahead.delegations, ahead.starts),
        events=_events_of(answer["events"]),
        questions=tuple(question_of(one) for one in answer["questions"] or ()),
        begun=ahead is not None,
    )


def _open_step(lease: Lease, ahead: Ahead, version: int) -> Step:
    """The row of a step that was decided ahead."""
    return Step(
        task_id=lease.task_id,
        number=lease.step,
        state=StepState.OPEN,
        decision=ahead.decision,
        attempts=0,
        base_version=version,
        asked=ahead.asked,
    )


def _made(lease: Lease, rows: Iterable[NewDelegation], starts: Iterable[Start]) -> tuple[Delegation, ...]:
    """The rows of delegations that were just written, those with a start in flight; ``sent_at`` by our own clock."""
    now = datetime.now(UTC)
    ends = {start.index: start.deadline_at for start in starts}
    return tuple(
        Delegation(
            task_id=lease.task_id,
            step=lease.step,
            index=one.index,
            agent=one.agent,
            arguments=one.arguments,
            task=one.task,
            key=one.key,
            state=DelegationState.IN_FLIGHT if one.index in ends else DelegationState.PENDING,
            attempts=1 if one.index in ends else 0,
            sent_at=now if one.index in ends else None,
            deadline_at=ends.get(one.index),
            reply_token=one.reply_token,
        )
        for one in rows
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
