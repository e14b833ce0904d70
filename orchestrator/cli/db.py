"""`orchestrator db …`: the tables in PostgreSQL."""

from __future__ import annotations

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Group, pass_output, who_and_why
from orchestrator.cli.failures import FAILED
from orchestrator.cli.output import Output


@click.group(cls=Group)
def db() -> None:
    """Look after the tables in PostgreSQL."""


@db.command(examples=["db upgrade"])
@pass_output
def upgrade(out: Output) -> None:
    """Bring the tables to this program's version.

    Safe to repeat, and while others run. Run it before the processes of a new version are started.
    """
    before, after = parts.upgrade_database()
    if out.as_json:
        out.document({"before": before, "after": after, "changed": before != after})
    elif before == after:
        out.line(("up to date", "green"), f": {after}")
    else:
        out.line(("upgraded", "green"), f" from {before or 'an empty database'} to {after}")


@db.command(examples=["db current"])
@pass_output
def current(out: Output) -> int:
    """Show which version the tables have.

    Exit code 1 if it is not this program's.
    """
    version, wanted = parts.database_version()
    if out.as_json:
        out.document({"current": version, "wanted": wanted, "up_to_date": version == wanted})
    elif version == wanted:
        out.line(("up to date", "green"), f": {version}")
    else:
        out.line(("not up to date", "red"), f": the tables are at {version or 'nothing'}, this program needs {wanted}")
        out.note("  → orchestrator db upgrade")
    return 0 if version == wanted else FAILED


@db.command(examples=["db prune", "db prune --json"])
@pass_output
def prune(out: Output) -> None:
    """Remove what is old and done.

    How old is for the settings ORCHESTRATOR_KEEP_… to say. Workers do so every ten minutes by themselves. It goes in
    small batches: nothing that runs waits for it.
    """
    with parts.retention() as retention:
        removed = retention.run()
    if out.as_json:
        out.document({"removed": {kept.value: count for kept, count in removed.items()}})
        return
    for kept, count in removed.items():
        out.line(f"{kept.value.replace('_', ' ')}: ", (f"{count} removed", "yellow" if count else "dim"))


@db.command(examples=["db restored --why 'yesterday, from a snapshot of its volume'"])
@who_and_why
@pass_output
def restored(out: Output, who: str, why: str) -> None:
    """Say that the database is older than it was.

    After a restore, before the processes are started again. They notice most restores by themselves; a snapshot of the
    disk or rows that were loaded anew may look like nothing has happened. Every task that has not ended is doubted: its
    calls of agents that honour no keys wait for a person (`task resolve`, `task trust`).
    """
    with parts.restores() as restores:
        tasks = restores.restored(who=who, why=why)
    if out.as_json:
        out.document({"tasks": tasks})
    else:
        out.line(("noted", "yellow"), f": {tasks} tasks are doubted")
