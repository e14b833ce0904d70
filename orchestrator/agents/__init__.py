"""Agents: the registry of them, event types, and calling them over HTTP.

`registry` and `event_types` read the two files that users write; `http` calls agents by docs/agent-http-contract.md,
over `transport` (bounded exchanges) and `reply` (what an answer means). Below `transport` are `connections` (those at
rest), `wire` (HTTP as bytes) and `reading` (an answer from a socket).
"""

from orchestrator.agents.event_types import EventTypeRegistry
from orchestrator.agents.http import HttpAgentClient
from orchestrator.agents.registry import Registry

__all__ = ["EventTypeRegistry", "HttpAgentClient", "Registry"]
