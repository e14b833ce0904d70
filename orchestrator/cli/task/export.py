"""`task export`: a task written down as a test that takes it through its course again, offline."""

from __future__ import annotations

import pprint
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output, iso, json_text
from orchestrator.errors import NotAllowed

if TYPE_CHECKING:
    from orchestrator.flow.past import Past

_TEMPLATE = '''\
"""The task {task_id}, as it went: {words}.

Written by `orchestrator task export` (agent-orchestrator {version}). Run it with pytest; nothing but agent-orchestrator
is needed, no server, no model, no agent. It fails where the program would take the task another way today: what each
reply, event and answer fills, what is asked, what rules decide, what passes the checks, how it ends.{beside}
"""

from orchestrator.testing import replay


def test_{name}():
    replay(RECORDING)


RECORDING = {recording}
'''


@click.command(
    cls=Command,
    examples=[
        "task export supplier-42 --out tests/test_supplier_42.py",
        "task export supplier-42 > test_supplier_42.py",
        "task export supplier-42 --json > recording.json",
    ],
)
@click.argument("task_id")
@click.option("--out", "path", metavar="FILE", help="Write it there instead of to standard output.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@pass_output
def export(out: Output, task_id: str, path: str | None, force: bool) -> None:
    """Write an ended task as a pytest file.

    The test takes the task through its course again, offline. It holds the decisions and replies on record, with
    secrets of the settings and of agents.yaml masked; the task's own data is not masked. What is written runs green: a
    task that the program would take another way today is refused, with what differs. With --json the recording alone.
    """
    from orchestrator.flow.past import Past
    from orchestrator.testing.recording import differences, not_checked, recording_of

    if path is not None and Path(path).exists() and not force:
        raise Misuse(f"{path} is there already", hint="Say --force to overwrite it, or name another file.")
    parts.mask_agents_secrets()
    with parts.store() as store:
        past = Past.load(store, task_id)
    if not past.task.state.is_terminal:
        raise NotAllowed(
            f"task {task_id!r} is {past.task.state.value}: only a task that has ended can be exported",
            hint=f"Follow it with `orchestrator task watch {parts.quoted(task_id)}`.",
            task_id=task_id,
        )
    recording = recording_of(past, parts.trial_limits("rules:").partial_failure)
    if told := differences(recording):
        raise NotAllowed(
            f"task {task_id!r} would not go today as it went: {'; '.join(told)}",
            hint=f"`orchestrator task explain {parts.quoted(task_id)}` shows how it went.",
            task_id=task_id,
        )
    as_test = pytest_file(past, recording, not_checked(recording))
    _write(json_text(recording, indent=1) + "\n" if out.as_json else as_test, path)
    if path is not None:
        out.note(f"{path}: {len(past.course)} steps; run it with `pytest {path}`")


def pytest_file(past: Past, recording: Mapping[str, Any], taken: Sequence[int]) -> str:
    """The text of a pytest file; ``taken`` are steps whose decisions are taken as they are."""
    task = past.task
    steps = f"{len(past.course)} steps" if len(past.course) != 1 else "1 step"
    ended = iso(task.ended_at or task.updated_at)[:10]
    beside = ""
    if taken:
        numbers = ", ".join(map(str, taken))
        beside = f"\n\nTaken as they are, since what was asked is not on record: the decisions of steps {numbers}."
    return _TEMPLATE.format(
        task_id=ascii(task.task_id)[1:-1].replace("\\", "\\\\").replace('"', "'"),
        words=f"{task.state.value} on {ended} after {steps}",
        version=recording["orchestrator"],
        beside=beside,
        name=re.sub(r"\W+", "_", task.task_id.lower(), flags=re.ASCII).strip("_") or "task",
        recording=pprint.pformat(dict(recording), width=110, sort_dicts=False),
    )


def _write(text: str, path: str | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise Misuse(f"{path} cannot be written: {error}") from error
