"""What a person did, who and why: written in the commit that does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from orchestrator.store.engine import jsonb, text

_AUDIT = text("""
    INSERT INTO audit (who, what, why, task_id, details) VALUES (:who, :what, :why, :task_id, CAST(:details AS jsonb))
""")


def audit(
    connection: Connection, *, who: str, what: str, why: str, task_id: str | None, details: Mapping[str, Any]
) -> None:
    """Note what a person did."""
    parameters = {"who": who, "what": what, "why": why, "task_id": task_id, "details": jsonb(dict(details))}
    connection.execute(_AUDIT, parameters)
