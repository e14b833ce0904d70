"""What a task has spent of its budget, for `task show`. Only words and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.cli.output import Output, Part
from orchestrator.domain.budget import Budget, Used, running_low, shown
from orchestrator.domain.journal import Step
from orchestrator.domain.task import Task


def used_of(task: Task, default: Budget) -> tuple[Used, ...]:
    """How far each bounded resource is used up; ``default`` is the installation's budget."""
    budget = default.for_task(task.budget, task.raised)
    seconds = ((task.ended_at or datetime.now(UTC)) - task.created_at).total_seconds()
    return budget.used(task.spent, step=task.next_step, seconds=seconds)


def budget_json(task: Task, used: Sequence[Used], warn: float) -> dict[str, Any]:
    """``budget`` of ``task show --json``: spent, reserved, bounds, and what runs low."""
    spent = task.spent
    return {
        "spent": {"delegations": spent.delegations, "tokens": spent.tokens, "money": float(spent.money)},
        "reserved": {"tokens": spent.reserved_tokens, "money": float(spent.reserved_money)},
        "bounds": [one.to_json() for one in used],
        "own": dict(task.budget),
        "raised": dict(task.raised),
        "warnings": [one.to_json() for one in running_low(used, warn)],
    }


def write_budget(out: Output, task: Task, used: Sequence[Used], warn: float) -> None:
    """One line: how much of each bound is used up, what runs low in yellow."""
    low = {one.resource for one in running_low(used, warn)}
    line: list[Part] = [("  budget: ", "dim")]
    for number, one in enumerate(used):
        line.append((("; " if number else "") + str(one), "yellow" if one.resource in low else "dim"))
    if not any(one.resource.value == "money" for one in used) and task.spent.money:
        line.append((f"; money {shown(task.spent.money)}", "dim"))
    if task.spent.reserved_tokens:
        line.append((f"; {task.spent.reserved_tokens:,} tokens reserved for a call under way", "dim"))
    out.line(*line)
    if low:
        out.line(("  running low: ", "yellow"), ", ".join(sorted(one.value for one in low)))


def write_asking(out: Output, step: Step) -> None:
    """Why a model was asked, where rules decide what leaves no choice; and answers in vain, with what they cost."""
    if step.decision is not None and step.decision.why_asked:
        out.line((f"      a model was asked: {step.decision.why_asked}", "dim"))
    for one in step.tried:
        out.line((f"      in vain: {one.model} [{one.code}] {one.error} ({one.tokens} tokens)", "dim"))
