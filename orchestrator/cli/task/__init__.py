"""`orchestrator task …`: everything a person does with tasks."""

from __future__ import annotations

import click

from orchestrator.cli.command import Group
from orchestrator.cli.task import (
    answer,
    control,
    explain,
    export,
    resolve,
    show,
    simulate,
    skip,
    submit,
    trust,
    undone,
    watch,
)

__all__ = ["task"]


@click.group(cls=Group)
def task() -> None:
    """Everything that a person does with tasks."""


task.add_command(submit.submit)
task.add_command(show.list_tasks)
task.add_command(show.show)
task.add_command(watch.watch)
task.add_command(explain.explain)
task.add_command(simulate.simulate)
task.add_command(export.export)
task.add_command(answer.questions)
task.add_command(answer.answer)
task.add_command(answer.approve)
task.add_command(answer.decline)
task.add_command(control.retry)
task.add_command(control.rerun)
task.add_command(skip.skip)
task.add_command(control.cancel)
task.add_command(control.undo)
task.add_command(undone.undone)
task.add_command(control.restart)
task.add_command(control.pause)
task.add_command(control.resume)
task.add_command(resolve.resolve)
task.add_command(trust.trust)
task.add_command(submit.event)
