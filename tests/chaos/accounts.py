"""What must be true, beyond that they end rightly, of tasks of certain sorts: each sort's own account. Pure.

Rows are those of the tables, entries those of the agents' ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.cast import BY_NAME, Kind, Template, answer_of, approves, template_of

Row = Mapping[str, Any]
ENDED = frozenset({"completed", "failed", "canceled"})


@dataclass(frozen=True)
class Books:
    """Everything that the accounts are held against."""

    tasks: Sequence[Row]
    delegations: Sequence[Row]
    steps: Sequence[Row]
    updates: Sequence[Row]
    """Of the outbox, in their order."""
    entries: Sequence[Row]


def right_ends(task: Row) -> set[str]:
    """How a task may end where nobody meddles."""
    template = template_of(task["description"])
    return {"failed" if template.doomed or template.overdue or declined(task, template) else "completed"}


def declined(task: Row, template: Template) -> bool:
    """Whether what the task needs is refused by a person."""
    needs = any(role.approval for role in BY_NAME.values() if role.provides in template.required)
    return needs and not approves(task["task_id"])


def complaints(books: Books) -> list[str]:
    """A sentence for each thing that is wrong."""
    return [
        *_one_effect_a_key(books.entries),
        *_asked(books),
        *_approved(books),
        *_in_time(books),
        *_canceled(books),
    ]


def counts(books: Books) -> dict[str, int]:
    """How much there was of each sort."""
    roles = [(BY_NAME[entry["agent"]], entry) for entry in books.entries]
    return {
        "questions of agents answered": sum(entry["told"] for _, entry in roles),
        "calls approved by a person": sum(entry["effects"] for role, entry in roles if role.approval),
        "tasks declined by a person": sum(declined(one, template_of(one["description"])) for one in books.tasks),
        "replies by an event": sum(entry["effects"] for role, entry in roles if role.by_event),
        "calls canceled at their agents": sum(entry["canceled"] for _, entry in roles),
        "tasks that began later": sum(one["not_before"] is not None for one in books.tasks),
        "deadlines passed": sum(one["reason_code"] == "deadline_passed" for one in books.tasks),
    }


def _one_effect_a_key(entries: Iterable[Row]) -> Iterable[str]:
    """Also where a task that began anew called the same agent twice: each key is good for one."""
    for entry in entries:
        if BY_NAME[entry["agent"]].kind is not Kind.PURE and entry["effects"] > 1:
            yield f"{entry['agent']} acted {entry['effects']} times under {entry['key']}"


def _asked(books: Books) -> Iterable[str]:
    """An agent that asked was told what the person said, and once, whoever died or lost its reply meanwhile."""
    done = {one["idempotency_key"] for one in books.delegations if one["state"] in {"succeeded", "compensated"}}
    for entry in books.entries:
        if not BY_NAME[entry["agent"]].asks:
            continue
        if entry["told"] > 1:
            yield f"{entry['agent']} was given the answer to {entry['key']} {entry['told']} times"
        if entry["told"] and entry["answer"] != answer_of(entry["task_id"]):
            yield f"{entry['agent']} was told {entry['answer']} under {entry['key']}, which nobody said"
        if entry["key"] in done and not entry["told"]:
            yield f"{entry['agent']} was never told under {entry['key']}, yet its delegation succeeded"


def _approved(books: Books) -> Iterable[str]:
    """What was declined was never done."""
    for entry in books.entries:
        if BY_NAME[entry["agent"]].approval and entry["calls"] and not approves(entry["task_id"]):
            yield f"{entry['agent']} was called for {entry['task_id']}, which a person had declined"


def _in_time(books: Books) -> Iterable[str]:
    """Nothing begins before its time, and a deadline ends its task for this reason and not before."""
    began: dict[str, Any] = {}
    for step in books.steps:
        began[step["task_id"]] = min(step["started_at"], began.get(step["task_id"], step["started_at"]))
    ended = {row["task_id"]: row["created_at"] for row in books.updates if row["body"]["state"] in ENDED}
    for task in books.tasks:
        name = task["task_id"]
        if task["not_before"] is not None and name in began and began[name] < task["not_before"]:
            yield f"{name} began at {began[name]}, before {task['not_before']}"
        if task["deadline"] is not None and task["state"] == "failed":
            if task["reason_code"] != "deadline_passed":
                yield f"{name} failed as {task['reason_code']}, not by its deadline"
            elif ended[name] < task["deadline"]:
                yield f"{name} ended at {ended[name]}, before its deadline {task['deadline']}"


def _canceled(books: Books) -> Iterable[str]:
    """Of a call that counts as canceled its agent has nothing left."""
    entries = {entry["key"]: entry for entry in books.entries if "/" not in entry["agent"]}
    for one in books.delegations:
        if one["error_code"] == "agent_canceled":
            entry = entries[one["idempotency_key"]]
            if not entry["canceled"] or entry["effects"]:
                yield f"{one['agent']} counts as canceled under {one['idempotency_key']}: {dict(entry)}"
