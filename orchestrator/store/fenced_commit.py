"""The one fenced transaction in which a step writes whatever it has to write.

fence ▶ journal (step, decision, delegations, settlements) ▶ context ▶ the task's move ▶ outbox. The task's row is
locked first, so commits, events that arrive and people's hands follow one another.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row

from orchestrator.domain.context import Context
from orchestrator.domain.journal import (
    Committed,
    Complete,
    Dispatch,
    GoOn,
    Join,
    Lease,
    PendingEvent,
    StepCommit,
    Wait,
)
from orchestrator.domain.limits import NOT_TRIED
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.turns import urgency_of
from orchestrator.domain.undo import undo_report
from orchestrator.domain.value import replace
from orchestrator.errors import LeaseLost
from orchestrator.store.engine import jsonb, text
from orchestrator.store.fan_out import release
from orchestrator.store.intake_replies import reply_came
from orchestrator.store.move import Move, move_of
from orchestrator.store.offers import keep_asked
from orchestrator.store.published import update_body
from orchestrator.store.questions import answer_came, questions_told, withdraw_questions, write_waiting
from orchestrator.store.rows import (
    context_columns,
    context_of,
    decision_to_row,
    delegation_of,
    new_delegations_to_json,
    pending_event_of,
    settlement_to_json,
)
from orchestrator.store.spending import write_spending
from orchestrator.store.tell import tell
from orchestrator.store.undo_begin import load_items, undo_before
from orchestrator.store.unwanted import cancellations_told, note_unwanted, rung_unwanted

_FENCE = text("""
    SELECT state, cancel_requested, paused, priority, aged, lane, source, wait, reason, on_failure, undo FROM tasks
    WHERE task_id = :task_id AND epoch = :epoch AND lease_owner = :owner AND next_step = :step
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

_RECORDED = text("SELECT decision FROM steps WHERE task_id = :task_id AND step_number = :step")

_DECIDE = text("""
    UPDATE steps SET decision = CAST(:decision AS jsonb), reason = :reason, model = :model,
        prompt_version = :prompt_version, tokens_in = :tokens_in, tokens_out = :tokens_out, cost = :cost,
        seconds = :seconds, answers = :answers, asked = CAST(:asked AS jsonb), decided_at = now(), error_code = NULL,
        error = NULL
    WHERE task_id = :task_id AND step_number = :step AND decision IS NULL
""")

_END_STEP = text("""
    UPDATE steps SET state = :state, attempts = attempts + :counts, result_version = coalesce(:version, base_version),
        error_code = :error_code, error = :error,
        finished_at = CASE WHEN :state = 'open' THEN NULL ELSE now() END
    WHERE task_id = :task_id AND step_number = :step
""")

INSERT_DELEGATIONS = text("""
    INSERT INTO delegations (task_id, step_number, index, agent, arguments, task, idempotency_key, side_effects,
        reply_token, state)
    SELECT :task_id, :step, r.index, r.agent, r.arguments, r.task, r.key, r.side_effects, r.reply_token, 'pending'
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(index int, agent text, arguments jsonb, task text, key text, side_effects boolean, reply_token text)
""")

_START = text("""
    UPDATE delegations SET state = 'in_flight', attempts = attempts + 1, sent_at = coalesce(sent_at, now()),
        deadline_at = r.deadline_at, remote_url = NULL, error_code = NULL, error = NULL, finished_at = NULL,
        parked = false, may_have_acted = may_have_acted OR state IN ('in_flight', 'unknown')
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(index int, deadline_at timestamptz)
    WHERE delegations.task_id = :task_id AND delegations.step_number = :step AND delegations.index = r.index
""")

# An outcome that is known (its agent may have been told to cancel meanwhile) gives way to another one only.
_SETTLE = text("""
    UPDATE delegations SET state = r.state, reply = nullif(r.reply, 'null'), error_code = r.error_code,
        error = r.error, remote_url = r.remote_url, parked = r.parked AND delegations.told IS NULL,
        deadline_at = coalesce(r.deadline_at, delegations.deadline_at),
        finished_at = CASE WHEN r.state IN ('succeeded', 'failed') THEN now() END,
        may_have_acted = (delegations.may_have_acted OR r.may_have_acted OR r.state = 'unknown')
            AND r.error_code IS DISTINCT FROM 'agent_never_received',
        cleared_at = CASE WHEN r.state = 'pending' AND r.error_code = 'agent_never_received' THEN now()
            ELSE delegations.cleared_at END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(index int, state text, reply jsonb, error_code text, error text, remote_url text, parked boolean,
             may_have_acted boolean, deadline_at timestamptz)
    WHERE delegations.task_id = :task_id AND delegations.step_number = :step AND delegations.index = r.index
      AND (delegations.state NOT IN ('succeeded', 'failed') OR r.state IN ('succeeded', 'failed'))
""")

DELEGATIONS = text("SELECT * FROM delegations WHERE task_id = :task_id AND step_number = :step ORDER BY index")

_WRITE_CONTEXT = text("""
    WITH kept AS (
        INSERT INTO context_versions (task_id, version, step, changes)
        VALUES (:task_id, :version, :step, CAST(:changes AS jsonb))
        ON CONFLICT DO NOTHING
    )
    UPDATE task_contexts SET context = CAST(:context AS jsonb), version = :version, origins = CAST(:origins AS jsonb),
        updated_at = now()
    WHERE task_id = :task_id
""")

WRITE_STATE = text("""
    UPDATE task_contexts SET context = jsonb_set(context, '{current_state}', to_jsonb(CAST(:state AS text))),
        updated_at = now()
    WHERE task_id = :task_id
    RETURNING context, version, origins, field_schemas
""")

_GO_ON = text("UPDATE tasks SET lost_leases = 0, updated_at = now() WHERE task_id = :task_id")

_MOVE = text("""
    UPDATE tasks SET
        state = :state, waits_for = :waits_for, wait = CAST(:wait AS jsonb), next_step = :next_step,
        due_at = CASE WHEN :at_once THEN now() + CAST(:stall AS interval) ELSE CAST(:due_at AS timestamptz) END,
        reason_code = :reason_code, reason = :reason, lost_leases = 0, lease_owner = NULL, lease_until = NULL,
        woken = :woken, rings = :rings, updated_at = now(), undo = CAST(:undo AS jsonb),
        idle_steps = CASE WHEN :progress THEN 0 WHEN :step_done THEN idle_steps + 1 ELSE idle_steps END,
        ended_at = CASE WHEN :ended THEN now() END,
        cancel_requested = cancel_requested AND NOT :ended
    WHERE task_id = :task_id
""")


def fence_of(lease: Lease) -> dict[str, Any]:
    """A lease as the parameters that fence a write.

    The owner is part of it, since PostgreSQL may forget a claim in a crash and then hand out the same epoch again.
    """
    return {"task_id": lease.task_id, "epoch": lease.epoch, "step": lease.step, "owner": lease.owner}


def lease_lost(lease: Lease) -> LeaseLost:
    """The error of a write whose lease is another's by now."""
    return LeaseLost(f"step {lease.step} of task {lease.task_id!r} was taken over or has ended", task_id=lease.task_id)


class FencedCommit:
    """The course of one fenced transaction."""

    def __init__(self, connection: Connection, lease: Lease, commit: StepCommit, stall: timedelta) -> None:
        self.connection = connection
        self.lease = lease
        self.commit = commit
        self.stall = stall
        self.keys = {"task_id": lease.task_id, "step": lease.step}

    def write(self) -> Committed:
        """Write everything, or nothing.

        Raises:
            LeaseLost: epoch or step moved on.
        """
        task = self.connection.execute(_FENCE, fence_of(self.lease)).first()
        if task is None:
            raise lease_lost(self.lease)
        then = self.commit.then
        if isinstance(then, GoOn) and self._was_written():
            return self._committed(TaskState(task.state), task)
        events = self._unmerged_events() if isinstance(then, Complete | Wait) else []
        if isinstance(then, Complete) and events:
            return self._committed(TaskState(task.state), task, late_events=tuple(events))
        self._write_journal()
        if isinstance(then, GoOn):
            self._write_context(TaskState(task.state))
            self.connection.execute(_GO_ON, self.keys)
            return self._committed(TaskState(task.state), task)
        released = None
        if isinstance(then, Join) and not task.cancel_requested:
            urgency = urgency_of(task.priority, task.aged)
            step = Dispatch(self.lease.task_id, self.lease.step, urgency, task.lane)
            released = release(self.connection, step, then.fan_out, self.stall)
        move = move_of(
            then,
            self.lease.step,
            cancel_requested=task.cancel_requested,
            events=bool(events),
            joined=released is not None and not released.moving,
        )
        if move.state is TaskState.WAITING and self._came_meanwhile(move):
            move = replace(move, woken=True)
        if undo := undo_before(self.connection, self.lease.task_id, task, (move.state, move.reason_code, move.reason)):
            move = replace(move, state=TaskState.COMPENSATING, woken=True, undo=undo)
            withdraw_questions(self.connection, self.lease.task_id)
        self._end_step(move)
        context = self._write_context(move.state)
        self._move_task(move)
        doorbells = released.doorbells if released else ()
        unwanted = move.leaves_calls and note_unwanted(
            self.connection, self.lease.task_id, move.leaves_calls, self.stall
        )
        if unwanted:
            doorbells = (*doorbells, *rung_unwanted(self.connection, self.lease.task_id))
        if not self._waits_on(move, task):
            self._tell(move, context, task)
        return self._committed(move.state, task, next_step=move.next_step, doorbells=doorbells)

    def _committed(
        self,
        state: TaskState,
        task: Row[Any],
        next_step: int | None = None,
        late_events: tuple[PendingEvent, ...] = (),
        doorbells: tuple[Dispatch, ...] = (),
    ) -> Committed:
        rows = self.connection.execute(DELEGATIONS, self.keys).mappings()
        return Committed(
            state=state,
            delegations=tuple(delegation_of(row) for row in rows),
            next_step=self.lease.step if next_step is None else next_step,
            cancel_requested=task.cancel_requested,
            paused=task.paused,
            late_events=late_events,
            doorbells=doorbells,
        )

    def _was_written(self) -> bool:
        """Whether this very decision is on record: its commit came through, but the word of it was lost."""
        if self.commit.decision is None:
            return False
        recorded = self.connection.execute(_RECORDED, self.keys).scalar_one_or_none()
        return recorded is not None and recorded == self.commit.decision.to_json()

    def _unmerged_events(self) -> list[PendingEvent]:
        # A statement of its own, after the lock: it sees every event accepted before we got the lock.
        parameters = {"task_id": self.lease.task_id, "merged": list(self.commit.merged_events)}
        return [pending_event_of(row) for row in self.connection.execute(_EVENTS, parameters).mappings()]

    def _write_journal(self) -> None:
        commit, execute = self.commit, self.connection.execute
        execute(_UPSERT_STEP, self.keys)
        if commit.decision is not None:
            asked = None if commit.asked is None else jsonb(commit.asked.to_json())
            recorded = execute(_DECIDE, self.keys | decision_to_row(commit.decision) | {"asked": asked})
            if recorded.rowcount != 1:
                raise AssertionError(f"step {self.lease.step} of {self.lease.task_id!r} already has a decision")
        elif commit.asked is not None:
            keep_asked(self.connection, self.lease, commit.asked)
        if commit.delegations:
            execute(INSERT_DELEGATIONS, self.keys | {"rows": new_delegations_to_json(commit.delegations)})
        if commit.settlements:
            execute(_SETTLE, self.keys | {"rows": jsonb([settlement_to_json(s) for s in commit.settlements])})
        if commit.starts:
            starts = [{"index": s.index, "deadline_at": s.deadline_at.isoformat()} for s in commit.starts]
            execute(_START, self.keys | {"rows": jsonb(starts)})
        write_spending(self.connection, self.keys, commit)
        if commit.merged_events:
            version = commit.context.version if commit.context is not None else None
            execute(_MERGED, {"version": version, "ids": list(commit.merged_events)})
        write_waiting(self.connection, self.lease.task_id, commit)

    def _came_meanwhile(self, move: Move) -> bool:
        """Whether a person's answer or an agent's reply came that the task is about to wait for."""
        return answer_came(self.connection, self.lease.task_id, move.wait or {}) or (
            move.next_step == self.lease.step and reply_came(self.connection, self.lease.task_id, self.lease.step)
        )

    def _end_step(self, move: Move) -> None:
        # An open step that waits for an event or an agent has nothing wrong; one that waits for a retry has.
        refused = move.reason_code in NOT_TRIED
        failed = move.step_state == "failed" or (
            move.step_state == "open"
            and move.state is TaskState.WAITING
            and move.reason_code is not None
            and not refused
        )
        self.connection.execute(
            _END_STEP,
            self.keys
            | {
                "state": move.step_state,
                # Going back to the same wait for an event is no attempt: attempts bound how often a model is asked.
                "counts": 0
                if refused or (move.waits_for in {WaitsFor.EVENT, WaitsFor.PERSON} and move.step_state == "open")
                else 1,
                "version": self.commit.context.version if self.commit.context else None,
                "error_code": move.reason_code if failed else None,
                "error": move.reason if failed else None,
            },
        )

    def _write_context(self, state: TaskState) -> Context:
        context = self.commit.context
        if context is not None:
            columns = context_columns(context, self.commit.changes, state)
            self.connection.execute(
                _WRITE_CONTEXT,
                self.keys | {"version": context.version} | {name: jsonb(value) for name, value in columns.items()},
            )
            return context
        row = self.connection.execute(WRITE_STATE, self.keys | {"state": state.value}).mappings().one()
        return context_of(row)

    def _move_task(self, move: Move) -> None:
        self.connection.execute(
            _MOVE,
            {
                "task_id": self.lease.task_id,
                "state": move.state.value,
                "waits_for": move.waits_for.value if move.waits_for else None,
                "wait": jsonb(move.wait or {}),
                "next_step": move.next_step,
                "at_once": move.at_once or move.woken,
                "stall": timedelta(0) if move.woken else self.stall,
                "due_at": move.due_at,
                "reason_code": move.reason_code,
                "reason": move.reason,
                "woken": move.woken,
                "rings": move.rings,
                "ended": move.state.is_terminal,
                "progress": self.commit.progress,
                "step_done": move.step_state == "finished",
                "undo": None if move.undo is None else jsonb(move.undo),
            },
        )

    def _waits_on(self, move: Move, task: Row[Any]) -> bool:
        """Whether the task goes on waiting as before (another poll of a slow agent): nobody needs to be told."""
        return (
            move.state is TaskState.WAITING
            and move.next_step == self.lease.step
            and self.commit.context is None
            and bool(task.wait)
            and (task.wait, task.reason) == (move.wait, move.reason)
        )

    def _tell(self, move: Move, context: Context, task: Row[Any]) -> None:
        undo = move.undo and undo_report(move.undo, load_items(self.connection, self.lease.task_id))
        body = update_body(
            task_id=self.lease.task_id,
            state=move.state.value,
            step=move.next_step,
            context=context,
            waits_for=move.waits_for.value if move.waits_for else None,
            reason_code=move.reason_code,
            reason=move.reason,
            source=task.source,
            low=[one.to_json() for one in self.commit.low],
            undo=undo,
            cancellations=cancellations_told(self.connection, self.lease.task_id) if move.leaves_calls else (),
        )
        if move.waits_for is WaitsFor.PERSON:
            body |= questions_told(self.connection, self.lease.task_id)
        tell(self.connection, body, context)
