"""`orchestrator agent …`: the registry (agents.yaml), and whether the agents answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Group, pass_output
from orchestrator.cli.failures import FAILED
from orchestrator.cli.output import Output, Part, shortened
from orchestrator.cli.shapes import agent_json
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.limits import LimitState
from orchestrator.errors import NotAllowed


@click.group(cls=Group)
def agent() -> None:
    """Look at the registry of agents and at their health."""


@agent.command("list", examples=["agent list", "agent list --json | jq -r '.agents[] | select(.enabled) | .name'"])
@pass_output
def list_agents(out: Output) -> None:
    """List the agents of agents.yaml.

    What each provides and requires, whether it has side effects, and whether a call whose reply is lost may be
    repeated; its limits, and how much of them is in use over all workers, as far as Redis tells.
    """
    agents = parts.agents()
    states = parts.limit_states(agents)
    if out.as_json:
        out.document({"agents": [agent_json(one, states.get(one.name)) for one in agents]})
        return
    out.table(
        ["agent", "provides", "requires", "side effects", "repeats safely", "limits", "now", "enabled"],
        [
            (
                (one.name, "bold"),
                ", ".join(one.provides) or "–",
                ", ".join(one.required_context_fields()) or "–",
                _yes(one.side_effects),
                _yes(one.may_repeat),
                _limits(one),
                _now(states.get(one.name)),
                ("yes", "green") if one.enabled else ("no", "yellow"),
            )
            for one in agents
        ],
    )


@agent.command(examples=["agent check", "agent check credit_score"])
@click.argument("name", required=False)
@pass_output
def check(out: Output, name: str | None) -> int:
    """Ask whether agents are well.

    Asks the health address of every enabled agent, or of the agent NAME. Exit code 1 if one is away. An agent
    without a health address cannot be asked, which is no fault. Tells besides whether calls to it are held back
    because many failed in a row (its breaker is open), which counts as away.
    """
    agents = [one for one in parts.agents() if (one.enabled if name is None else one.name == name)]
    if not agents and name is not None:
        raise NotAllowed(
            f"agents.yaml has no agent {name!r}", hint="`orchestrator agent list` shows those that it has."
        )
    answers = health(agents)
    states = parts.limit_states(agents)
    breakers = {one.name: _breaker(states.get(one.name)) for one in agents}
    if out.as_json:
        out.document(
            {
                "agents": [
                    {"name": one, "healthy": healthy, "answer": answer, "breaker": breakers[one]}
                    for one, (healthy, answer) in answers.items()
                ]
            }
        )
    else:
        rows = [
            ((one, "bold"), _verdict(healthy), breakers[one] or "not known", shortened(answer, 200))
            for one, (healthy, answer) in answers.items()
        ]
        out.table(["agent", "health", "breaker", "answer"], rows)
    away = any(healthy is False for healthy, _ in answers.values())
    return FAILED if away or "open" in breakers.values() else 0


def health(agents: Sequence[AgentSpec]) -> Mapping[str, tuple[bool | None, str]]:
    """Ask all at the same time: name → (healthy, what was answered); None where there is no address to ask."""
    asked = [one for one in agents if one.health]
    with parts.agent_client() as client, ThreadPoolExecutor(max_workers=16) as pool:
        answers = dict(zip((one.name for one in asked), pool.map(client.check, asked), strict=True))
    return {one.name: answers.get(one.name, (None, "no health address in agents.yaml")) for one in agents}


def _limits(agent: AgentSpec) -> str:
    most, rate = agent.limits.max_concurrency, agent.limits.rate
    found = [f"{most} at once" if most else "", f"{rate:g}/s" if rate else ""]
    return ", ".join(one for one in found if one) or "–"


def _now(state: LimitState | None) -> Part:
    if state is None:
        return ("not known", "dim")
    if state.open_for is not None:
        return (f"breaker open, {state.waiting} wait", "red")
    return f"{state.in_flight} in flight, {state.waiting} wait" if state.in_flight or state.waiting else "–"


def _breaker(state: LimitState | None) -> str | None:
    if state is None:
        return None
    return "closed" if state.open_for is None else "open"


def _verdict(healthy: bool | None) -> Part:
    if healthy is None:
        return ("not known", "dim")
    return ("ok", "green") if healthy else ("away", "red")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
