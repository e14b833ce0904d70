"""A worker that goes straight on: seen in Celery's events as one Celery task a step, and killed between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from orchestrator.fault_points import FaultPoint
from tests.faults.test_worker_dies import AGAIN, entry, states_told
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.processes import wait_for
from tests.support.system import System

KILLED = "dies-going-on"


@contextmanager
def captured(system: System) -> Iterator[list[dict[str, Any]]]:
    """Celery's events, as Flower gets them, as long as the context lasts."""
    app = Celery("watcher", broker=system.env["REDIS_URL"])
    app.conf.broker_transport_options = {"global_keyprefix": system.settings.redis_key_prefix}
    events: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})

        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        try:
            yield events
        finally:
            receiver.should_stop = True
            thread.join()
    app.close()


def test_steps_done_straight_on_are_seen_and_a_kill_between_them_loses_and_repeats_nothing(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5", "ORCHESTRATOR_STRAIGHT_ON": "30"}
    for name in ("pay", "book"):
        scripted_agent.script(f"/{name}", reply({name: f"{name}-1"}), idempotent=True)
    system.use_agents(
        entry(scripted_agent, "pay", idempotent=True), entry(scripted_agent, "book", idempotent=True, requires=["pay"])
    )
    worker = system.start_worker(1, **faults.arm(f"{FaultPoint.STEP_GONE_ON}:kill:only={KILLED}"))
    worker.set_restart(AGAIN)
    system.start("bridge", "beat")

    with captured(system) as events:
        system.produce_task("seen", required_fields=["pay", "book"])
        system.wait_for_state("seen", "completed")

        def ended() -> list[dict[str, Any]]:
            return [one for one in events if one["type"] == "task-succeeded" and one["uuid"].startswith("seen:")]

        wait_for(lambda: len(ended()) == 2, 30, "both steps are told as succeeded")
    by_kind = {
        kind: {one["uuid"].split(":")[1]: one for one in events if one["type"] == kind and one["uuid"][:5] == "seen:"}
        for kind in ("task-sent", "task-received", "task-started", "task-succeeded")
    }
    # The second was sent by nobody.
    assert sorted(by_kind.pop("task-sent")) == ["1"]
    assert {kind: sorted(found) for kind, found in by_kind.items()} == {kind: ["1", "2"] for kind in by_kind}
    first, second = by_kind["task-received"]["1"], by_kind["task-received"]["2"]
    assert (second["root_id"], second["parent_id"]) == ("seen", first["uuid"])
    assert "'task_id': 'seen'" in second["kwargs"]
    assert by_kind["task-succeeded"]["2"]["result"] == "'completed'"

    system.produce_task(KILLED, required_fields=["pay", "book"])
    faults.wait_for(FaultPoint.STEP_GONE_ON)
    system.wait_for_state(KILLED, "completed")
    for name in ("pay", "book"):
        assert len([one for one in scripted_agent.ledger().posts(f"/{name}") if one.key.startswith(KILLED)]) == 1
    assert states_told(system, KILLED) == [("received", 1), ("processing", 2), ("completed", 2)]
    assert [found.step.number for found in system.store.history(KILLED)] == [1, 2]
