"""`task trust`: a person's word that nothing of a task was forgotten when PostgreSQL went back to an older state."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.output import Output
from orchestrator.cli.task.many import LIVE, do_to_each, is_many, many_of, many_options
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.value import replace


@click.command(
    cls=Command,
    examples=[
        "task trust supplier-42 --why 'the payment service has no call of it'",
        "task trust --agent payment --why 'their log has nothing after 10:00' --dry-run",
        "task trust --all --why 'planned move of the server, nothing was lost' --yes",
    ],
)
@click.argument("task_id", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every task that is doubted.")
@many_options
@who_and_why
@pass_output
def trust(out: Output, /, task_id: str | None, everyone: bool, who: str, why: str, **filters: Any) -> int:
    """Say that nothing of tasks was forgotten.

    When PostgreSQL turns out to be older than it was, every task that has not ended is doubted: its calls of agents
    that honour no keys wait for a person. This ends the doubt, and the calls that waited for it alone are made. For one
    call whose fate you know, `task resolve` is enough. Instead of TASK_ID, filters mean many doubted tasks.
    """
    many = many_of(**filters)
    many = replace(many, wanted=replace(many.wanted, doubted=True), narrowed=many.narrowed or everyone)

    def act(one: str) -> str:
        return _words(restores.trust(one, who=who, why=why))

    with parts.restores() as restores:
        if is_many(task_id, many):
            return do_to_each(out, "trust", many, LIVE, act)
        then = act(str(task_id))
    if out.as_json:
        out.document({"task_id": task_id, "doubted": False, "next": then})
    else:
        out.line(("trusted", "green"), " ", (str(task_id), "bold"), f": {then}")
    return 0


def _words(doorbell: Dispatch | None) -> str:
    if doorbell is None:
        return "its calls are made as ever"
    return f"the call that waited is made: step {doorbell.step} goes on"
