"""`task skip`: a step's results given by a person."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output
from orchestrator.cli.task.watch import follow
from orchestrator.cli.values import parse_pairs


@click.command(
    cls=Command,
    examples=[
        "task skip supplier-42 --set credit_score=80 --why 'scored by telephone'",
        'task skip supplier-42 --reply 0 \'{"contract_id": "CT-77"}\' --watch',
    ],
)
@click.argument("task_id")
@click.option(
    "--set",
    "pairs",
    metavar="FIELD=VALUE",
    multiple=True,
    help="A field that the step was to give; VALUE is JSON where it parses as such, else text. May be repeated.",
)
@click.option(
    "--reply",
    "replies",
    metavar="INDEX JSON",
    type=(click.IntRange(0), str),
    multiple=True,
    help="What the call of this number, from 0, is to have answered, as its agent's output_schema has it. Repeatable.",
)
@who_and_why
@click.option("--watch", "watching", is_flag=True, help="Follow the task until it ends.")
@pass_output
def skip(
    out: Output,
    task_id: str,
    pairs: tuple[str, ...],
    replies: tuple[tuple[int, str], ...],
    who: str,
    why: str,
    watching: bool,
) -> int:
    """Skip the present step, with its results given.

    The step at which the task failed or waits counts as done: by the fields of --set, by the replies of --reply, which
    fill what their agents provide. The origin of the values is you. Calls not answered are not made (again); one that
    may have acted stays unknown. The task goes on with the next step.
    """
    values = parse_pairs("--set", pairs)
    if not values and not replies:
        raise Misuse("say what the step is to have given: --set FIELD=VALUE or --reply INDEX JSON")
    given: dict[int, Any] = {index: parts.agent_output(text.encode()) for index, text in replies}
    with parts.by_hand() as by_hand:
        doorbell = by_hand.skip(task_id, values, given, who=who, why=why)
    then = f"step {doorbell.step - 1} counts as done; it goes on with step {doorbell.step}"
    if out.as_json:
        document = {"task_id": task_id, "step": doorbell.step, "next": then}
        (out.document_line if watching else out.document)(document)
    else:
        out.line(("skipped", "green"), " ", (task_id, "bold"), f": {then}")
    return follow(out, task_id, appear=0) if watching else 0
