"""Bridge, workers, beat and what waits for them: as far as they show from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator

from orchestrator.cli import parts
from orchestrator.cli.doctor.report import Finding, ok, unknown, wrong
from orchestrator.settings import Settings


def check_bridge(settings: Settings) -> Iterator[Finding]:
    """Somebody is in the bridges' consumer group."""
    group = parts.bridge_group()
    behind = "" if group.behind is None else f", {group.behind} records not taken in yet"
    if group.members:
        yield ok("bridge", f"{group.members} in the group {settings.kafka_group_id}{behind}")
    else:
        yield wrong("bridge", f"none in the group {settings.kafka_group_id}{behind}", "Start one: python -m bridge")


def check_workers(settings: Settings) -> Iterator[Finding]:  # noqa: ARG001 - every check takes the settings
    """Some Celery worker answers a ping."""
    names = parts.ping_workers()
    if names:
        yield ok("workers", f"{len(names)} answer: {', '.join(sorted(names))}")
    else:
        yield wrong("workers", "none answers", "Start one: celery -A orchestrator worker")


def check_flow(settings: Settings) -> Iterator[Finding]:
    """Tasks that are due are taken up: where they stay due although the broker has room, nobody sweeps."""
    with parts.sweep_store() as store:
        due, waiting = store.undispatched(), parts.backlog()
        yield ok("tasks", f"{due} due, {waiting} step messages in the broker")
        held_back = [load for load in store.tenants() if load.held_back]
        for load in held_back:
            what = f"{load.due} tasks wait for one of its {load.in_flight} in flight to end: its cap is {load.cap}"
            yield unknown(f"tenant {load.tenant}", what, "As it was asked for; ORCHESTRATOR_TENANT_TASKS raises it.")
        if due <= sum(load.due for load in held_back):
            yield unknown("beat", "nothing is due that may start, so it cannot be seen whether it runs")
            return
        if waiting >= settings.dispatch_window:
            yield unknown("beat", "the broker is as full as ORCHESTRATOR_DISPATCH_WINDOW allows", "Start more workers.")
            return
        give_up_at = time.monotonic() + 2 * settings.sweep_interval + 1
        while time.monotonic() < give_up_at:
            time.sleep(0.2)
            if store.undispatched() < due:
                yield ok("beat", "due tasks are being dispatched")
                return
    yield wrong("beat", f"{due} tasks are due and none is dispatched", "Start it: celery -A orchestrator beat")
