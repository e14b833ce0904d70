"""A person's word on a delegation whose outcome nobody else can tell."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from orchestrator.domain.value import Value


class Outcome(StrEnum):
    """What became of it."""

    SUCCEEDED = "succeeded"
    """The agent acted; its reply is entered by hand."""
    NEVER_HAPPENED = "never_happened"
    """The agent has not acted and will not: it is called again under the same key."""
    FAILED = "failed"
    """The agent tried and could not: the step fails."""


class Resolution(Value, frozen=True):
    """The word, with the reply where there is one."""

    outcome: Outcome
    reply: Any = None
