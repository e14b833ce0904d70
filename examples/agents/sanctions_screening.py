"""Sanctions screening: compares a company's name with lists of sanctioned ones.

Its output is nested, as replies of real services are: agents.yaml says with JSON pointers what to take from where.
"""

from __future__ import annotations

from typing import Any

from ._server import Agent, Call, serve

LISTS = {
    "EU": ["Delta Marine Trading FZE", "Blackwater Freight SA"],
    "UN": ["Delta Marine Trading FZE"],
    "US": ["Blackwater Freight SA", "Orion Dual Use Inc"],
}


def screen(call: Call) -> dict[str, Any]:
    """Whether a legal name is on a list, and on which."""
    name = call.text("legal_name").casefold()
    hits = [title for title, names in LISTS.items() if name in (listed.casefold() for listed in names)]
    return {"result": {"status": "hit" if hits else "clear", "hits": hits}, "lists": sorted(LISTS)}


agent = Agent("sanctions_screening", screen)

if __name__ == "__main__":
    serve(agent)
