"""Processes and agents of a storm: the real ones."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.devstack.process import ManagedProcess, Restart
from tests.chaos.cast import agents_yaml, events_yaml
from tests.chaos.plan import BEATS, WORKERS, Pace
from tests.chaos.servers import Servers
from tests.support.agents import AgentProcess
from tests.support.processes import clean_environment, wait_for
from tests.support.system import PROGRAMS

CONCURRENCY = 8
OF_ONE: Mapping[str, Mapping[str, str]] = {"worker1": {"ORCHESTRATOR_STRAIGHT_ON": "5"}}
"""Further settings of one process: one worker goes straight on, the other one step at a time."""

RESTART = Restart(first=0.2, most=1.0)
"""As a supervisor does it: systemd, Compose, Kubernetes."""


class Witness(AgentProcess):
    """The agents, and their ledger."""

    def __init__(self, seed: int, total: float) -> None:
        super().__init__("tests.chaos.agents_program", {"CHAOS_SEED": str(seed), "CHAOS_AGENT_TOTAL": str(total)})

    def ledger(self) -> list[dict[str, Any]]:
        """What each agent did under each key."""
        found: list[dict[str, Any]] = self._ask("GET", "/_ledger")
        return found

    def replies(self, start: int) -> list[dict[str, Any]]:
        """What is to be replied by events, from this one on."""
        found: list[dict[str, Any]] = self._ask("GET", f"/_replies?{start}")
        return found

    def calm(self) -> None:
        """No more bad behaviour."""
        self._ask("PUT", "/_calm")

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.url(path), method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@dataclass
class World:
    """Everything that runs."""

    servers: Servers
    witness: Witness
    env: Mapping[str, str]
    folder: Path
    processes: dict[str, ManagedProcess] = field(default_factory=dict)
    start_takes: float = 0.0
    """Seconds until a process works, when all start at once."""

    def start(self, name: str) -> ManagedProcess:
        """Start (again) a process by its name: ``worker1``, ``bridge``, ``second bridge``, ``beat2``…"""
        if name not in self.processes:
            program = name.strip("0123456789").split()[-1]
            argv = PROGRAMS[program][0]
            if program == "worker":
                argv = (*argv, "--hostname", f"{name}@%h", "--concurrency", str(CONCURRENCY))
            self.processes[name] = ManagedProcess(
                self.servers.keeper,
                name,
                argv,
                env={**clean_environment(), **self.env, **OF_ONE.get(name, {})},
                log=self.folder / f"{name.replace(' ', '-')}.log",
                cwd=self.folder,
                restart=RESTART,
            )
        self.processes[name].start()
        return self.processes[name]

    def log_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Process and line of every log, where the line is one of ours."""
        for name, process in self.processes.items():
            for path in (process.log.with_name(process.log.name + ".1"), process.log):
                if path.exists():
                    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                        if line.startswith("{"):
                            yield name, _json_or_nothing(line)

    def stop(self) -> None:
        """End the processes; the servers stay."""
        for process in self.processes.values():
            process.signal(signal.SIGTERM)
        for process in self.processes.values():
            process.stop()


def _json_or_nothing(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def running_world(folder: Path, seed: int, pace: Pace, servers: Servers) -> Iterator[World]:
    """Agents, two workers, two beats and a bridge, at work on these servers."""
    with Witness(seed, pace.agent_total) as witness:
        (folder / "agents.yaml").write_text(yaml.safe_dump(agents_yaml(witness.base_url, pace.agent_total)))
        (folder / "events.yaml").write_text(yaml.safe_dump(events_yaml()))
        env = {
            **servers.env,
            "ORCHESTRATOR_MODEL": "rules:",
            "ORCHESTRATOR_AGENTS": str(folder / "agents.yaml"),
            "ORCHESTRATOR_EVENTS": str(folder / "events.yaml"),
            "ORCHESTRATOR_LEASE": str(pace.lease),
            "ORCHESTRATOR_STALL": str(pace.stall),
            "ORCHESTRATOR_SWEEP_INTERVAL": str(pace.sweep),
            "ORCHESTRATOR_LOG_FORMAT": "json",
        }
        world = World(servers, witness, env, folder)
        try:
            began = time.monotonic()
            for name in ("bridge", *WORKERS, *BEATS):
                world.start(name)
            for name, process in world.processes.items():
                program = name.strip("0123456789")
                wait_for(lambda p=process, r=PROGRAMS[program][1]: r in p.log_text(), 120, f"{name} works")  # type: ignore[misc]  # defaults bind the loop's values
            world.start_takes = time.monotonic() - began
            yield world
        finally:
            world.stop()
