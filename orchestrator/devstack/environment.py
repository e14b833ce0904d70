"""Keeping the user's own servers out: an embedded stack's children must never talk to anything but the stack."""

from __future__ import annotations

import os

from orchestrator.settings import Settings

_KEPT = (
    "ORCHESTRATOR_MODEL",
    "ORCHESTRATOR_VERBOSE",
    "ORCHESTRATOR_AGENTS",
    "ORCHESTRATOR_EVENTS",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
)
"""What a user's environment may set for the embedded stack; servers and topics are the stack's own."""


def forget_foreign_settings() -> None:
    """Drop every other setting from this process's environment, which children inherit."""
    for info in Settings.model_fields.values():
        name = str(info.alias)
        if name not in _KEPT:
            os.environ.pop(name, None)
            os.environ.pop(f"{name}_FILE", None)


def kept_settings() -> dict[str, str]:
    """The settings that the user's environment may set, where it does."""
    names = (*_KEPT, *(f"{name}_FILE" for name in _KEPT))
    return {name: os.environ[name] for name in names if os.environ.get(name)}
