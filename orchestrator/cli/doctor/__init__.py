"""`orchestrator doctor`: looks at everything the product stands on and says what is wrong and what to do.

`report` has what a check is and runs them; `servers` looks at PostgreSQL, Redis and Kafka, `processes` at workers,
bridge and backlog, `files` at settings, agents, events and the model. A check is a function that gives findings and
raises nothing it could name.
"""

from __future__ import annotations

import click

from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.output import Output

__all__ = ["doctor"]


@click.command(cls=Command, examples=["doctor", "doctor --json | jq '.findings[] | select(.verdict == \"wrong\")'"])
@click.option("--ask-model", is_flag=True, help="Also ask the model one short question, which costs a few tokens.")
@pass_output
def doctor(out: Output, ask_model: bool) -> int:
    """Check settings, servers, model, agents and processes.

    Each line says ok, wrong and what to do about it, or unknown where it cannot be seen from here. Exit code 1 if
    anything is wrong.
    """
    from orchestrator.cli.doctor.report import examine

    return examine(out, ask_model=ask_model)
