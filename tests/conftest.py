"""What every test may use."""

from __future__ import annotations

pytest_plugins = ["tests.support.agents", "tests.support.llm", "tests.support.stack"]
