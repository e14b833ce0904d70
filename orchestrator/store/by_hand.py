"""A step in a person's hands: its calls again with other arguments, or its results given. One commit each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from orchestrator.domain.context import Change
from orchestrator.domain.decision import Decision
from orchestrator.domain.journal import Dispatch, NewDelegation
from orchestrator.domain.question import Question
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed
from orchestrator.store.audit import audit
from orchestrator.store.context_rows import write_changes
from orchestrator.store.control import NEWEST_STEP, locked, refuse_held, refuse_undone
from orchestrator.store.control_pause import PauseControlPart
from orchestrator.store.engine import jsonb, text
from orchestrator.store.fenced_commit import INSERT_DELEGATIONS
from orchestrator.store.questions import write_questions
from orchestrator.store.read import load_context
from orchestrator.store.rows import decision_to_row, new_delegations_to_json

_DECIDED_STEP = text("""
    INSERT INTO steps (task_id, step_number, state, base_version, decision, reason, model, prompt_version, tokens_in,
                       tokens_out, cost, seconds, answers, decided_at)
    SELECT :task_id, :step, 'open', version, CAST(:decision AS jsonb), :reason, :model, :prompt_version, :tokens_in,
           :tokens_out, :cost, :seconds, :answers, now()
    FROM task_contexts WHERE task_id = :task_id
""")

_STEP_SKIPPED = text("""
    INSERT INTO steps (task_id, step_number, state, base_version, result_version, finished_at)
    SELECT :task_id, :step, 'finished', :version, :version, now()
    ON CONFLICT (task_id, step_number) DO UPDATE SET state = 'finished', result_version = :version, finished_at = now(),
        error_code = NULL, error = NULL
""")

# A person's result says nothing of whether the agent acted: that stays as it was known, for an undo.
_REPLY = text("""
    UPDATE delegations SET reply = CAST(:reply AS jsonb), settled_by = :who, error_code = 'skipped', error = NULL,
        may_have_acted = may_have_acted OR state IN ('in_flight', 'unknown'), state = 'succeeded', remote_url = NULL,
        parked = false, due_at = NULL, woken = false, finished_at = now()
    WHERE task_id = :task_id AND step_number = :step AND index = :index AND state <> 'succeeded'
""")
_LEFT = text("""
    UPDATE delegations SET state = CASE WHEN state = 'in_flight' THEN 'unknown' WHEN state = 'pending' THEN 'failed'
                                        ELSE state END,
        error_code = CASE WHEN state IN ('in_flight', 'pending') THEN 'skipped' ELSE error_code END,
        error = CASE WHEN state IN ('in_flight', 'pending') THEN 'its step was skipped by hand' ELSE error END,
        due_at = NULL, woken = false
    WHERE task_id = :task_id AND step_number = :step AND state IN ('pending', 'in_flight', 'unknown')
""")


class ByHandPart(PauseControlPart):
    """Implements `orchestrator.flow.by_hand.ByHandStore`."""

    def rerun_decided(
        self,
        task_id: str,
        step: int,
        decision: Decision,
        rows: Callable[[int], tuple[NewDelegation, ...]],
        asked: Callable[[int], Sequence[Question]],
        *,
        who: str,
        why: str,
        edits: Mapping[str, Any],
    ) -> Dispatch:
        """As ``rerun``, with this decision on record for the new step."""

        def work(connection: Connection) -> Dispatch:
            row, number = self.rerun_in(connection, task_id, step, {}, who)
            keys = {"task_id": task_id, "step": number}
            connection.execute(_DECIDED_STEP, keys | decision_to_row(decision))
            connection.execute(INSERT_DELEGATIONS, keys | {"rows": new_delegations_to_json(rows(number))})
            write_questions(connection, task_id, asked(number))
            details = {"from_step": step, "step": number, "arguments": dict(edits)}
            audit(connection, who=who, what="rerun", why=why, task_id=task_id, details=details)
            return Dispatch(task_id, number, row["priority"])

        return self.transact(work)

    def skip(
        self, task_id: str, step: int, replies: Mapping[int, Any], changes: Sequence[Change], *, who: str, why: str
    ) -> Dispatch:
        """End the present step with these replies and values, and go on with the next."""

        def work(connection: Connection) -> Dispatch:
            row = locked(connection, task_id)
            refuse_undone(row)
            refuse_held(connection, row)
            if row["state"] in {TaskState.COMPLETED, TaskState.CANCELED} or row["next_step"] != step:
                raise NotAllowed(
                    f"task {task_id!r} is {row['state']}, at step {row['next_step']}; only the present step of a task "
                    "that failed or has not ended can be skipped",
                    hint=f"To go back: `orchestrator task rerun {task_id} --step N --set FIELD=VALUE`.",
                    task_id=task_id,
                )
            keys = {"task_id": task_id, "step": step}
            for index, reply in replies.items():
                connection.execute(_REPLY, keys | {"index": index, "reply": jsonb(reply), "who": who})
            connection.execute(_LEFT, keys)
            context = write_changes(connection, task_id, load_context(connection, task_id), changes, step)
            connection.execute(_STEP_SKIPPED, keys | {"version": context.version})
            number = max(connection.execute(NEWEST_STEP, keys).scalar_one(), step) + 1
            self._restart(connection, row, number, f"step {step} was skipped by {who}" + (f": {why}" if why else ""))
            details = {"step": step, "fields": sorted({one.field for one in changes}), "replies": sorted(replies)}
            audit(connection, who=who, what="skip", why=why, task_id=task_id, details=details)
            return Dispatch(task_id, number, row["priority"])

        return self.transact(work)
