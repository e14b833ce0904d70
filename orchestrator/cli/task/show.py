"""`task show` and `task list`: looking, changing nothing."""

from __future__ import annotations

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.output import Output, ago, shortened
from orchestrator.cli.shapes import change_json, conflict_json, fields_json, task_json
from orchestrator.domain.cancellation import cancellations_report
from orchestrator.domain.context import conflicts_of
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.domain.undo import undo_report
from orchestrator.domain.value import asdict


@click.command(
    cls=Command,
    examples=[
        "task show supplier-42",
        "task show supplier-42 --steps --history",
        "task show supplier-42 --audit",
        "task show supplier-42 --version 3",
        "task show supplier-42 --json | jq .context",
    ],
)
@click.argument("task_id")
@click.option("--version", type=click.IntRange(0), help="Show the context as it was at this version instead.")
@click.option("--history", "with_history", is_flag=True, help="Every context version and what it changed.")
@click.option("--steps", "with_steps", is_flag=True, help="Steps in full: arguments, replies, tokens, keys.")
@click.option("--audit", "with_audit", is_flag=True, help="What people did to it, who and why.")
@pass_output
def show(
    out: Output, task_id: str, version: int | None, with_history: bool, with_steps: bool, with_audit: bool
) -> None:
    """Show a task: state, fields, steps and why, what to do now.

    With --json `context` is the row of task_contexts exactly as it is kept.
    """
    from orchestrator.cli.task.render import (
        doubt_words,
        show_json,
        write_conflicts,
        write_fields,
        write_task,
        write_versions,
    )
    from orchestrator.cli.task.render_undo import write_audit
    from orchestrator.cli.task.spending import budget_json, used_of, write_budget

    with parts.store() as store:
        task = store.task(task_id)
        context = store.context(task_id, version)
        versions = store.versions(task_id)
        conflicts = conflicts_of(changes for number, _, changes in versions if version is None or number <= version)
        by_hand = store.audit_of(task_id) if with_audit else []
        if version is not None:
            document = {
                "task_id": task_id,
                "version": version,
                "required_fields": list(context.required_fields),
                "collected_data": dict(context.collected_data),
                "fields": fields_json(context),
                "missing_fields": list(context.missing_fields),
            }
        else:
            history = store.history(task_id)
            document = show_json(task, context, store.context_row(task_id), history)
            used, warn = used_of(task, parts.default_budget()), parts.settings().budget_warn
            document["budget"] = budget_json(task, used, warn)
            undo = None if task.undo is None else undo_report(task.undo, store.undo_items(task_id))
            document["undo"] = undo
            restore = store.restore_of(task_id)
            document["doubt"] = None if restore is None else asdict(restore)
            document["cancellations"] = cancellations = cancellations_report(store.cancellations(task_id))
    document["conflicts"] = [conflict_json(one) for one in conflicts]
    if with_history:
        document["versions"] = [
            {"version": number, "at": at, "changes": [change_json(change) for change in changes]}
            for number, at, changes in versions
        ]
    if with_audit:
        document["audit"] = [asdict(entry) for entry in by_hand]
    if out.as_json:
        out.document(document)
        return
    if version is not None:
        out.line((task_id, "bold"), f"  as it was at version {version}")
        write_fields(out, context)
    else:
        write_task(
            out,
            task,
            context,
            history,
            details=with_steps,
            before=lambda: write_budget(out, task, used, warn),
            undo=undo,
            cancellations=cancellations,
            doubt=None if restore is None else doubt_words(restore),
            after_fields=lambda: write_conflicts(out, conflicts),
        )
    if with_history:
        write_versions(out, versions)
    if with_audit:
        write_audit(out, by_hand)


@click.command(
    "list",
    cls=Command,
    examples=[
        "task list",
        "task list --state failed --limit 20",
        "task list --waits-for person",
        "task list --json | jq -r '.tasks[].task_id'",
    ],
)
@click.option("--state", type=click.Choice([state.value for state in TaskState]), help="Only tasks in this state.")
@click.option("--waits-for", type=click.Choice([one.value for one in WaitsFor]), help="Only tasks that wait for this.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="TASK_ID", help="Go on after this task of the list before.")
@pass_output
def list_tasks(out: Output, state: str | None, waits_for: str | None, limit: int, after: str | None) -> None:
    """List tasks, newest first."""
    with parts.store() as store:
        tasks = store.tasks(state=state, waits_for=waits_for, limit=limit, after=after)
    following = tasks[-1].task_id if len(tasks) == limit else None
    if out.as_json:
        out.document({"tasks": [task_json(task) for task in tasks], "after": following})
        return
    from orchestrator.cli.task.render_news import state_part

    if not tasks:
        out.note("No such tasks." if state or waits_for else "No tasks.")
        return
    rows = [
        (
            task.task_id,
            state_part(task.state.value),
            task.waits_for.value if task.waits_for else "",
            str(task.next_step),
            ago(task.updated_at),
            shortened(task.reason if task.reason and _stands_still(task) else task.description, 60),
        )
        for task in tasks
    ]
    out.table(["task", "state", "waits for", "step", "changed", "description or reason"], rows)
    if following:
        out.note(f"  → more: orchestrator task list --after {parts.quoted(following)}")


def _stands_still(task: Task) -> bool:
    """Whether why it stands still matters more than what it is about."""
    return task.state is TaskState.FAILED or task.waits_for is WaitsFor.PERSON
