"""Waits on the real stack: by the guide alone, through kills and an emptied Redis."""

from __future__ import annotations

import redis

from tests.support.documents import commands, save_files, type_in
from tests.support.processes import wait_for
from tests.support.system import System


def test_a_wait_by_the_guide_alone_with_everything_killed_in_between(system: System) -> None:
    document = "docs/waiting.md"
    save_files(document, system.folder, {})
    system.env["ORCHESTRATOR_EVENTS"] = str(system.folder / "events.yaml")
    bridge, worker = system.start_one("bridge"), system.start_one("worker")
    system.start("beat")
    export, submit, show, other, delivered = commands(document)
    assert export.startswith("export")
    type_in(submit, system.folder, system.env)
    system.wait_for_state("parcel-7", "waiting")
    shown = type_in(show, system.folder, system.env)
    assert "waiting for the event parcel.reported" in shown and "/parcel = P-7" in shown

    bridge.kill()
    worker.kill()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as broker:
        broker.flushdb()
    system.start("bridge", "worker")

    type_in(other, system.folder, system.env)
    wait_for(lambda: system.data("parcel-7").get("status") == "lost", what="the other parcel's event is merged")
    task = system.wait_for_state("parcel-7", "waiting")
    assert task.wait["event_type"] == "parcel.reported" and task.wait["match"] == {"/parcel": "P-7"}
    assert task.wait["timeout_code"] == "parcel_lost"
    assert "completed" in type_in(delivered, system.folder, system.env)
    assert system.data("parcel-7")["delivered_at"] == "2026-11-24"
    # The other parcel's event asked nobody: one wait, and the end.
    assert len(system.store.history("parcel-7")) == 2
