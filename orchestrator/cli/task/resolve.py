"""`task resolve`: a person's word on a call whose outcome is unknown."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output
from orchestrator.cli.values import read_bytes
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.resolution import Outcome, Resolution

_THEN = {
    Outcome.SUCCEEDED: "its reply is entered, and the task goes on with it",
    Outcome.NEVER_HAPPENED: "the agent is called again, under the same key",
    Outcome.FAILED: "the step fails; `orchestrator task retry` calls the agent again",
}


@click.command(
    cls=Command,
    examples=[
        "task resolve supplier-42 --succeeded --reply '{\"payment_id\": \"P-7\"}' --why 'seen in the ledger'",
        "task resolve supplier-42 --delegation 3.1 --never-happened --why 'asked the bank'",
        "task resolve supplier-42 --failed --json",
    ],
)
@click.argument("task_id")
@click.option("--succeeded", is_flag=True, help="The agent acted: with --reply, what it answered.")
@click.option("--never-happened", is_flag=True, help="The agent never acted: call it again under the same key.")
@click.option("--failed", is_flag=True, help="The agent tried and could not: the step fails.")
@click.option("--reply", metavar="JSON", help="With --succeeded: the agent's output, as its output_schema has it.")
@click.option("--reply-file", metavar="FILE", help="The same from a file; `-`: standard input.")
@click.option("--delegation", "ref", metavar="STEP.INDEX", help="Which call, where the outcome of several is unknown.")
@who_and_why
@pass_output
def resolve(
    out: Output,
    task_id: str,
    succeeded: bool,
    never_happened: bool,
    failed: bool,
    reply: str | None,
    reply_file: str | None,
    ref: str | None,
    who: str,
    why: str,
) -> None:
    """Say what became of a call whose outcome is unknown.

    A call of an agent with side effects whose reply was lost is never repeated blindly: where the agent can neither be
    asked nor safely called again, the task waits for you. Look at the agent's side first, then say one of
    --succeeded, --never-happened, --failed. `task list --waits-for person` shows which tasks wait.
    """
    said = [
        outcome
        for outcome, given in (
            (Outcome.SUCCEEDED, succeeded),
            (Outcome.NEVER_HAPPENED, never_happened),
            (Outcome.FAILED, failed),
        )
        if given
    ]
    if len(said) != 1:
        raise Misuse("say one of --succeeded, --never-happened, --failed")
    resolution = Resolution(said[0], _reply(said[0], reply, reply_file))
    with parts.resolver() as resolver:
        delegation, doorbell = resolver.resolve(task_id, ref, resolution, who=who, why=why)
    _tell(out, delegation, resolution, doorbell)


def _reply(outcome: Outcome, text: str | None, path: str | None) -> Any:
    given = [one for one in (text, path) if one is not None]
    if outcome is not Outcome.SUCCEEDED:
        if given:
            raise Misuse("a reply belongs to --succeeded")
        return None
    if len(given) != 1:
        raise Misuse(
            "--succeeded needs the agent's output: --reply or --reply-file",
            hint="Write --reply null where it has none.",
        )
    return parts.agent_output(text.encode("utf-8", "surrogateescape") if text is not None else read_bytes(str(path)))


def _tell(out: Output, delegation: Delegation, resolution: Resolution, doorbell: Dispatch | None) -> None:
    task_id = delegation.task_id
    then = _THEN[resolution.outcome] if doorbell is not None else "it is noted; nothing waits for it"
    if out.as_json:
        out.document(
            {
                "task_id": task_id,
                "delegation": delegation.ref,
                "agent": delegation.agent,
                "outcome": resolution.outcome.value,
                "step": None if doorbell is None else doorbell.step,
                "next": then,
            }
        )
        return
    out.line(("resolved", "green"), " ", (task_id, "bold"), f": {delegation.ref} {delegation.agent}: {then}")
    if doorbell is not None:
        out.note(f"  → follow it: orchestrator task watch {parts.quoted(task_id)}")
