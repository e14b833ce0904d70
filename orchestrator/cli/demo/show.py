"""The show: several tasks followed at once, each decision and reply told as it happens, then what each task knows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.task.news import News, Watching
from orchestrator.domain.context import Context, Origin
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.errors import StoreUnavailable, TaskNotFound
from orchestrator.flow.ports import ReadStore

POLL = 0.15
"""Seconds between two looks."""

_STATE_STYLE = {
    TaskState.COMPLETED: "green",
    TaskState.FAILED: "red",
    TaskState.WAITING: "yellow",
    TaskState.COMPENSATING: "magenta",
}


class Show:
    """Follows tasks by their rows in PostgreSQL and tells what is new."""

    def __init__(self, store: ReadStore, console: Console) -> None:
        self.store = store
        self.console = console
        self._began = time.monotonic()
        self._watching: dict[str, Watching] = {}
        self._seen: dict[str, Task] = {}
        self._ended_after: dict[str, float] = {}
        self._width = 0
        self._state_told: dict[str, str] = {}

    def follow(
        self,
        task_ids: Sequence[str],
        *,
        patience: float,
        when_waiting_for_event: Callable[[str], None],
        check: Callable[[], None],
        meant_to_fail: Collection[str] = (),
    ) -> bool:
        """Tell of these tasks until all have ended.

        Args:
            task_ids: whom to follow.
            patience: seconds until the show ends anyway.
            when_waiting_for_event: called once for each task that begins to wait for an event.
            check: called at every look; raises to end the show.
            meant_to_fail: those that fail, and are undone, on purpose.

        Returns:
            Whether every task ended as it was meant to.
        """
        told_to_wait: set[str] = set()
        self._width = max(map(len, task_ids), default=0)
        with self._live(task_ids) as live:
            while time.monotonic() - self._began < patience:
                check()
                for task_id in task_ids:
                    self._look(task_id)
                    task = self._seen.get(task_id)
                    if task is not None and task.waits_for is WaitsFor.EVENT and task_id not in told_to_wait:
                        told_to_wait.add(task_id)
                        when_waiting_for_event(task_id)
                if live is not None:
                    live.update(self._table(task_ids))
                if len(self._ended_after) == len(task_ids):
                    break
                time.sleep(POLL)
        return all(
            task_id in self._seen and self._seen[task_id].state is _meant(task_id in meant_to_fail)
            for task_id in task_ids
        )

    def tell(self, task_id: str, text: str, style: str = "") -> None:
        """One line about one task."""
        clock = f"[dim]{time.monotonic() - self._began:6.1f} s[/]"
        body = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self.console.print(f"{clock}  [cyan]{escape(task_id.ljust(self._width))}[/]  {body}", soft_wrap=True)

    def contexts(self, task_ids: Sequence[str]) -> None:
        """What each task knows at its end, each value with who gave it."""
        for task_id in task_ids:
            if task_id not in self._seen:
                continue
            task, context = self._seen[task_id], self.store.context(task_id)
            self.console.print(_context_table(task, context, self._ended_after.get(task_id)))

    def _live(self, task_ids: Sequence[str]) -> AbstractContextManager[Live | None]:
        if not self.console.is_terminal:
            return nullcontext(None)
        return Live(self._table(task_ids), console=self.console, refresh_per_second=8, transient=True)

    def _look(self, task_id: str) -> None:
        if task_id in self._ended_after:
            return
        watching = self._watching.setdefault(task_id, Watching())
        try:
            task = self.store.task(task_id)
            context, history = self.store.context(task_id), self.store.history(task_id)
            fresh = watching.look(task, context, history, self.store.updates(task_id, watching.last_update))
        except (TaskNotFound, StoreUnavailable):
            return
        self._seen[task_id] = task
        for news in fresh:
            self._tell_news(task_id, news)
        if task.state.is_terminal:
            self._ended_after[task_id] = time.monotonic() - self._began

    def _tell_news(self, task_id: str, news: News) -> None:
        data = news.data
        match news.event:
            case "decided":
                what = ", ".join(data["agents"]) or str(data["kind"]).replace("_", " ")
                if len(data["agents"]) > 1:
                    what += " (side by side)"
                self.tell(task_id, f"step {data['step']}: {what} - {data['reason']}")
            case "delegation" if data["state"] in {"succeeded", "failed", "unknown"}:
                took = f" after {data['seconds']:.1f} s" if data.get("seconds") is not None else ""
                detail = f": {data['error']}" if data.get("error") and data["state"] != "succeeded" else ""
                self.tell(task_id, f"        {data['agent']} {data['state']}{took}{detail}", "dim")
            case "delegation" if data["state"] == "compensated":
                self.tell(
                    task_id, f"        {data['agent']}: what it did in step {data['ref'].split('.')[0]} is undone"
                )
            case "delegation" if data.get("error"):
                self.tell(task_id, f"        {data['agent']}: {data['error']}; it is called again", "yellow")
            case "state" if data["state"] == "compensating":
                said = f"{data.get('reason') or 'a person asked for it'}"
                text = f"failed, and what was done is now undone, newest first (on_failure: undo): {said}"
                self._tell_state(task_id, text, _STATE_STYLE[TaskState.COMPENSATING])
            case "state" if data["state"] in {"waiting", "completed", "failed", "canceled"}:
                state = TaskState(data["state"])
                waits = f" for {data['waits_for']}" if data.get("waits_for") else ""
                reason = f": {data['reason']}" if data.get("reason") else ""
                self._tell_state(task_id, f"{state.value}{waits}{reason}", _STATE_STYLE.get(state, ""))

    def _tell_state(self, task_id: str, text: str, style: str) -> None:
        """Tell it once: several updates may say the same of a state, such as how many calls of it are still open."""
        if self._state_told.get(task_id) != text:
            self._state_told[task_id] = text
            self.tell(task_id, text, style)

    def _table(self, task_ids: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("task", "state", "step", "still missing"):
            table.add_column(column)
        for task_id in task_ids:
            task = self._seen.get(task_id)
            if task is None:
                table.add_row(escape(task_id), "[dim]on its way through Kafka[/]", "", "")
                continue
            waits = f" for {task.waits_for.value}" if task.waits_for else ""
            style = _STATE_STYLE.get(task.state, "")
            state = f"[{style}]{task.state.value}{waits}[/]" if style else f"{task.state.value}{waits}"
            missing = "" if task.state.is_terminal else ", ".join(self.store.context(task_id).missing_fields)
            table.add_row(escape(task_id), state, str(task.next_step), escape(missing))
        return table


def _meant(to_fail: bool) -> TaskState:
    return TaskState.FAILED if to_fail else TaskState.COMPLETED


def _context_table(task: Task, context: Context, seconds: float | None) -> Table:
    took = f" after {seconds:.1f} s" if seconds is not None else ""
    style = _STATE_STYLE.get(task.state, "bold")
    title = f"{escape(task.task_id)}: [{style}]{task.state.value}[/]{took}, context version {context.version}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", expand=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value")
    table.add_column("given by", no_wrap=True)
    required = [name for name in context.required_fields if name in context.collected_data]
    for name in [*required, *sorted(set(context.collected_data) - set(required))]:
        value, mark = context.collected_data[name], "[bold]" if name in required else ""
        table.add_row(f"{mark}{escape(name)}", escape(_text(value)), escape(_giver(context.origins.get(name))))
    return table


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _giver(origin: Origin | None) -> str:
    if origin is None:
        return ""
    if origin.kind == "message":
        return "the task's message"
    step = f", step {origin.step}" if origin.step is not None else ""
    return f"{origin.kind} {origin.name}{step}"
