"""`orchestrator task …`: everything a person does with tasks."""

from __future__ import annotations

import click

from orchestrator.cli.command import Group
from orchestrator.cli.task.control import cancel, rerun, retry
from orchestrator.cli.task.show import list_tasks, show
from orchestrator.cli.task.submit import event, submit
from orchestrator.cli.task.watch import watch

__all__ = ["task"]


@click.group(cls=Group)
def task() -> None:
    """Submit, look at, follow, retry and cancel tasks."""


for command in (submit, list_tasks, show, watch, retry, rerun, cancel, event):
    task.add_command(command)
