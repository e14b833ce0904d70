"""Advancing a task: the claim of its lease, and the one fenced commit that writes whatever a step has to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.context import Context
from orchestrator.domain.journal import (
    Cancel,
    Claim,
    Committed,
    Complete,
    Fail,
    GoOn,
    HistoryEntry,
    Lease,
    NextStep,
    NotClaimed,
    PendingEvent,
    Settlement,
    StepCommit,
    Then,
    Wait,
)
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import LeaseLost
from orchestrator.store.engine import Transactions, jsonb, text
from orchestrator.store.history import load_history
from orchestrator.store.published import update_body
from orchestrator.store.rows import (
    changes_to_json,
    context_of,
    delegation_of,
    origin_to_json,
    pending_event_of,
    step_of,
    task_of,
)

_CLAIM = text("""
    UPDATE tasks SET
        epoch = epoch + 1,
        lease_owner = :owner,
        lost_leases = lost_leases + CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END,
        lease_until = now() + CAST(:lease_for AS interval),
        due_at = now() + CAST(:lease_for AS interval),
        rings = 0,
        woken = false,
        state = 'processing',
        waits_for = NULL,
        updated_at = now()
    WHERE task_id = :task_id AND next_step = :step AND NOT paused
      AND state IN ('received', 'processing', 'waiting')
      AND (lease_until IS NULL OR lease_until < now())
      AND (state <> 'waiting' OR woken OR cancel_requested OR due_at <= now())
    RETURNING *
""")

_LOAD = text("""
    SELECT
        (SELECT to_jsonb(c) FROM task_contexts c WHERE c.task_id = :task_id) AS context,
        (SELECT jsonb_agg(e ORDER BY e.id) FROM (
            SELECT id, event_type, body, received_at FROM inbox
            WHERE task_id = :task_id AND state IN ('pending', 'early')) e) AS events
""")

_NOT_CLAIMED = text("SELECT state, paused, next_step, lease_until >= now() AS held FROM tasks WHERE task_id = :task_id")

_FENCE = text("""
    SELECT state, cancel_requested, paused, priority, source FROM tasks
    WHERE task_id = :task_id AND epoch = :epoch AND next_step = :step
      AND state NOT IN ('completed', 'failed', 'canceled')
    FOR UPDATE
""")

_EVENTS = text("""
    SELECT id, event_type, body, received_at FROM inbox
    WHERE task_id = :task_id AND state IN ('pending', 'early') AND NOT id = ANY(:merged)
    ORDER BY id
""")

_MERGED = text("UPDATE inbox SET state = 'merged', merged_version = :version WHERE id = ANY(:ids)")

_UPSERT_STEP = text("""
    INSERT INTO steps (task_id, step_number, state, base_version)
    SELECT task_id, :step, 'open', version FROM task_contexts WHERE task_id = :task_id
    ON CONFLICT (task_id, step_number) DO NOTHING
""")

_DECIDE = text("""
    UPDATE steps SET decision = CAST(:decision AS jsonb), reason = :reason, model = :model,
        prompt_version = :prompt_version, tokens_in = :tokens_in, tokens_out = :tokens_out, cost = :cost,
        seconds = :seconds, answers = :answers, decided_at = now(), error_code = NULL, error = NULL
    WHERE task_id = :task_id AND step_number = :step AND decision IS NULL
""")

_END_STEP = text("""
    UPDATE steps SET state = :state, attempts = attempts + 1, result_version = coalesce(:version, base_version),
        error_code = :error_code, error = :error,
        finished_at = CASE WHEN :state = 'open' THEN NULL ELSE now() END
    WHERE task_id = :task_id AND step_number = :step
""")

_INSERT_DELEGATIONS = text("""
    INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects, state)
    SELECT :task_id, :step, r.index, r.agent, r.arguments, r.task, r.key, r.side_effects, 'pending'
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(index int, agent text, arguments jsonb, task text, key text, side_effects boolean)
""")

_START = text("""
    UPDATE delegations SET state = 'in_flight', attempts = attempts + 1, sent_at = coalesce(sent_at, now()),
        deadline_at = r.deadline_at, remote_url = NULL, error_code = NULL, error = NULL, finished_at = NULL
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(index int, deadline_at timestamptz)
    WHERE delegations.task_id = :task_id AND delegations.step_number = :step AND delegations.index = r.index
""")

_SETTLE = text("""
    UPDATE delegations SET state = r.state, reply = nullif(r.reply, 'null'), error_code = r.error_code,
        error = r.error, remote_url = r.remote_url,
        finished_at = CASE WHEN r.state IN ('succeeded', 'failed') THEN now() END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(index int, state text, reply jsonb, error_code text, error text, remote_url text)
    WHERE delegations.task_id = :task_id AND delegations.step_number = :step AND delegations.index = r.index
""")

_DELEGATIONS = text("SELECT * FROM delegations WHERE task_id = :task_id AND step_number = :step ORDER BY index")

_WRITE_CONTEXT = text("""
    WITH kept AS (
        INSERT INTO context_versions (task_id, version, step, changes)
        VALUES (:task_id, :version, :step, CAST(:changes AS jsonb))
    )
    UPDATE task_contexts SET context = CAST(:context AS jsonb), version = :version, origins = CAST(:origins AS jsonb),
        updated_at = now()
    WHERE task_id = :task_id
""")

_WRITE_STATE = text("""
    UPDATE task_contexts SET context = jsonb_set(context, '{current_state}', to_jsonb(CAST(:state AS text))),
        updated_at = now()
    WHERE task_id = :task_id
    RETURNING context, version, origins
""")

_GO_ON = text("UPDATE tasks SET lost_leases = 0, updated_at = now() WHERE task_id = :task_id")

_MOVE = text("""
    UPDATE tasks SET
        state = :state, waits_for = :waits_for, wait = CAST(:wait AS jsonb), next_step = :next_step,
        due_at = CASE WHEN :at_once THEN now() + CAST(:stall AS interval) ELSE CAST(:due_at AS timestamptz) END,
        reason_code = :reason_code, reason = :reason, lost_leases = 0, lease_owner = NULL, lease_until = NULL,
        woken = :woken, rings = 0, updated_at = now(),
        ended_at = CASE WHEN :ended THEN now() END,
        cancel_requested = cancel_requested AND NOT :ended
    WHERE task_id = :task_id
""")

_OUTBOX = text("INSERT INTO outbox (kind, task_id, body) VALUES ('update', :task_id, CAST(:body AS jsonb))")

_RELEASE = text("""
    UPDATE tasks SET lease_owner = NULL, lease_until = NULL, due_at = :retry_at, updated_at = now()
    WHERE task_id = :task_id AND epoch = :epoch AND next_step = :step AND state = 'processing'
""")

_RENEW = text("""
    UPDATE tasks SET lease_until = now() + CAST(:lease_for AS interval), due_at = now() + CAST(:lease_for AS interval)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id text, step int, epoch bigint)
    WHERE tasks.task_id = r.task_id AND tasks.epoch = r.epoch AND tasks.next_step = r.step
      AND tasks.lease_until IS NOT NULL
    RETURNING tasks.task_id
""")

_SETTLE_LATE = text("""
    UPDATE delegations SET state = :state, reply = CAST(:reply AS jsonb), error_code = :error_code, error = :error,
        remote_url = :remote_url, finished_at = now()
    WHERE idempotency_key = :key AND attempts = :attempt AND state IN ('in_flight', 'unknown')
    RETURNING task_id, step_number
""")

_WAKE_STEP = text("""
    UPDATE tasks SET woken = true, due_at = now()
    WHERE task_id = :task_id AND next_step = :step AND state = 'waiting'
""")


@dataclass(frozen=True, slots=True)
class _Move:
    """Where a commit takes the task."""

    state: TaskState
    step_state: str
    next_step: int
    waits_for: WaitsFor | None = None
    wait: dict[str, Any] | None = None
    due_at: datetime | None = None
    at_once: bool = False
    """Its next doorbell is rung right after the commit; the sweep rings after the stall time."""
    woken: bool = False
    reason_code: str | None = None
    reason: str | None = None


class StepPart(Transactions):
    """Implements `orchestrator.flow.ports.StepStore`."""

    stall: timedelta

    def claim(self, task_id: str, step: int, owner: str, lease_for: timedelta) -> Claim | NotClaimed:
        """Take the lease and load what the step needs."""
        parameters = {"task_id": task_id, "step": step, "owner": owner, "lease_for": lease_for}

        def work(connection: Connection) -> Claim | NotClaimed:
            row = connection.execute(_CLAIM, parameters).mappings().first()
            if row is None:
                return _why_not(connection, task_id, step)
            loaded = connection.execute(_LOAD, {"task_id": task_id}).one()
            if loaded.context["context"]["current_state"] != row["state"]:
                connection.execute(_WRITE_STATE, {"task_id": task_id, "state": row["state"]})
            step_row = (
                connection.execute(
                    text("SELECT * FROM steps WHERE task_id = :task_id AND step_number = :step"), parameters
                )
                .mappings()
                .first()
            )
            delegations = ()
            if step_row is not None:
                rows = connection.execute(_DELEGATIONS, parameters).mappings()
                delegations = tuple(delegation_of(r) for r in rows)
            return Claim(
                lease=Lease(task_id, step, row["epoch"], owner),
                task=task_of(row),
                context=context_of(loaded.context),
                step=None if step_row is None else step_of(step_row),
                delegations=delegations,
                events=tuple(_event_of_json(e) for e in loaded.events or ()),
            )

        # A claim that a crash of PostgreSQL forgets has done nothing yet: it need not wait for the disk.
        return self.transact(work, durable=False)

    def commit(self, lease: Lease, commit: StepCommit) -> Committed:
        """Write one fenced transaction."""
        return self.transact(lambda connection: _Commit(connection, lease, commit, self.stall).write())

    def release(self, lease: Lease, retry_at: datetime) -> None:
        """Hand the step back unfinished."""
        self.transact(lambda connection: connection.execute(_RELEASE, _fence(lease) | {"retry_at": retry_at}))

    def renew(self, leases: Sequence[Lease], lease_for: timedelta) -> Sequence[Lease]:
        """Prolong leases; returns those that were lost."""
        if not leases:
            return []
        rows = [{"task_id": x.task_id, "step": x.step, "epoch": x.epoch} for x in sorted(leases, key=_by_task)]
        parameters = {"rows": jsonb(rows), "lease_for": lease_for}
        kept = self.transact(
            lambda connection: {r.task_id for r in connection.execute(_RENEW, parameters)}, durable=False
        )
        return [lease for lease in leases if lease.task_id not in kept]

    def settle_late(self, key: str, attempt: int, settlement: Settlement) -> bool:
        """Store an answer that came after the lease was lost."""
        parameters = {
            "key": key,
            "attempt": attempt,
            "state": settlement.state.value,
            "reply": None if settlement.reply is None else jsonb(settlement.reply),
            "error_code": settlement.error_code,
            "error": settlement.error,
            "remote_url": settlement.remote_url,
        }

        def work(connection: Connection) -> bool:
            row = connection.execute(_SETTLE_LATE, parameters).first()
            if row is not None:
                connection.execute(_WAKE_STEP, {"task_id": row.task_id, "step": row.step_number})
            return row is not None

        return self.transact(work)

    def history(self, task_id: str) -> Sequence[HistoryEntry]:
        """All steps with their delegations, oldest first."""
        return self.transact(lambda connection: load_history(connection, task_id))


def _by_task(lease: Lease) -> str:
    return lease.task_id


def _fence(lease: Lease) -> dict[str, Any]:
    return {"task_id": lease.task_id, "epoch": lease.epoch, "step": lease.step}


def _event_of_json(data: dict[str, Any]) -> PendingEvent:
    return pending_event_of({**data, "received_at": datetime.fromisoformat(data["received_at"])})


def _why_not(connection: Connection, task_id: str, step: int) -> NotClaimed:
    row = connection.execute(_NOT_CLAIMED, {"task_id": task_id}).first()
    if row is None:
        return NotClaimed.NO_TASK
    if TaskState(row.state).is_terminal:
        return NotClaimed.ENDED
    if row.next_step != step:
        return NotClaimed.NOT_NEXT
    if row.paused:
        return NotClaimed.PAUSED
    return NotClaimed.HELD if row.held else NotClaimed.NOT_DUE


class _Commit:
    """The course of one fenced transaction."""

    def __init__(self, connection: Connection, lease: Lease, commit: StepCommit, stall: timedelta) -> None:
        self.connection = connection
        self.lease = lease
        self.commit = commit
        self.stall = stall
        self.keys = {"task_id": lease.task_id, "step": lease.step}

    def write(self) -> Committed:
        task = self.connection.execute(_FENCE, _fence(self.lease)).first()
        if task is None:
            raise LeaseLost(
                f"step {self.lease.step} of task {self.lease.task_id!r} was taken over or has ended",
                task_id=self.lease.task_id,
            )
        then = self.commit.then
        events = self._unmerged_events() if isinstance(then, Complete | Wait) else []
        if isinstance(then, Complete) and events:
            return self._committed(TaskState(task.state), task, late_events=tuple(events))
        self._write_journal()
        if isinstance(then, GoOn):
            self._write_context(TaskState(task.state))
            self.connection.execute(_GO_ON, self.keys)
            return self._committed(TaskState(task.state), task)
        move = self._move(then, cancel_requested=task.cancel_requested, events=bool(events))
        self._end_step(move)
        context = self._write_context(move.state)
        self._move_task(move)
        self._tell(move, context, task)
        return self._committed(move.state, task, next_step=move.next_step)

    def _committed(
        self,
        state: TaskState,
        task: Row[Any],
        next_step: int | None = None,
        late_events: tuple[PendingEvent, ...] = (),
    ) -> Committed:
        rows = self.connection.execute(_DELEGATIONS, self.keys).mappings()
        return Committed(
            state=state,
            delegations=tuple(delegation_of(row) for row in rows),
            next_step=self.lease.step if next_step is None else next_step,
            cancel_requested=task.cancel_requested,
            paused=task.paused,
            late_events=late_events,
        )

    def _unmerged_events(self) -> list[PendingEvent]:
        # A statement of its own, after the lock: it sees every event accepted before we got the lock.
        parameters = {"task_id": self.lease.task_id, "merged": list(self.commit.merged_events)}
        return [pending_event_of(row) for row in self.connection.execute(_EVENTS, parameters).mappings()]

    def _write_journal(self) -> None:
        commit, execute = self.commit, self.connection.execute
        execute(_UPSERT_STEP, self.keys)
        if commit.decision is not None:
            usage = commit.decision.usage
            recorded = execute(
                _DECIDE,
                self.keys
                | {
                    "decision": jsonb(commit.decision.to_json()),
                    "reason": commit.decision.reason,
                    "model": usage.model,
                    "prompt_version": usage.prompt_version,
                    "tokens_in": usage.tokens_in,
                    "tokens_out": usage.tokens_out,
                    "cost": usage.cost,
                    "seconds": usage.seconds,
                    "answers": usage.answers,
                },
            )
            if recorded.rowcount != 1:
                raise AssertionError(f"step {self.lease.step} of {self.lease.task_id!r} already has a decision")
        if commit.delegations:
            rows = [
                {
                    "index": d.index,
                    "agent": d.agent,
                    "arguments": dict(d.arguments),
                    "task": d.task,
                    "key": d.key,
                    "side_effects": d.side_effects,
                }
                for d in commit.delegations
            ]
            execute(_INSERT_DELEGATIONS, self.keys | {"rows": jsonb(rows)})
        if commit.settlements:
            execute(_SETTLE, self.keys | {"rows": jsonb([_settlement_row(s) for s in commit.settlements])})
        if commit.starts:
            starts = [{"index": s.index, "deadline_at": s.deadline_at.isoformat()} for s in commit.starts]
            execute(_START, self.keys | {"rows": jsonb(starts)})
        if commit.merged_events:
            version = commit.context.version if commit.context is not None else None
            execute(_MERGED, {"version": version, "ids": list(commit.merged_events)})

    def _move(self, then: Then, *, cancel_requested: bool, events: bool) -> _Move:
        step = self.lease.step
        if cancel_requested and isinstance(then, NextStep | Wait):
            then = Cancel("canceled by request")
        match then:
            case NextStep():
                return _Move(TaskState.PROCESSING, "finished", step + 1, at_once=True)
            case Wait():
                # What came while the planner decided to wait for it ends the wait at once.
                woken = events and then.waits_for in {WaitsFor.EVENT, WaitsFor.PERSON} and not then.same_step
                return _Move(
                    TaskState.WAITING,
                    "open" if then.same_step else "finished",
                    step if then.same_step else step + 1,
                    waits_for=then.waits_for,
                    wait=dict(then.details),
                    due_at=then.due_at,
                    woken=woken,
                    reason_code=then.reason_code,
                    reason=then.reason,
                )
            case Complete(reason):
                return _Move(TaskState.COMPLETED, "finished", step, reason=reason)
            case Fail(code, reason):
                return _Move(TaskState.FAILED, "failed", step, reason_code=code, reason=reason)
            case Cancel(reason):
                return _Move(TaskState.CANCELED, "open", step, reason_code="canceled", reason=reason)
            case GoOn():
                raise AssertionError("GoOn moves nothing")

    def _end_step(self, move: _Move) -> None:
        failed = move.step_state == "failed" or (move.step_state == "open" and move.state is TaskState.WAITING)
        self.connection.execute(
            _END_STEP,
            self.keys
            | {
                "state": move.step_state,
                "version": self.commit.context.version if self.commit.context else None,
                "error_code": move.reason_code if failed else None,
                "error": move.reason if failed else None,
            },
        )

    def _write_context(self, state: TaskState) -> Context:
        context = self.commit.context
        if context is not None:
            document = {
                "required_fields": list(context.required_fields),
                "current_state": state.value,
                "collected_data": dict(context.collected_data),
            }
            self.connection.execute(
                _WRITE_CONTEXT,
                self.keys
                | {
                    "version": context.version,
                    "changes": jsonb(changes_to_json(self.commit.changes)),
                    "context": jsonb(document),
                    "origins": jsonb({name: origin_to_json(o) for name, o in context.origins.items()}),
                },
            )
            return context
        row = self.connection.execute(_WRITE_STATE, self.keys | {"state": state.value}).mappings().one()
        return context_of(row)

    def _move_task(self, move: _Move) -> None:
        at_once = move.at_once or move.woken
        self.connection.execute(
            _MOVE,
            {
                "task_id": self.lease.task_id,
                "state": move.state.value,
                "waits_for": move.waits_for.value if move.waits_for else None,
                "wait": jsonb(move.wait or {}),
                "next_step": move.next_step,
                "at_once": at_once,
                "stall": timedelta(0) if move.woken else self.stall,
                "due_at": move.due_at,
                "reason_code": move.reason_code,
                "reason": move.reason,
                "woken": move.woken,
                "ended": move.state.is_terminal,
            },
        )

    def _tell(self, move: _Move, context: Context, task: Row[Any]) -> None:
        body = update_body(
            task_id=self.lease.task_id,
            state=move.state.value,
            step=move.next_step,
            context=context,
            waits_for=move.waits_for.value if move.waits_for else None,
            reason_code=move.reason_code,
            reason=move.reason,
            source=task.source,
        )
        self.connection.execute(_OUTBOX, {"task_id": self.lease.task_id, "body": jsonb(body)})


def _settlement_row(settlement: Settlement) -> dict[str, Any]:
    return {
        "index": settlement.index,
        "state": settlement.state.value,
        "reply": settlement.reply,
        "error_code": settlement.error_code,
        "error": settlement.error,
        "remote_url": settlement.remote_url,
    }
