"""Which agents go into a question, where the registry has more than a prompt should hold. Pure and deterministic.

First those that lead to a missing field: its providers, then the providers of what these need, and so on, nearest
first. Then those whose words the task's description shares, most first. Of equals, the registry's order. Those chosen
keep the registry's order among themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context, has_value

_WORD = re.compile(r"\w{3,}")


def select_agents(
    agents: Sequence[AgentSpec], context: Context, description: str, most: int | None
) -> Sequence[AgentSpec]:
    """At most ``most`` of the agents; None: all of them."""
    if most is None or len(agents) <= most:
        return agents
    distance = _distances(agents, context)
    wanted = _words(f"{description} {' '.join(context.missing_fields)}")
    far = len(agents) + 1

    def rank(place: int) -> tuple[int, int, int]:
        agent = agents[place]
        said = _words(f"{agent.name} {agent.description} {' '.join(agent.provides)}")
        return (distance.get(agent.name, far), -len(wanted & said), place)

    chosen = sorted(range(len(agents)), key=rank)[:most]
    return [agents[place] for place in sorted(chosen)]


def _distances(agents: Sequence[AgentSpec], context: Context) -> dict[str, int]:
    """How many agents stand between each agent and a missing field; those that lead to none are not in it."""
    known = context.known_data
    found: dict[str, int] = {}
    fields = set(context.missing_fields)
    seen = set(fields)
    level = 0
    while fields:
        providers = [one for one in agents if one.name not in found and fields & one.provides.keys()]
        found |= dict.fromkeys((one.name for one in providers), level)
        needed = {name for one in providers for name in one.required_context_fields()}
        fields = {name for name in needed if name not in seen and not has_value(known.get(name))}
        seen |= fields
        level += 1
    return found


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.replace("_", " ").casefold()))
