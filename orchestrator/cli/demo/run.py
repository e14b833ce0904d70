"""`orchestrator dev`: the whole product on this machine: embedded servers, sample agents, bridge, worker, beat, Flower.

It plays the sample scenario once, showing each decision as it is made. With ``demo`` it then stops everything; without,
it stays up until Ctrl-C and says how to go on by hand.
"""

from __future__ import annotations

import secrets
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.cli.demo.cast import Cast, choose_cast
from orchestrator.cli.demo.scenario import Scenario
from orchestrator.cli.demo.show import Show
from orchestrator.devstack.environment import forget_foreign_settings, kept_settings
from orchestrator.devstack.process import log_tail
from orchestrator.devstack.stack import DEFAULT_DATA_DIR, EmbeddedStack
from orchestrator.errors import DevStackError
from orchestrator.settings import Settings, read_settings
from orchestrator.wiring import closing_store, upgrade_database

SCENARIO_PATIENCE = 120.0
"""Seconds the sample tasks may take before the show is called a failure."""


def run_dev(*, demo: bool, data_dir: Path | None = None, console: Console | None = None) -> int:
    """Run the stack and the scenario; returns the exit code (0: every sample task finished).

    Args:
        demo: stop after the scenario instead of staying up.
        data_dir: where the servers keep their data; default `DEFAULT_DATA_DIR` in the present folder.
        console: where to print; default standard output.

    Raises:
        DevStackError: a server or process could not be started; everything that had started is stopped.
    """
    console = console or Console(highlight=False)
    started_at = time.monotonic()
    forget_foreign_settings()
    console.print("[bold]Agent Orchestrator[/] on this machine: embedded servers, sample agents, no key needed.\n")

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started_at:6.1f} s[/]  {escape(text)}")

    with EmbeddedStack(data_dir or DEFAULT_DATA_DIR, progress=say) as stack:
        cast = choose_cast()
        settings = read_settings({**kept_settings(), **stack.env(), **cast.env}, dotenv=None)
        say("bringing the database up to date")
        upgrade_database(settings)
        for member in cast.members:
            stack.supervise(member.name, member.argv, member.env, cwd=stack.data_dir)
        env_file = _write_env_file(stack, cast)
        say("started sample agents, bridge, worker, beat and Flower")
        _wait_for(f"{cast.agents_url}/health", stack, "sample agents")
        scenario = Scenario.load(cast.examples, settings, suffix=f"-{secrets.token_hex(2)}")
        code = _play(scenario, settings, cast, stack, console)
        _wait_for(f"{cast.flower_url}/healthcheck", stack, "Flower")
        _say_where_to_look(console, cast, scenario, stack, env_file, staying=not demo)
        if not demo:
            _stay(console)
        say("stopping everything")
    console.print("[dim]Stopped; nothing is left running.[/]")
    return code if demo else 0


def _play(scenario: Scenario, settings: Settings, cast: Cast, stack: EmbeddedStack, console: Console) -> int:
    """Produce the scenario and show it; returns the exit code."""
    if not cast.plays_scenario:
        console.print(
            "Your own agents or event types are loaded (ORCHESTRATOR_AGENTS, ORCHESTRATOR_EVENTS), so the sample "
            "scenario is left out."
        )
        return 0
    console.print("\n[bold]Business tasks, produced to the Kafka topic `tasks`[/]")
    scenario.produce_tasks(console)
    with closing_store(settings) as store:
        show = Show(store, console)
        console.print("[bold]What happens[/] [dim](bridge and worker take a few seconds to start)[/]")
        finished = show.follow(
            scenario.task_ids,
            patience=SCENARIO_PATIENCE,
            when_waiting_for_event=lambda task_id: scenario.produce_events_for(
                task_id, lambda text: show.tell(task_id, text, "magenta")
            ),
            check=lambda: _check_processes(stack),
            meant_to_fail=scenario.meant_to_fail,
        )
        console.print("\n[bold]What each task knows now, and who gave it[/] (required fields in bold)")
        show.contexts(scenario.task_ids)
    if not finished:
        console.print(f"[red]Not every task ended as it was meant to.[/] Logs: {escape(str(stack.logs))}")
    return 0 if finished else 1


def _check_processes(stack: EmbeddedStack) -> None:
    """Raise where a process keeps dying instead of letting the user wait for nothing."""
    for process in stack.processes:
        if process.restarts >= 3:
            raise DevStackError(
                f"{process.name} was started {process.restarts + 1} times and keeps ending; the end of its log:\n"
                f"{log_tail(process.log)}",
                hint=f"See {process.log} for all of it.",
            )


def _wait_for(url: str, stack: EmbeddedStack, what: str, patience: float = 60.0) -> None:
    give_up_at = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError) as error:
            _check_processes(stack)
            if time.monotonic() > give_up_at:
                raise DevStackError(
                    f"{what} did not answer at {url} within {patience:.0f} s: {error}", hint=f"See {stack.logs}."
                ) from error
        time.sleep(0.1)


def _write_env_file(stack: EmbeddedStack, cast: Cast) -> Path:
    """Exports for another terminal; it holds the servers' passwords, so only its owner may read it."""
    path = stack.data_dir / "dev.env"
    values: Mapping[str, str] = {**stack.env(), **cast.env}
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


def _say_where_to_look(
    console: Console, cast: Cast, scenario: Scenario, stack: EmbeddedStack, env_file: Path, *, staying: bool
) -> None:
    console.print("\n[bold]Where to look on[/]")
    if not staying:
        console.print("  `make dev` does the same and keeps everything up. Then:")
    console.print(f"  Flower, every step as a Celery task:  {cast.flower_url}/tasks")
    console.print(f"  Logs of each process:                 {escape(_short(stack.logs))}", soft_wrap=True)
    console.print("  Commands to try, in another terminal:")
    console.print(f"    . {escape(shlex.quote(_short(env_file)))}", soft_wrap=True)
    known = scenario.task_ids[0] if cast.plays_scenario else "ID"
    for command in (
        "orchestrator task list",
        f"orchestrator task show {known}",
        "orchestrator task submit 'Check Lumen Optik AG' --require credit_score "
        "--data company_name='Lumen Optik AG' --watch",
        "orchestrator doctor",
    ):
        console.print(f"    {escape(command)}", soft_wrap=True)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _stay(console: Console) -> None:
    console.print("\n[bold]Ctrl-C stops everything.[/]")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print()
