"""agents.yaml: which agents there are. Adding an agent is adding an entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.agents.entry import AgentEntry, fits_header
from orchestrator.agents.yaml_file import FileProblem, name_of, read_entries, report, validate
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.ids import digest
from orchestrator.errors import ConfigurationError, RegistryError
from orchestrator.settings import environment_value

_HINT = "Mend it, then `orchestrator agent list`; docs/adding-an-agent.md has every key."


class Registry:
    """The agents of one file, in its order. Implements `orchestrator.flow.ports.Agents`."""

    def __init__(self, agents: Sequence[AgentSpec], path: Path, file_digest: str) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self.path = path
        self.digest = file_digest
        """SHA-256 of the entries' content, 64 hex digits."""

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read and check the file.

        Raises:
            RegistryError: naming every problem at once, each with its agent and key.
        """
        try:
            entries = read_entries(path, "agents")
        except FileProblem as error:
            hint = "ORCHESTRATOR_AGENTS names the file. " + _HINT
            raise RegistryError(f"{path}: {error}", hint=hint) from error
        agents: list[AgentSpec] = []
        problems: list[str] = []
        names: set[str] = set()
        for position, entry in enumerate(entries, start=1):
            label = name_of(entry, position)
            model, wrong = validate(AgentEntry, entry)
            problems += [f"agent {label}: {problem}" for problem in wrong]
            if isinstance(name := entry.get("name"), str) and name in names:
                problems.append(f"agent {label}: the name appears twice")
            names.add(str(entry.get("name")))
            if model is not None:
                agents.append(model.spec())
        if problems:
            raise RegistryError(report(path, problems), hint=_HINT)
        return cls(agents, path, digest(entries))

    def get(self, name: str) -> AgentSpec | None:
        """The entry of this name, disabled ones included."""
        return self._agents.get(name)

    def all(self) -> Sequence[AgentSpec]:
        """Every entry, disabled ones included."""
        return tuple(self._agents.values())

    def enabled(self, allowed: Sequence[str] | None = None) -> Sequence[AgentSpec]:
        """Enabled entries; only those named in ``allowed`` where given."""
        return tuple(
            agent for agent in self._agents.values() if agent.enabled and (allowed is None or agent.name in allowed)
        )

    def check_secrets(self) -> None:
        """Make sure that every enabled agent's secret is there.

        Raises:
            RegistryError: naming the agents and the settings that are not set.
        """
        problems = []
        for agent in self.enabled():
            if agent.auth is None:
                continue
            try:
                value = environment_value(agent.auth.env)
            except ConfigurationError as error:
                problems.append(f"agent {agent.name!r}: {error}")
                continue
            if value is None:
                problems.append(f"agent {agent.name!r}: auth needs {agent.auth.env}, which is not set")
            elif agent.auth.type == "basic" and ":" not in value:
                problems.append(f"agent {agent.name!r}: {agent.auth.env} must be user:password")
            elif not fits_header(value):
                problems.append(f"agent {agent.name!r}: {agent.auth.env} has characters that no header may have")
        if problems:
            hint = "Set it in the environment or .env, or name a file by …_FILE; or disable the agent (enabled: false)."
            raise RegistryError(report(self.path, problems), hint=hint)
