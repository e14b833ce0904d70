"""What happens around a worker's life: refuse what cannot work before anything is taken, warm up, clean up."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery.signals import (
    beat_init,
    celeryd_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from orchestrator import __version__
from orchestrator.errors import ConfigurationError, StoreUnavailable
from orchestrator.logs import mask
from orchestrator.settings import get_settings
from orchestrator.wiring import build_planner, built_worker_parts, check_worker, close_worker_parts, worker_parts
from orchestrator.worker.processes import check_options, others, started_by

log = logging.getLogger(__name__)

WRONG_CONFIGURATION = 2
_GREEN = ("gevent", "eventlet")


@celeryd_init.connect  # type: ignore[untyped-decorator]  # celery ships no types
def begin(instance: Any = None, options: dict[str, Any] | None = None, **_: Any) -> None:
    """Refuse what cannot work, and fork the other processes before anything runs."""
    refuse_what_cannot_work(options)
    try:
        others.begin(instance, processes(), _load_planner)
    except Exception:
        # Celery would say so and go on, with fewer processes than were asked for.
        log.exception("worker.processes_not_begun")
        others.stop()
        raise SystemExit(1) from None


def processes() -> int:
    """How many this command is to be. One that was started again is one."""
    return get_settings().processes if started_by() is None else 1


def _load_planner() -> None:
    """Load the libraries of the settings' planner: what is large in a worker."""
    planner = build_planner(get_settings())
    for act in ("prepare", "close"):
        getattr(planner, act, lambda: None)()


def refuse_what_cannot_work(options: dict[str, Any] | None = None) -> None:
    """End the process with exit code 2 and a sentence, where settings, files, tables or the pool are wrong."""
    pool = str((options or {}).get("pool_cls") or (options or {}).get("pool") or "")
    try:
        if any(green in pool for green in _GREEN):
            raise ConfigurationError(
                f"the pool {pool} is refused: psycopg2 and requests would block it, and it loses acknowledgements",
                hint="Leave --pool out: the default runs steps in threads. "
                "Scale with --concurrency, --autoscale MAX,MIN, Flower's Grow, or more workers.",
            )
        check_options(processes(), options or {})
        check_worker(get_settings())
    except ConfigurationError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        sys.stderr.write(mask(f"orchestrator worker: {error}{hint}\n"))
        raise SystemExit(WRONG_CONFIGURATION) from None
    except StoreUnavailable as error:
        # It may come back: steps wait for it, and so may the worker.
        log.warning("worker.database_away", extra={"why": str(error)})


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery ships no types
def warm_up(sender: Any = None, **_: Any) -> None:
    """Build everything before the first step asks for it; on prefork the children do so themselves."""
    others.ready()
    pool = getattr(getattr(sender, "controller", None), "pool", None) or getattr(sender, "pool", None)
    if "prefork" not in type(pool).__module__:
        worker_parts()
    log.info("worker.ready", extra={"version": __version__, "model": get_settings().model})


@beat_init.connect  # type: ignore[untyped-decorator]  # celery ships no types
def quieten_beat(sender: Any = None, **_: Any) -> None:
    """Say once that beat works; it sends a sweep every few seconds from then on, which nobody wants to see."""
    if sender is not None:
        sender.app.conf.task_send_sent_event = False
    log.info("beat.ready", extra={"version": __version__, "sweep_every_seconds": get_settings().sweep_interval})


@worker_process_init.connect  # type: ignore[untyped-decorator]  # celery ships no types
def warm_up_child(**_: Any) -> None:
    """A prefork child builds its own adapters: connections do not survive a fork."""
    worker_parts()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # celery ships no types
def stop_in_time(**_: Any) -> None:
    """Begin nothing new, and be gone when the stop period is over. Called by the signal handler."""
    others.stop()
    if (parts := built_worker_parts()) is not None:
        parts.drain.begin()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # celery ships no types
@worker_process_shutdown.connect  # type: ignore[untyped-decorator]  # celery ships no types
def clean_up(**_: Any) -> None:
    """Close connections; the first process is the last to go."""
    others.stop()
    close_worker_parts()
    others.wait(get_settings().stop_period)
