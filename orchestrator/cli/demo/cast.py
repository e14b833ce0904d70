"""Who plays: the processes of `orchestrator dev` beside its servers, with their commands and environment."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.devstack.environment import kept_settings
from orchestrator.devstack.ports import free_port
from orchestrator.errors import DevStackError


@dataclass(frozen=True, slots=True)
class Member:
    """One process."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cast:
    """All of them, and where they can be reached."""

    members: tuple[Member, ...]
    env: Mapping[str, str]
    """What every process of ours needs besides the servers' addresses."""
    examples: Path
    agents_url: str
    flower_url: str
    plays_scenario: bool


def choose_cast() -> Cast:
    """The processes to run beside the servers.

    ``ORCHESTRATOR_MODEL``, ``ORCHESTRATOR_AGENTS`` and ``ORCHESTRATOR_EVENTS`` of the user's environment count; without
    them the rules planner, the sample agents and the sample event types do.

    Raises:
        DevStackError: the examples are not installed.
    """
    package = _examples_package()
    examples = _folder_of(package)
    agents_port, flower_port = free_port(), free_port(5555)
    agents_url = f"http://127.0.0.1:{agents_port}"
    kept = kept_settings()
    own_agents, own_events = kept.get("ORCHESTRATOR_AGENTS"), kept.get("ORCHESTRATOR_EVENTS")
    env = {
        "ORCHESTRATOR_MODEL": kept.get("ORCHESTRATOR_MODEL", "rules:"),
        "ORCHESTRATOR_AGENTS": str(Path(own_agents).absolute()) if own_agents else str(examples / "agents.yaml"),
        "ORCHESTRATOR_EVENTS": str(Path(own_events).absolute()) if own_events else str(examples / "events.yaml"),
        "ORCHESTRATOR_SWEEP_INTERVAL": "0.5",
        "ORCHESTRATOR_CONCURRENCY": "20",
        "SAMPLE_AGENTS_URL": agents_url,
        "FLOWER_PORT": str(flower_port),
    }
    celery = (sys.executable, "-m", "celery", "-A", "orchestrator")
    members = (
        Member("agents", (sys.executable, "-m", f"{package}.agents", "--port", str(agents_port))),
        Member("bridge", (sys.executable, "-m", "bridge"), env),
        Member("worker", (*celery, "worker", "--without-gossip", "--without-mingle"), env),
        Member("beat", (*celery, "beat"), env),
        Member("flower", (*celery, "flower"), env),
    )
    return Cast(
        members=members,
        env=env,
        examples=examples,
        agents_url=agents_url,
        flower_url=f"http://127.0.0.1:{flower_port}",
        plays_scenario=own_agents is None and own_events is None,
    )


def _examples_package() -> str:
    """``examples`` in a checkout, ``orchestrator._examples`` in an installed wheel."""
    for name in ("orchestrator._examples", "examples"):
        if importlib.util.find_spec(name) is not None:
            return name
    raise DevStackError("the sample agents are not installed", hint="Install the project from its wheel or a checkout.")


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DevStackError(f"{package} is not a package folder", hint="Install the project anew.")
    return Path(next(iter(spec.submodule_search_locations)))
