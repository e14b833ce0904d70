"""`task retry`, `rerun`, `cancel`, `undo` and `restart`: a person's hand.

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
from orchestrator.cli.output import Output, json_text
from orchestrator.cli.task.watch import follow
from orchestrator.cli.values import parse_amounts, parse_pairs
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.budget import shown
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Dispatch, HistoryEntry
from orchestrator.domain.task import TaskState
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
    ],
)
@click.argument("task_id")
@click.option(
    "--raise-budget",
    "raised",
    metavar="WHAT=N",
    multiple=True,
    help="Let the task use so many more steps, delegations, tokens, money or seconds. May be repeated.",
)
@who_and_why
@_watching
@pass_output
def retry(out: Output, task_id: str, raised: tuple[str, ...], who: str, why: str, watching: bool) -> int:
    """Do the step again at which a task failed or waits.

    It keeps its number, its decision and the keys of its calls: only what did not succeed is sent again. A task that
    has used up its budget goes on with --raise-budget, which adds to the bound.
    """
    more = {name: Decimal(str(amount)) for name, amount in parse_amounts("--raise-budget", raised).items()}
    with parts.control() as control:
        doorbell = control.retry(task_id, who=who, why=why, raise_budget=more)
    then = f"step {doorbell.step} is done again; what succeeded in it is not repeated"
    if more:
        then += f"; {', '.join(f'{shown(amount)} more {name}' for name, amount in more.items())}"
    return _begun(out, doorbell, then, watching)


@click.command(
    cls=Command,
    examples=[
        "task rerun supplier-42 --step 3",
        "task rerun supplier-42 --step 2 --set credit_score=80 --why 'score corrected by hand' --yes",
    ],
)
@click.argument("task_id")
@click.option("--step", type=click.IntRange(1), required=True, help="Go back to before this step.")
@_edits
@click.option("--yes", is_flag=True, help="Do not ask, even where calls with side effects may be repeated.")
@who_and_why
@_watching
@pass_output
def rerun(
    out: Output, task_id: str, step: int, pairs: tuple[str, ...], yes: bool, who: str, why: str, watching: bool
) -> int:
    """Go on from an earlier step, with corrections.

    The task goes back to its context as it was before --step, with --set on top, and decides anew. The new step
    gets a new number. Nothing is undone: calls that were made from --step on may be made again, under new keys,
    so an agent with side effects may act twice. Then you are asked first.
    """
    edits = parse_pairs("--set", pairs)
    with parts.control() as control, parts.store() as store:
        store.task(task_id)
        repeated = may_be_repeated(store.history(task_id), step, parts.known_agents())
        if repeated and not yes:
            _ask(out, task_id, step, repeated)
        doorbell = control.rerun(task_id, step, edits, who=who, why=why)
    return _begun(out, doorbell, _rerun_words(step, edits, doorbell), watching)


@click.command(
    cls=Command,
    examples=[
        "task cancel supplier-42",
        "task cancel supplier-42 --why 'order withdrawn'",
        "task cancel supplier-42 --undo --why 'the supplier withdrew'",
    ],
)
@click.argument("task_id")
@click.option("--undo", is_flag=True, help="Undo what agents have done, newest first, before it ends.")
@who_and_why
@pass_output
def cancel(out: Output, task_id: str, undo: bool, who: str, why: str) -> None:
    """End a task.

    It ends at once where no step runs, else when the running call has come back. What agents have done stays done,
    unless you say --undo: see `task undo`.
    """
    with parts.control() as control:
        task = control.cancel(task_id, who=who, why=why, undo=undo)
    ended = task.state.is_terminal
    then = "it ends when the step that runs now comes to its next boundary"
    if ended:
        then = "it is canceled" + ("; it had done nothing that could be undone" if undo else "")
    elif task.state is TaskState.COMPENSATING:
        then = "what it did is being undone, then it is canceled"
    if out.as_json:
        out.document({"task_id": task_id, "state": task.state.value, "canceled": ended, "next": then})
        return
    out.line(("canceled" if ended else "cancel requested", "yellow"), " ", (task_id, "bold"), f": {then}")
    if not ended:
        out.note(f"  → follow it: orchestrator task watch {parts.quoted(task_id)}")


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
    ],
)
@click.argument("task_id")
@_edits
@click.option("--yes", is_flag=True, help="Do not ask, even where calls with side effects may be repeated.")
@who_and_why
@_watching
@pass_output
def restart(out: Output, task_id: str, pairs: tuple[str, ...], yes: bool, who: str, why: str, watching: bool) -> int:
    """Begin a task anew, from its first context.

    It forgets what agents gave and keeps what events told, with --set on top. Its steps get new numbers, the journal
    stays. Calls that were made and not undone may be made again, under new keys; then you are asked first.
    """
    edits = parse_pairs("--set", pairs)
    with parts.control() as control, parts.store() as store:
        store.task(task_id)
        repeated = may_be_repeated(store.history(task_id), 1, parts.known_agents())
        if repeated and not yes:
            _ask(out, task_id, 1, repeated)
        doorbell = control.restart(task_id, edits, who=who, why=why)
    return _begun(out, doorbell, f"it begins anew as step {doorbell.step}", watching)


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
