"""The work that every contender does: tasks of three steps, one agent call and one durable commit a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STEPS = 3
ROOT = Path(__file__).resolve().parent.parent

PREPARE = "CREATE TABLE IF NOT EXISTS bench (task_id text, step int, reply jsonb, PRIMARY KEY (task_id, step))"
COMMIT = "INSERT INTO bench (task_id, step, reply) VALUES (%s, %s, %s)"
"""The one commit a step of those without an engine."""


def fields() -> list[str]:
    """What a task must know in the end, one field a step."""
    return [f"f{number}" for number in range(1, STEPS + 1)]


def request_body(task_id: str, step: int, value: str) -> str:
    """What is posted to the agent: the same size as the orchestrator's own request."""
    return json.dumps(
        {"task": f"Provide f{step}.", "input": {"f": value}, "context": {"task_id": task_id, "step": step}}
    )


def agents_yaml(agent_url: str, delay: float = 0.0) -> dict[str, Any]:
    """A registry with one agent for each step; each needs what the one before it gives, so the steps are a chain."""
    entries = []
    for number in range(1, STEPS + 1):
        needs = "f0" if number == 1 else f"f{number - 1}"
        entries.append(
            {
                "name": f"agent{number}",
                "description": f"Gives f{number}.",
                "url": f"{agent_url}/{delay}",
                "requires": {"f": needs},
                "provides": {f"f{number}": "/value"},
                "input_schema": {"type": "object", "properties": {"f": {"type": "string"}}, "required": ["f"]},
                "idempotent": True,
            }
        )
    return {"agents": entries}


def report(**figures: Any) -> None:
    """A contender's last line: its figures, for the process that started it."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
