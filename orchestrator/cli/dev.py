"""`orchestrator dev`: everything on this machine with one command; what it does is in `demo.run`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.output import Output


@click.command(cls=Command, examples=["dev", "dev --demo"])
@click.option("--demo", is_flag=True, help="Run a few sample tasks, show what happens, and stop.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the servers' data; default: `.data` in the present folder.",
)
@pass_output
def dev(out: Output, demo: bool, data_dir: Path | None) -> int:
    """Run everything on this machine.

    PostgreSQL, Valkey, a Kafka broker, bridge, worker, beat, Flower and sample agents, until Ctrl-C. Needs no
    Docker, no root and no API key. The servers are real and embedded, on free ports of this machine only.
    """
    from rich.console import Console

    from orchestrator.cli.demo.run import run_dev

    # Progress is for people: with --json it makes way for the one document.
    code = run_dev(demo=demo, data_dir=data_dir, console=Console(stderr=out.as_json, highlight=False))
    if out.as_json:
        out.document({"demo": demo, "finished": code == 0})
    return code
