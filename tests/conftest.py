"""What every test may use."""

from __future__ import annotations

# A module comes before those that import it, or pytest cannot rewrite its asserts.
pytest_plugins = [
    "tests.support.agents",
    "tests.support.llm",
    "tests.support.processes",
    "tests.support.raw_agent",
    "tests.support.faults",
    "tests.support.stack",
    "tests.support.stack_owner",
    "tests.support.step_world",
    "tests.support.store_world",
    "tests.support.system",
]
