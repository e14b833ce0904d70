"""What people do to tasks: which ones they mean, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from orchestrator.domain.task import TaskState
from orchestrator.domain.value import Value


class TaskFilter(Value, frozen=True):
    """Which tasks; what is None (or empty) does not narrow."""

    states: tuple[TaskState, ...] = ()
    reason: str | None = None
    """Reason code, such as ``agent_down``."""
    since: timedelta | None = None
    """Changed within this time."""
    tenant: str | None = None
    agent: str | None = None
    """Called in the task's present step."""
    paused: bool | None = None
    doubted: bool | None = None


class AuditEntry(Value, frozen=True):
    """One thing that a person did."""

    at: datetime
    who: str
    what: str
    why: str
    details: Mapping[str, Any]
