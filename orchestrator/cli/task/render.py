"""Tasks as people read them: the lines of `task watch`, the sections of `task show`. Only words and colours, no I/O
but through `Output`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.cli.output import Output, Part, ago, duration, shortened
from orchestrator.cli.shapes import delegation_seconds, step_json, step_seconds, task_json
from orchestrator.cli.task.advice import Advice, advice
from orchestrator.cli.task.render_news import state_part
from orchestrator.cli.task.render_question import write_question
from orchestrator.cli.task.render_undo import write_cancellations, write_undo
from orchestrator.cli.task.spending import write_asking
from orchestrator.domain.context import Change, Conflict, Context, Origin
from orchestrator.domain.decision import Decision, DecisionKind
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import HistoryEntry, Step
from orchestrator.domain.progress import Cost, doing, progress_of, spent_of
from orchestrator.domain.restore import Restore
from orchestrator.domain.task import Task, TaskState, WaitsFor

# -- watching ---------------------------------------------------------------------------------------------------------


def summary(task: Task, history: Sequence[HistoryEntry], context_row: Mapping[str, Any]) -> dict[str, Any]:
    """How a task ended, as the last line of ``task watch --json``."""
    return {
        "task_id": task.task_id,
        "at": task.ended_at or task.updated_at,
        "state": task.state.value,
        "reason_code": task.reason_code,
        "reason": task.reason,
        "steps": len(history),
        "seconds": _age(task),
        "context": context_row,
        "next": advice_json(advice(task, history)),
    }


def write_end(out: Output, task: Task, history: Sequence[HistoryEntry], context_row: Mapping[str, Any]) -> None:
    """How a task ended: state, time, the required fields' values, what to do."""
    out.line()
    out.line(
        "task ",
        (task.task_id, "bold"),
        " ",
        state_part(task.state.value),
        f" after {duration(_age(task))} and {_spent_words(spent_of(task, history))}",
    )
    if task.reason and task.state is not TaskState.COMPLETED:
        out.line(f"  why: {task.reason}")
    context = context_row["context"]
    for name in context["required_fields"]:
        value = context["collected_data"].get(name)
        out.line("  ", (name, "bold"), *(_missing() if value in (None, "") else [f" = {shortened(value, 200)}"]))
    write_advice(out, advice(task, history))


def _age(task: Task) -> float:
    return ((task.ended_at or task.updated_at) - task.created_at).total_seconds()


# -- showing ----------------------------------------------------------------------------------------------------------


def write_task(
    out: Output,
    task: Task,
    context: Context,
    history: Sequence[HistoryEntry],
    *,
    details: bool,
    before: Callable[[], None] = lambda: None,
    after_fields: Callable[[], None] = lambda: None,
    undo: Mapping[str, Any] | None = None,
    cancellations: Sequence[Mapping[str, Any]] = (),
    doubt: str | None = None,
) -> None:
    """Everything about a task, from its state to what now; ``before`` and ``after_fields`` write around the fields."""
    out.line((task.task_id, "bold"), "  ", *_state_parts(task))
    out.line(f"  {task.description}")
    if task.reason:
        code = f" [{task.reason_code}]" if task.reason_code else ""
        out.line(f"  why: {task.reason}{code}")
    if doubt is not None:
        out.line(f"  doubted: {doubt}")
    out.line((f"  {'  '.join(_facts(task))}", "dim"))
    out.line(f"  progress: {progress_words(task, context, history)}")
    before()
    write_fields(out, context)
    after_fields()
    if history:
        out.line()
        out.line(("Steps", "bold"))
    for entry in history:
        _write_step(out, entry, details)
    if cancellations:
        write_cancellations(out, cancellations)
    if undo is not None:
        write_undo(out, undo)
    write_advice(out, advice(task, history))


def doubt_words(restore: Restore) -> str:
    """Why a task is doubted, and what that means."""
    return (
        f"at {_local(restore.noticed_at)} PostgreSQL was found to be older than it was ({restore.why}); calls of "
        "agents that honour no keys wait until a person or a look-up says that they were not made already"
    )


def progress_words(task: Task, context: Context, history: Sequence[HistoryEntry]) -> str:
    """``2 of 3 fields; step 2: waits for 7 of 10 delegations for 4 s; spent: 2 steps, 4 calls``."""
    found = progress_of(task, context, history)
    words = [f"{found.fields_known} of {found.fields_required} fields"] if found.fields_required else []
    if now := doing(task, history):
        words.append(f"{now} for {duration((datetime.now(UTC) - found.since).total_seconds())}")
    return "; ".join([*words, f"spent: {_spent_words(found.spent)}"])


def _spent_words(spent: Cost) -> str:
    words = [_count(spent.steps, "step"), _count(spent.delegations, "call")]
    if spent.tokens:
        words.append(f"{spent.tokens:,} tokens")
    if spent.cost:
        words.append(f"{spent.cost:.4f} USD")
    return ", ".join(words)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def write_fields(out: Output, context: Context) -> None:
    """Required fields with value and origin, the missing ones marked, then what else is known."""
    out.line()
    out.line((f"Fields (context version {context.version})", "bold"))
    rows: list[Sequence[Part]] = [_field_row(context, name, required=True) for name in context.required_fields]
    rows += [
        _field_row(context, name, required=False)
        for name in context.collected_data
        if name not in context.required_fields
    ]
    if rows:
        out.table(["", "field", "value", "from"], rows)
    else:
        out.line("  none yet")
    if context.missing_fields:
        out.line(("missing: ", "yellow"), ", ".join(context.missing_fields))


def write_conflicts(out: Output, conflicts: Sequence[Conflict]) -> None:
    """Where givers disagreed: what stands, what does not, and why."""
    if conflicts:
        out.line()
        out.line(("Conflicts", "bold"))
    for one in conflicts:
        out.line(
            f"  {one.field}: {shortened(one.kept, 60)} ({origin_words(one.kept_from)}) stands, not "
            f"{shortened(one.other, 60)} ({origin_words(one.other_from)}): {one.why}"
        )


def write_versions(out: Output, versions: Sequence[tuple[int, datetime, Sequence[Change]]]) -> None:
    """Every context version with what it changed."""
    out.line()
    out.line(("Context versions", "bold"))
    for number, at, changes in versions:
        out.line((f"  {number}", "bold"), (f"  {_local(at)}", "dim"))
        for change in changes:
            value = "removed" if change.removed else f"= {shortened(change.value, 120)}"
            value += f", refused: {change.refused}" if change.refused is not None else ""
            out.line(f"     {change.field} {value}", (f"  ({origin_words(change.origin)})", "dim"))


def write_advice(out: Output, found: Sequence[Advice]) -> None:
    """What can be done now, with the commands."""
    if found:
        out.line()
        out.line(("What now", "bold"))
    for one in found:
        out.line(f"  {one.why}:")
        out.line("    ", (one.command, "cyan"))


def advice_json(found: Sequence[Advice]) -> list[dict[str, str]]:
    """The same for programs."""
    return [{"why": one.why, "command": one.command} for one in found]


def show_json(
    task: Task, context: Context, context_row: Mapping[str, Any], history: Sequence[HistoryEntry]
) -> dict[str, Any]:
    """The document of ``task show --json``; ``context`` is the row of ``task_contexts`` as it stands."""
    from orchestrator.cli.shapes import fields_json

    return {
        "task": task_json(task),
        "context": dict(context_row),
        "version": context.version,
        "fields": fields_json(context),
        "missing_fields": list(context.missing_fields),
        "progress": {"doing": doing(task, history), **progress_of(task, context, history).to_json()},
        "steps": [step_json(entry) for entry in history],
        "next": advice_json(advice(task, history)),
    }


def origin_words(origin: Origin) -> str:
    """Who gave a value: ``agent credit_score, step 2``."""
    words = "the task's message" if origin.kind == "message" else f"{origin.kind} {origin.name}"
    if origin.step is not None:
        words += f", step {origin.step}"
    return words


def _state_parts(task: Task) -> list[Part]:
    parts: list[Part] = [state_part(task.state.value)]
    if task.state is TaskState.WAITING and task.waits_for:
        parts.append(f" for {_wait_words(task)}, since {_local(task.updated_at)} ({ago(task.updated_at)})")
    if task.state is TaskState.COMPENSATING and task.waits_for:
        parts.append(f", {task.wait.get('reason') or 'waiting'} ({ago(task.updated_at)})")
    if task.paused:
        parts.append((" paused", "yellow"))
    if task.cancel_requested and not task.state.is_terminal:
        parts.append((" cancel requested", "yellow"))
    if task.doubted_at and not task.state.is_terminal:
        parts.append((" doubted", "yellow"))
    return parts


def _wait_words(task: Task) -> str:
    if task.waits_for is WaitsFor.EVENT:
        match = "".join(f", {place} = {shortened(value)}" for place, value in (task.wait.get("match") or {}).items())
        return f"the event {task.wait.get('event_type') or '(of any type)'}{match}"
    if task.waits_for is WaitsFor.PERSON and task.wait.get("who"):
        return f"a person ({task.wait['who']})"
    return {WaitsFor.PERSON: "a person", WaitsFor.AGENT: "an agent", WaitsFor.RETRY: "a retry"}.get(
        task.waits_for or WaitsFor.RETRY, "a retry"
    )


def _facts(task: Task) -> list[str]:
    facts = [f"created {_local(task.created_at)}"]
    if task.ended_at:
        facts.append(f"ended {_local(task.ended_at)} after {duration(_age(task))}")
    facts.append(f"next step {task.next_step}" if not task.state.is_terminal else f"last step {task.next_step}")
    facts.append(f"priority {task.priority}")
    if task.tenant:
        facts.append(f"tenant {task.tenant}")
    if task.not_before and task.state is TaskState.RECEIVED:
        facts.append(f"begins {_local(task.not_before)}")
    if task.deadline:
        facts.append(f"deadline {_local(task.deadline)}")
    if task.lost_leases:
        facts.append(f"workers lost in this step: {task.lost_leases}")
    return facts


def _field_row(context: Context, name: str, *, required: bool) -> Sequence[Part]:
    origin = context.origins.get(name)
    source = (origin_words(origin), "dim") if origin else ""
    if problem := context.field_problems.get(name):
        said = f"{shortened(context.collected_data[name], 60)} does not fit: {problem}"
        return [("✗", "yellow"), (name, "bold"), (said, "yellow"), source]
    if name in context.missing_fields:
        return [("✗", "yellow"), (name, "bold"), *_missing(), ""]
    return [
        ("✓", "green") if required else "",
        (name, "bold"),
        shortened(context.collected_data.get(name), 100),
        source,
    ]


def _missing() -> list[Part]:
    return [(" missing", "yellow")]


def _write_step(out: Output, entry: HistoryEntry, details: bool) -> None:
    step, decision = entry.step, entry.step.decision
    line: list[Part] = [(f"  {step.number:>2}", "bold"), "  ", state_part(step.state.value)]
    if (seconds := step_seconds(step)) is not None:
        line.append(f" in {duration(seconds)}")
    if step.attempts > 1:
        line.append(f", {step.attempts} attempts")
    if step.superseded:
        line.append((" (superseded by a rerun)", "dim"))
    out.line(*line)
    if decision is not None:
        out.line("      decided: ", (_choice(decision), "bold"), f" — {decision.reason}")
        if details:
            _write_decision(out, decision)
    for delegation in entry.delegations:
        _write_delegation(out, delegation, details)
    for question in entry.questions:
        write_question(out, question)
    if entry.ended_by is not None:
        out.line(f"      ended by the event {entry.ended_by.event_type or '(of no type)'}")
    if step.error:
        out.line("      ", (_error(step), "red"))
    if details:
        write_asking(out, step)


def _choice(decision: Decision) -> str:
    if decision.kind is DecisionKind.CALL:
        return ", ".join(call.agent for call in decision.calls)
    return decision.kind.value.replace("_", " ")


def _write_decision(out: Output, decision: Decision) -> None:
    usage = decision.usage
    cost = "" if usage.cost is None else f", {usage.cost:.4f} USD"
    out.line(
        (
            f"      by {usage.model} in {duration(usage.seconds)}, {usage.tokens_in} tokens in, {usage.tokens_out} out"
            f"{cost}, {usage.answers} answers",
            "dim",
        )
    )
    if decision.details:
        out.line(f"      details: {shortened(dict(decision.details), 1000)}")
    for record in decision.records:
        place = record.pointer if record.pointer is not None else f"“{record.quote}”"
        out.line(f"      records {record.field} from {record.delegation}: {place}")


def _write_delegation(out: Output, delegation: Delegation, details: bool) -> None:
    line: list[Part] = [f"      {delegation.ref} {delegation.agent} ", state_part(delegation.state.value)]
    if delegation.attempts > 1:
        line.append(f", {delegation.attempts} attempts")
    if (seconds := delegation_seconds(delegation)) is not None:
        line.append(f" in {duration(seconds)}")
    if delegation.settled_by:
        line.append(f", by the word of {delegation.settled_by}")
    out.line(*line)
    if delegation.error:
        code = f"[{delegation.error_code}] " if delegation.error_code else ""
        out.line("          ", (f"{code}{delegation.error}", "red"))
    if details:
        out.line(f"          arguments: {shortened(dict(delegation.arguments), 2000)}")
        if delegation.reply is not None:
            out.line(f"          reply: {shortened(delegation.reply, 2000)}")
        out.line((f"          key: {delegation.key}", "dim"))


def _error(step: Step) -> str:
    return f"[{step.error_code}] {step.error}" if step.error_code else str(step.error)


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
