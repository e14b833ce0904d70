"""What to do now: the commands that fit a task's state, worded for whoever looks at it at night. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.budget import Resource
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.question import Question, QuestionKind, QuestionState
from orchestrator.domain.restore import RESTORED
from orchestrator.domain.task import Task, TaskState, WaitsFor


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that can be done, and the command for it."""

    why: str
    command: str


def advice(task: Task, history: Sequence[HistoryEntry]) -> list[Advice]:
    """What fits the task's state, most likely first; nothing for a completed one."""
    name = shlex.quote(task.task_id)
    if task.paused and not task.state.is_terminal:
        return [Advice("it is paused; to let it go on", f"orchestrator task resume {name}")]
    if task.undo is not None and task.state.is_terminal:
        return _after_undo(task.undo, name)
    if task.state is TaskState.FAILED:
        return _after_failure(task, history, name)
    if task.state is TaskState.CANCELED:
        step = _last_number(history)
        return [Advice("to go on from its last step", _rerun(name, step))] if step else []
    if task.state is TaskState.WAITING:
        return _while_waiting(task, history, name)
    if task.state is TaskState.COMPLETED:
        return []
    return [Advice("to follow it", f"orchestrator task watch {name}")]


def _after_undo(undo: Mapping[str, Any], name: str) -> list[Advice]:
    """It builds on nothing any more: what is left to be undone, then only a new beginning."""
    found = [Advice("to begin it anew, from its first context", f"orchestrator task restart {name}")]
    if undo.get("left"):
        why = "what is left was not undone: mend that (see above), then to try it again"
        found.insert(0, Advice(why, f"orchestrator task undo {name}"))
        undone = f"orchestrator task undone {name} --delegation STEP.INDEX"
        found.insert(1, Advice("where you undid it yourself, to say so", undone))
    return found


def _after_failure(task: Task, history: Sequence[HistoryEntry], name: str) -> list[Advice]:
    if (resource := _used_up(task)) is not None:
        return [
            Advice(
                f"to go on with more {resource}",
                f"orchestrator task retry {name} --raise-budget {resource}=N",
            )
        ]
    found = [
        Advice(
            "once the cause is mended, to do the failed step again (what succeeded is not repeated)",
            f"orchestrator task retry {name}",
        )
    ]
    if step := _last_number(history):
        found.append(
            Advice(
                "to correct a value and go on from there",
                f"{_rerun(name, step)} --set FIELD=VALUE",
            )
        )
    if any(one.state is DelegationState.SUCCEEDED for entry in history for one in entry.delegations):
        found.append(Advice("to undo what its agents did, as far as they can", f"orchestrator task undo {name}"))
    agents = dict.fromkeys(one.agent for one in _open_delegations(task, history))
    names = (shlex.quote(agent) for agent in agents)
    found += [Advice("to see whether the agent is well", f"orchestrator agent check {agent}") for agent in names]
    return found


def _used_up(task: Task) -> str | None:
    """The part of its budget that ended the task."""
    return next((one.value for one in Resource if one.code == task.reason_code), None)


def _while_waiting(task: Task, history: Sequence[HistoryEntry], name: str) -> list[Advice]:
    if task.waits_for is WaitsFor.EVENT:
        event = shlex.quote(str(task.wait.get("event_type") or "TYPE"))
        return [Advice("to tell it of the event", f"orchestrator task event {name} --type {event} --data FIELD=VALUE")]
    unknown = [one for one in _open_delegations(task, history) if one.state is DelegationState.UNKNOWN]
    if task.waits_for is WaitsFor.PERSON and unknown:
        return _settling(unknown, name)
    if task.waits_for is WaitsFor.PERSON:
        return answers_to([q for entry in history for q in entry.questions if q.state is QuestionState.OPEN], name)
    if task.waits_for is WaitsFor.RETRY:
        return [Advice("to try again now", f"orchestrator task retry {name}")]
    return [Advice("to follow it", f"orchestrator task watch {name}")]


def _settling(unknown: Sequence[Delegation], name: str) -> list[Advice]:
    one = unknown[0]
    resolve = f"orchestrator task resolve {name}" + (f" --delegation {one.ref}" if len(unknown) > 1 else "")
    forgotten = one.error_code == RESTORED
    how = "in what PostgreSQL has forgotten" if forgotten else "and its reply is lost"
    trust = [Advice("if nothing of the task was forgotten", f"orchestrator task trust {name}")] if forgotten else []
    return [
        Advice(
            f"{one.agent} may have acted {how}. Look there; if it acted, to enter its reply",
            f"{resolve} --succeeded --reply JSON",
        ),
        Advice("if it never acted, to call it again", f"{resolve} --never-happened"),
        Advice("if it could not do it, to let the step fail", f"{resolve} --failed"),
        *trust,
    ]


def answers_to(questions: Sequence[Question], name: str) -> list[Advice]:
    """How each open question is answered; ``name`` is the task's, as typed in a shell."""
    found = []
    for question in questions:
        which = f" --question {question.ref}" if len(questions) > 1 else ""
        if question.kind is QuestionKind.APPROVAL:
            found += [
                Advice("to let the call be made", f"orchestrator task approve {name}{which}"),
                Advice("to have the planner take another way", f"orchestrator task decline {name}{which} --why REASON"),
            ]
        else:
            fields = " ".join(f"{shlex.quote(one)}=VALUE" for one in question.all_fields())
            form = "--choice CHOICE" if question.choices else fields or "--text ANSWER"
            found.append(Advice("to answer", f"orchestrator task answer {name}{which} {form}"))
    return found or [Advice("to see what it asks", f"orchestrator task questions --task {name}")]


def _rerun(name: str, step: int) -> str:
    return f"orchestrator task rerun {name} --step {step}"


def _open_delegations(task: Task, history: Sequence[HistoryEntry]) -> list[Delegation]:
    """The present step's delegations that did not succeed."""
    return [
        delegation
        for entry in history
        if entry.step.number == task.next_step
        for delegation in entry.delegations
        if delegation.state is not DelegationState.SUCCEEDED
    ]


def _last_number(history: Sequence[HistoryEntry]) -> int | None:
    numbers = [entry.step.number for entry in history if not entry.step.superseded]
    return max(numbers, default=None)
