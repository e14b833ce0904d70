"""`task watch`: following a task live, by looking at its rows in PostgreSQL until it ends."""

from __future__ import annotations

import time

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import Failure
from orchestrator.cli.output import Output, duration, iso
from orchestrator.domain.task import TaskState
from orchestrator.errors import StoreUnavailable, TaskNotFound

POLL = 0.4
"""Seconds between two looks."""

PATIENCE = 60.0
"""Seconds for which PostgreSQL may be away before watching ends; the task itself does not mind."""


@click.command(
    cls=Command,
    examples=[
        "task watch supplier-42",
        "task watch supplier-42 --timeout 300 --json | jq -c 'select(.event == \"decided\") | .reason'",
    ],
)
@click.argument("task_id")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds to follow it at most; default: no end."
)
@click.option(
    "--appear",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for a task that is not known yet.",
)
@pass_output
def watch(out: Output, task_id: str, timeout: float | None, appear: float) -> int:
    """Follow a task live until it ends.

    Shows steps, decisions and why, agents, waits and time. Exit code 0 if it completed, 1 if it failed, was
    canceled or did not end within --timeout. With --json one document a line: `state`, `decided`, `delegation`,
    `step`, `field`, `progress` (of a step with several calls) and, last, `end`.
    """
    return follow(out, task_id, timeout=timeout, appear=appear)


def follow(out: Output, task_id: str, *, timeout: float | None = None, appear: float = 30.0) -> int:
    """Follow a task until it ends and return the exit code of its final state.

    Raises:
        TaskNotFound: it did not appear within ``appear`` seconds.
        StoreUnavailable: PostgreSQL stayed away.
    """
    from orchestrator.cli.task.news import News, Watching
    from orchestrator.cli.task.render import progress_words, summary
    from orchestrator.cli.task.render_news import news_line

    began = time.monotonic()
    away_since: float | None = None
    watching = Watching()
    with parts.store() as store, out.status() as status:

        def tell(news: News) -> None:
            if out.as_json:
                out.document_line({"event": news.event, "task_id": task_id, "at": iso(news.at), **news.data})
            else:
                out.line(*news_line(news))

        while True:
            waited = time.monotonic() - began
            try:
                task = store.task(task_id)
                history = store.history(task_id)
                updates = store.updates(task_id, watching.last_update)
                context = store.context(task_id)
                fresh = watching.look(task, context, history, updates)
                away_since = None
            except TaskNotFound:
                if waited >= (appear if timeout is None else min(appear, timeout)):
                    raise _never_came(task_id, waited) from None
                status(f"waiting for the task to be taken in · {duration(waited)}")
            except StoreUnavailable as error:
                away_since = time.monotonic() if away_since is None else away_since
                if time.monotonic() - away_since >= PATIENCE:
                    raise
                status(f"PostgreSQL is away, trying again · {error}")
            else:
                for news in fresh:
                    tell(news)
                if task.state.is_terminal:
                    context_row = store.context_row(task_id)
                    if out.as_json:
                        out.document_line({"event": "end", **summary(task, history, context_row)})
                    else:
                        from orchestrator.cli.task.render import write_end

                        write_end(out, task, history, context_row)
                    return 0 if task.state is TaskState.COMPLETED else 1
                status(progress_words(task, context, history))
            if timeout is not None and waited >= timeout:
                out.failure(_unfinished(task_id, timeout))
                return 1
            time.sleep(POLL)


def _never_came(task_id: str, waited: float) -> TaskNotFound:
    return TaskNotFound(
        f"no task {task_id!r} appeared within {duration(waited)}",
        hint="Does the bridge run (`orchestrator doctor`)? Was it set aside (`orchestrator dead-letter list`)?",
        task_id=task_id,
    )


def _unfinished(task_id: str, timeout: float) -> Failure:
    return Failure(
        "watch_timeout",
        f"task {task_id!r} had not ended after {duration(timeout)}; it goes on",
        f"Look at it with `orchestrator task show {parts.quoted(task_id)}`, or follow it again.",
        task_id,
    )
