"""`task retry`, `rerun`, `cancel`, `undo`, `restart`, `pause` and `resume`: a person's hand.

Each is audited, and says what happens next.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output, json_text
from orchestrator.cli.task.many import GOING, LIVE, do_to_each, is_many, many_of, many_options
from orchestrator.cli.task.watch import follow
from orchestrator.cli.values import parse_amounts, parse_pairs
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.budget import shown
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Dispatch, HistoryEntry
from orchestrator.domain.task import Task, TaskState
from orchestrator.errors import NotAllowed

_edits = click.option(
    "--set",
    "pairs",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Correct a field; VALUE is JSON where it parses as such, else text; null empties it. May be repeated.",
)
_watching = click.option("--watch", "watching", is_flag=True, help="Follow the task until it ends.")


@click.command(
    cls=Command,
    examples=[
        "task retry supplier-42",
        'task retry supplier-42 --why "the scoring service is back" --watch',
        "task retry supplier-42 --raise-budget tokens=50000 --raise-budget money=0.25",
        "task retry --state failed --reason agent_down --since 2h --dry-run",
    ],
)
@click.argument("task_id", required=False)
@click.option(
    "--raise-budget",
    "raised",
    metavar="WHAT=N",
    multiple=True,
    help="Let the task use so many more steps, delegations, tokens, money or seconds. May be repeated.",
)
@many_options
@who_and_why
@_watching
@pass_output
def retry(
    out: Output, /, task_id: str | None, raised: tuple[str, ...], who: str, why: str, watching: bool, **filters: Any
) -> int:
    """Do the step again at which tasks failed or wait.

    It keeps its number, its decision and the keys of its calls: only what did not succeed is sent again. A task that
    has used up its budget goes on with --raise-budget, which adds to the bound. Instead of TASK_ID, filters mean
    many tasks: failed ones where no --state is said.
    """
    many = many_of(**filters)
    more = {name: Decimal(str(amount)) for name, amount in parse_amounts("--raise-budget", raised).items()}
    raised_words = "".join(f"; {shown(amount)} more {name}" for name, amount in more.items())

    def act(one: str) -> Dispatch:
        return control.retry(one, who=who, why=why, raise_budget=more)

    with parts.control() as control:
        if is_many(task_id, many):
            states = (TaskState.FAILED,)
            return do_to_each(
                out, "retry", many, states, lambda one: f"step {act(one).step} is done again{raised_words}"
            )
        doorbell = act(str(task_id))
    then = f"step {doorbell.step} is done again; what succeeded in it is not repeated{raised_words}"
    return _begun(out, doorbell, then, watching)


@click.command(
    cls=Command,
    examples=[
        "task rerun supplier-42 --step 3",
        "task rerun supplier-42 --step 2 --set credit_score=80 --why 'score corrected by hand' --yes",
        "task rerun supplier-42 --step 4 --arguments 0 to=sales@supplier.example",
    ],
)
@click.argument("task_id")
@click.option("--step", type=click.IntRange(1), required=True, help="Go back to before this step.")
@_edits
@click.option(
    "--arguments",
    "calls",
    metavar="INDEX NAME=VALUE",
    type=(click.IntRange(0), str),
    multiple=True,
    help="Make the step's calls again with this argument of the call of this number, from 0. May be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask, even where calls with side effects may be repeated.")
@who_and_why
@_watching
@pass_output
def rerun(
    out: Output,
    task_id: str,
    step: int,
    pairs: tuple[str, ...],
    calls: tuple[tuple[int, str], ...],
    yes: bool,
    who: str,
    why: str,
    watching: bool,
) -> int:
    """Go on from an earlier step, with corrections.

    The task goes back to its context as it was before --step, with --set on top, and decides anew. The new step
    gets a new number. Nothing is undone: calls that were made from --step on may be made again, under new keys,
    so an agent with side effects may act twice. Then you are asked first. With --arguments nobody decides anew: the
    step's own calls are made again, with these arguments.
    """
    edits, arguments = parse_pairs("--set", pairs), _arguments(calls)
    if edits and arguments:
        raise Misuse("--set has the step decided anew, --arguments makes its own calls again: choose one")
    with parts.control() as control, parts.store() as store:
        store.task(task_id)
        repeated = may_be_repeated(store.history(task_id), step, parts.known_agents())
        if repeated and not yes:
            _ask(out, task_id, step, repeated)
        if not arguments:
            doorbell = control.rerun(task_id, step, edits, who=who, why=why)
            return _begun(out, doorbell, _rerun_words(step, edits, doorbell), watching)
    with parts.by_hand() as by_hand:
        doorbell = by_hand.rerun_arguments(task_id, step, arguments, who=who, why=why)
    then = f"the calls of step {step} are made again as step {doorbell.step}, with the arguments corrected"
    return _begun(out, doorbell, then, watching)


def _arguments(calls: Sequence[tuple[int, str]]) -> dict[int, dict[str, Any]]:
    numbers = dict.fromkeys(index for index, _ in calls)
    return {one: parse_pairs("--arguments", [pair for index, pair in calls if index == one]) for one in numbers}


@click.command(
    cls=Command,
    examples=[
        "task cancel supplier-42",
        "task cancel supplier-42 --why 'order withdrawn'",
        "task cancel supplier-42 --undo --why 'the supplier withdrew'",
        "task cancel --state waiting --tenant acme --yes",
    ],
)
@click.argument("task_id", required=False)
@click.option("--undo", is_flag=True, help="Undo what agents have done, newest first, before it ends.")
@many_options
@who_and_why
@pass_output
def cancel(out: Output, /, task_id: str | None, undo: bool, who: str, why: str, **filters: Any) -> int:
    """End tasks.

    A task ends at once where no step runs, else when the running call has come back. What agents have done stays done,
    unless you say --undo: see `task undo`. Instead of TASK_ID, filters mean many tasks that have not ended.
    """
    many = many_of(**filters)

    def act(one: str) -> Task:
        return control.cancel(one, who=who, why=why, undo=undo)

    with parts.control() as control:
        if is_many(task_id, many):
            return do_to_each(out, "cancel", many, GOING, lambda one: _canceled(act(one), undo))
        task = act(str(task_id))
    ended, then = task.state.is_terminal, _canceled(task, undo)
    if out.as_json:
        out.document({"task_id": task_id, "state": task.state.value, "canceled": ended, "next": then})
        return 0
    out.line(("canceled" if ended else "cancel requested", "yellow"), " ", (task.task_id, "bold"), f": {then}")
    if not ended:
        out.note(f"  → follow it: orchestrator task watch {parts.quoted(task.task_id)}")
    return 0


def _canceled(task: Task, undo: bool) -> str:
    if task.state is TaskState.COMPENSATING:
        return "what it did is being undone, then it is canceled"
    if not task.state.is_terminal:
        return "it ends when the step that runs now comes to its next boundary"
    return "it is canceled" + ("; it had done nothing that could be undone" if undo else "")


@click.command(cls=Command, examples=["task undo supplier-42", "task undo supplier-42 --why 'wrong supplier' --watch"])
@click.argument("task_id")
@who_and_why
@_watching
@pass_output
def undo(out: Output, task_id: str, who: str, why: str, watching: bool) -> int:
    """Undo what an ended task did.

    Completed calls with side effects are compensated, newest first, where agents.yaml says how (`compensate`); a call
    whose outcome is not known is settled first. `task show` lists what was undone and what is left for a person. Once
    that is mended, say it again: only what is left is tried. Afterwards the task can only be restarted.
    """
    with parts.control() as control:
        doorbell = control.undo(task_id, who=who, why=why)
    return _begun(out, doorbell, "what it did is being undone, newest first", watching)


@click.command(
    cls=Command,
    examples=[
        "task restart supplier-42",
        "task restart supplier-42 --set contact_email=new@supplier.example --yes --watch",
        "task restart --state failed --reason planner_refused --since 1d --dry-run",
    ],
)
@click.argument("task_id", required=False)
@_edits
@many_options
@who_and_why
@_watching
@pass_output
def restart(
    out: Output, /, task_id: str | None, pairs: tuple[str, ...], who: str, why: str, watching: bool, **filters: Any
) -> int:
    """Begin tasks anew, from their first context.

    It forgets what agents gave and keeps what events told, with --set on top. Its steps get new numbers, the journal
    stays. Calls that were made and not undone may be made again, under new keys; then you are asked first.
    """
    many, edits = many_of(**filters), parse_pairs("--set", pairs)

    def act(one: str) -> Dispatch:
        repeated = may_be_repeated(store.history(one), 1, agents)
        if repeated and not many.yes:
            _ask(out, one, 1, repeated)
        return control.restart(one, edits, who=who, why=why)

    with parts.control() as control, parts.store() as store:
        agents = parts.known_agents()
        if is_many(task_id, many):
            states = (TaskState.FAILED, TaskState.CANCELED)
            return do_to_each(out, "restart", many, states, lambda one: f"it begins anew as step {act(one).step}")
        store.task(str(task_id))
        doorbell = act(str(task_id))
    return _begun(out, doorbell, f"it begins anew as step {doorbell.step}", watching)


@click.command(
    cls=Command,
    examples=["task pause supplier-42 --why 'the buyer asked for time'", "task pause --agent credit_score --yes"],
)
@click.argument("task_id", required=False)
@many_options
@who_and_why
@pass_output
def pause(out: Output, /, task_id: str | None, who: str, why: str, **filters: Any) -> int:
    """Let tasks stand still.

    What runs goes on to its end, nothing new begins; events and answers are kept. `task resume` lets it go on.
    Instead of TASK_ID, filters mean many tasks that have not ended.
    """
    many = many_of(**filters)

    def act(one: str) -> str:
        return _paused(control.pause(one, who=who, why=why))

    with parts.control() as control:
        if is_many(task_id, many):
            return do_to_each(out, "pause", many, LIVE, act, paused=False)
        then = act(str(task_id))
    if out.as_json:
        out.document({"task_id": task_id, "paused": True, "next": then})
    else:
        out.line(("paused", "yellow"), " ", (str(task_id), "bold"), f": {then}")
        out.note(f"  → let it go on: orchestrator task resume {parts.quoted(str(task_id))}")
    return 0


def _paused(task: Task) -> str:
    return f"nothing new begins; what runs now in step {task.next_step} goes on to its end"


@click.command(cls=Command, examples=["task resume supplier-42 --watch", "task resume --tenant acme --yes"])
@click.argument("task_id", required=False)
@many_options
@who_and_why
@_watching
@pass_output
def resume(out: Output, /, task_id: str | None, who: str, why: str, watching: bool, **filters: Any) -> int:
    """Let paused tasks go on.

    They take up what came meanwhile. Instead of TASK_ID, filters mean many tasks: those that are paused.
    """
    many = many_of(**filters)

    def act(one: str) -> Dispatch:
        return control.resume(one, who=who, why=why)

    with parts.control() as control:
        if is_many(task_id, many):
            return do_to_each(
                out, "resume", many, LIVE, lambda one: f"it goes on with step {act(one).step}", paused=True
            )
        doorbell = act(str(task_id))
    return _begun(out, doorbell, f"it goes on with step {doorbell.step}", watching)


def may_be_repeated(
    history: Sequence[HistoryEntry], step: int, agents: Mapping[str, AgentSpec] | None
) -> list[Delegation]:
    """Calls from ``step`` on that acted or may have acted on the world.

    Agents that the registry does not know (any more) count as having side effects; so do all where ``agents`` is None,
    the registry being unreadable.
    """
    acted = {DelegationState.SUCCEEDED, DelegationState.UNKNOWN, DelegationState.IN_FLIGHT}

    def acts(name: str) -> bool:
        agent = (agents or {}).get(name)
        return agent is None or agent.side_effects

    return [
        delegation
        for entry in history
        if entry.step.number >= step and not entry.step.superseded
        for delegation in entry.delegations
        if delegation.state in acted and acts(delegation.agent)
    ]


def _ask(out: Output, task_id: str, step: int, repeated: Sequence[Delegation]) -> None:
    calls = ", ".join(f"{one.agent} ({one.ref} {one.state.value})" for one in repeated)
    warning = f"calls with side effects since step {step} may be made a second time: {calls}"
    if out.as_json or not sys.stdin.isatty():
        raise NotAllowed(
            f"task {task_id!r}: {warning}",
            hint="Say --yes where that is wanted; `orchestrator task retry` repeats nothing that succeeded.",
            task_id=task_id,
        )
    out.note(f"Careful: {warning}")
    click.confirm("Go back all the same?", abort=True, err=True)


def _rerun_words(step: int, edits: Mapping[str, Any], doorbell: Dispatch) -> str:
    corrected = f" with {', '.join(f'{name} = {json_text(value)}' for name, value in edits.items())}" if edits else ""
    return f"it goes on as step {doorbell.step}, from the context before step {step}{corrected}"


def _begun(out: Output, doorbell: Dispatch, then: str, watching: bool) -> int:
    task_id = doorbell.task_id
    if out.as_json:
        document = {"task_id": task_id, "step": doorbell.step, "next": then}
        (out.document_line if watching else out.document)(document)
    else:
        out.line(("begun", "green"), " ", (task_id, "bold"), f": {then}")
    if watching:
        return follow(out, task_id, appear=0)
    out.note(f"  → follow it: orchestrator task watch {parts.quoted(task_id)}")
    return 0
