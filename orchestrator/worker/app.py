"""The Celery app: ``celery -A orchestrator …`` finds it as ``orchestrator.app``.

It reads ``celeryconfig.py`` when it is first used. Loading it builds no adapter and connects to nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery
from celery.signals import setup_logging

from orchestrator import fault_points, logs
from orchestrator.errors import ConfigurationError
from orchestrator.settings import get_settings
from orchestrator.worker.events import BufferedEvents
from orchestrator.worker.guard import (
    guard_channels,
    guard_reconnecting,
    pack_waiting_once,
    poll_only_on_change,
    share_clients,
)
from orchestrator.worker.pool import use_our_threads


def make_app() -> Celery:
    """The one app of this process.

    A wrong setting ends the process here, with our error on standard error and exit code 2: Celery's command line would
    show a traceback or take another app.
    """
    try:
        settings = get_settings()
        fault_points.arm(settings.faults, settings.faults_folder)
    except ConfigurationError as error:
        if not _is_celery_command():
            raise
        hint = f"\n{error.hint}" if error.hint else ""
        sys.stderr.write(f"orchestrator: {error}{hint}\n")
        raise SystemExit(2) from None
    guard_channels()
    guard_reconnecting()
    share_clients()
    pack_waiting_once()
    poll_only_on_change()
    use_our_threads()
    app = Celery("orchestrator", set_as_current=True)
    app.config_from_object("celeryconfig")
    app.steps["consumer"].add(BufferedEvents)
    if "flower.options" in sys.modules:
        from orchestrator.worker.flower import set_defaults

        set_defaults(settings)
    return app


def _is_celery_command() -> bool:
    return "celery.bin.celery" in sys.modules


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery ships no types
def _our_logging(**_: Any) -> None:
    """Connected: Celery leaves logging to us, in all its commands."""
    logs.configure(get_settings())


app = make_app()
