"""Agent Orchestrator.

Importing this package is light. ``orchestrator.app`` is the Celery app, loaded when it is asked for: that is what
``celery -A orchestrator`` does.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in {"app", "celery"}:
        from orchestrator.worker.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
