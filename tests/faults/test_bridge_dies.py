"""Bridges that die by kill -9 around a commit, the offsets, a doorbell, and around publishing; a rewind that does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import defaultdict

import pytest

from orchestrator.devstack.process import Restart
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.intake_seen import accepted, assert_each_taken_once, execute, unpublished
from tests.support.processes import clean_environment, wait_for
from tests.support.system import System

INTAKE = (FaultPoint.BRIDGE_DECODED, FaultPoint.BRIDGE_COMMITTED, FaultPoint.BRIDGE_OFFSETS_SENT)
PUBLISHING = (FaultPoint.OUTBOX_READ, FaultPoint.OUTBOX_SENT)


def test_a_bridge_killed_anywhere_takes_each_record_once_and_publishes_each_update(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_STALL": "1"}
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=True)
    pay = {"name": "pay", "description": "Pays.", "url": scripted_agent.url("/pay"), "provides": ["pay"]}
    system.use_agents({**pay, "idempotent": True})
    system.start("worker", "beat")
    ids = [f"task-{number}" for number in range(10)]
    for task_id in ids:
        system.produce_task(task_id, required_fields=["pay"])
    system.producer.flush()
    armed = faults.arm(*(f"{point}:kill" for point in (*INTAKE, *PUBLISHING)))
    bridge = system.start_one("bridge", **armed)
    bridge.set_restart(Restart(first=0.1, most=0.5))
    for point in (*INTAKE, *PUBLISHING):
        faults.wait_for(point)

    system.wait_for_all(ids)
    wait_for(lambda: unpublished(system.store) == 0, 60.0, "all updates are published")
    assert {len(faults.fired(point)) for point in (*INTAKE, *PUBLISHING)} == {1}
    wait_for(lambda: bridge.running, what="the bridge is back")
    assert_each_taken_once(system.store, ids)
    effects = scripted_agent.ledger().effects
    assert len(effects) == len(ids)
    assert set(effects.values()) == {1}
    told: dict[str, list[str]] = defaultdict(list)
    committed = {task_id: [row.body["update_id"] for row in system.store.updates(task_id)] for task_id in ids}
    seen: set[str] = set()
    total = sum(map(len, committed.values()))
    for update in system.read("task-updates", total, counted_by=lambda update: update["update_id"]):
        if update["update_id"] not in seen:  # as a reader does
            seen.add(update["update_id"])
            told[update["task_id"]].append(update["update_id"])
    assert told == committed, "each change exactly once by its id, in order for each task"


def rewind_killed_before_the_group_knows(system: System, faults: Faults) -> list[str]:
    """Have tasks taken in, some of them forgotten, and PostgreSQL's offsets set back, not the group's; the tasks."""
    system.start("bridge")
    ids = [f"task-{number}" for number in range(10)]
    for task_id in ids:
        system.produce_task(task_id)
    system.producer.flush()
    wait_for(lambda: accepted(system.store) == len(ids), what="the tasks are taken in")
    system.processes.stop_all()
    for table in ("outbox", "context_versions", "task_contexts", "inbox", "tasks"):
        execute(system.store, f"DELETE FROM {table} WHERE task_id = ANY(:lost)", lost=ids[:5])
    died = subprocess.run(
        [sys.executable, "-m", "bridge", "rewind", "--topic", "tasks", "--to-beginning", "--why", "a restore"],
        cwd=system.folder,
        env={**clean_environment(), **system.env, **faults.arm(f"{FaultPoint.REWIND_WRITTEN}:kill")},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    return ids


def test_a_rewind_killed_before_the_group_knows_is_read_again_all_the_same(system: System, faults: Faults) -> None:
    ids = rewind_killed_before_the_group_knows(system, faults)
    # Killed, it is a member of the group until its session ends; a bridge waits for that by itself.
    system.start("bridge")
    wait_for(lambda: accepted(system.store) == len(ids), 60.0, "what was lost is taken in again")
    assert_each_taken_once(system.store, ids)


@pytest.mark.parametrize("point", [FaultPoint.BRIDGE_SET_BACK, FaultPoint.BRIDGE_COMMITTED])
def test_a_bridge_killed_as_it_begins_where_a_person_set_it_back_is_no_sign_of_a_restore(
    system: System, faults: Faults, point: FaultPoint
) -> None:
    ids = rewind_killed_before_the_group_knows(system, faults)
    bridge = system.start_one("bridge", BRIDGE_BATCH="2", **faults.arm(f"{point}:kill"))
    bridge.set_restart(Restart(first=0.1, most=0.5))
    faults.wait_for(point)
    wait_for(lambda: accepted(system.store) == len(ids), 60.0, "what was lost is taken in again")
    assert_each_taken_once(system.store, ids, restores=0)
