"""`task undone`: a person's word that they undid a call which an undo had left for them."""

from __future__ import annotations

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.output import Output


@click.command(
    cls=Command,
    examples=["task undone supplier-42 --why 'withdrawn by telephone'", "task undone supplier-42 --delegation 3.0"],
)
@click.argument("task_id")
@click.option("--delegation", "ref", metavar="STEP.INDEX", help="Which call, where several are left; see `task show`.")
@who_and_why
@pass_output
def undone(out: Output, task_id: str, ref: str | None, who: str, why: str) -> int:
    """Say that you undid a call yourself.

    For calls that an undo lists as not undone, since their agents cannot undo them, or refused. Nothing is sent. The
    call counts as undone from then on: its fields leave the context, `task undo` does not try it again, and an update
    tells of it.
    """
    with parts.control() as control:
        delegation = control.undone_by_hand(task_id, ref, who=who, why=why)
    if out.as_json:
        out.document({"task_id": task_id, "delegation": delegation.ref, "agent": delegation.agent, "undone": True})
        return 0
    out.line(("undone", "green"), f": call {delegation.ref} of {delegation.agent}, by your word")
    return 0
