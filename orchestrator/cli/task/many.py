"""One task or many: the filters of `task retry`, `cancel`, `pause`, `resume`, `restart` and `simulate`, and doing it to
each.

Each task has a transaction of its own: what cannot be done to one does not keep the others from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import click

from orchestrator.cli import parts
from orchestrator.cli.failures import FAILED, Misuse
from orchestrator.cli.output import Output, shortened
from orchestrator.domain.by_hand import TaskFilter
from orchestrator.domain.task import Task, TaskState
from orchestrator.domain.value import Value, replace
from orchestrator.errors import NotAllowed, TaskNotFound

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")

LIVE = tuple(state for state in TaskState if not state.is_terminal)
"""States of tasks that have not ended."""

GOING = tuple(state for state in LIVE if state is not TaskState.COMPENSATING)
"""States of tasks that can be canceled."""


class Many(Value, frozen=True):
    """What was said on the command line instead of a task's id."""

    wanted: TaskFilter
    limit: int
    dry_run: bool
    yes: bool
    narrowed: bool
    """Whether any filter was given."""


def many_options(function: F) -> F:
    """Add the filters, ``--limit``, ``--dry-run`` and ``--yes``; the command gets them as keywords for `many_of`."""
    options = [
        click.option("--state", type=click.Choice([state.value for state in TaskState]), help="Tasks in this state."),
        click.option("--reason", metavar="CODE", help="Tasks with this reason code, such as agent_down."),
        click.option("--since", metavar="TIME", help="Tasks changed within this time: 90s, 30min, 2h, 1d."),
        click.option("--agent", metavar="NAME", help="Tasks whose present step calls this agent."),
        click.option("--tenant", metavar="NAME", help="Tasks of this tenant."),
        click.option(
            "--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="At most so many."
        ),
        click.option("--dry-run", is_flag=True, help="Show which tasks are meant, and do nothing."),
        click.option("--yes", is_flag=True, help="Do not ask first."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def many_of(
    *,
    state: str | None,
    reason: str | None,
    since: str | None,
    agent: str | None,
    tenant: str | None,
    limit: int,
    dry_run: bool,
    yes: bool,
) -> Many:
    """The options as a value. Raises `Misuse` for a time that is none."""
    states = () if state is None else (TaskState(state),)
    wanted = TaskFilter(states, reason, length_of(since), tenant, agent)
    return Many(wanted, limit, dry_run, yes, wanted != TaskFilter())


def length_of(text: str | None) -> timedelta | None:
    """``2h`` as a length of time.

    Raises:
        Misuse: it is none.
    """
    if text is None:
        return None
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise Misuse(f"--since {text!r} is no length of time", hint="Write 90s, 30min, 2h or 1d.")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def is_many(task_id: str | None, many: Many) -> bool:
    """Whether many tasks are meant.

    Raises:
        Misuse: both or neither of a task's id and a filter were given.
    """
    if task_id is not None and (many.narrowed or many.dry_run):
        raise Misuse("give a TASK_ID or filters, not both")
    if task_id is None and not many.narrowed:
        raise Misuse("give a TASK_ID, or say which tasks are meant", hint="For instance: --state failed --since 2h.")
    return task_id is None


def do_to_each(
    out: Output,
    verb: str,
    many: Many,
    states: Sequence[TaskState],
    act: Callable[[str], str],
    *,
    paused: bool | None = None,
) -> int:
    """Find the tasks, ask, do it to each, and tell of each; the exit code.

    Args:
        out: where to tell.
        verb: the command, for the words.
        many: which tasks.
        states: those that can be meant where no state was said.
        act: does it to one task and says what happens next.
        paused: whether only paused tasks are meant, or only others.
    """
    tasks = meant(out, verb, many, states, paused=paused)
    if not tasks:
        return 0
    done: list[dict[str, Any]] = []
    for task in tasks:
        done.append(_one(task.task_id, act))
        if not out.as_json:
            _tell(out, verb, done[-1])
    failed = sum(not one["done"] for one in done)
    if out.as_json:
        out.document({"verb": verb, "done": len(done) - failed, "failed": failed, "tasks": done})
    else:
        out.note(f"{verb}: {len(done) - failed} done, {failed} refused")
    return FAILED if failed else 0


def meant(
    out: Output, verb: str, many: Many, states: Sequence[TaskState], *, paused: bool | None = None
) -> Sequence[Task]:
    """The tasks that are meant, once whoever asks has agreed; none where they were only to be shown."""
    wanted = replace(many.wanted, states=many.wanted.states or tuple(states), paused=paused)
    with parts.store() as store:
        tasks = store.find_tasks(wanted, many.limit)
    if many.dry_run or not tasks:
        _list(out, verb, tasks)
        return ()
    if not many.yes:
        _ask(out, verb, tasks)
    return tasks


def _one(task_id: str, act: Callable[[str], str]) -> dict[str, Any]:
    try:
        return {"task_id": task_id, "done": True, "next": act(task_id)}
    except (NotAllowed, TaskNotFound) as error:
        # It moved since we looked: that is told, and the others are done.
        return {"task_id": task_id, "done": False, "code": error.code, "error": str(error)}


def _tell(out: Output, verb: str, one: dict[str, Any]) -> None:
    if one["done"]:
        out.line((verb, "green"), " ", (one["task_id"], "bold"), f": {one['next']}")
    else:
        out.line(("refused", "red"), " ", (one["task_id"], "bold"), f": {one['error']}")


def _list(out: Output, verb: str, tasks: Sequence[Task]) -> None:
    if out.as_json:
        found = [{"task_id": one.task_id, "state": one.state.value, "reason_code": one.reason_code} for one in tasks]
        out.document({"verb": verb, "dry_run": True, "tasks": found})
        return
    if tasks:
        rows = [(one.task_id, one.state.value, one.reason_code or "", shortened(one.reason or "", 80)) for one in tasks]
        out.table(["task", "state", "reason code", "reason"], rows)
    out.note(f"{len(tasks)} tasks are meant; nothing was done." if tasks else "No task is meant.")


def _ask(out: Output, verb: str, tasks: Sequence[Task]) -> None:
    if out.as_json or not sys.stdin.isatty():
        raise NotAllowed(
            f"{len(tasks)} tasks are meant by `task {verb}`",
            hint="Say --yes to do it, or --dry-run to see which they are.",
        )
    out.note(f"{len(tasks)} tasks are meant, the first of them {tasks[0].task_id}")
    click.confirm(f"{verb} them all?", abort=True, err=True)
