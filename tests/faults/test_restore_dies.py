"""A process that dies as it marks that PostgreSQL is older: the next one does so before it calls anybody."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from orchestrator.devstack.process import Restart
from orchestrator.domain.task import WaitsFor
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.intake_seen import accepted, assert_each_taken_once, execute, scalar
from tests.support.own_servers import own_servers, product_on
from tests.support.processes import wait_for
from tests.support.set_back import SetBack
from tests.support.system import System


def test_a_worker_killed_as_it_marks_a_restore_is_followed_by_one_that_does_and_nobody_is_called(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    url = scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=False)
    system.use_agents({"name": "pay", "description": "Pays.", "url": url, "provides": ["pay"], "side_effects": True})
    system.start("bridge")
    system.produce_task("t-1", required_fields=["pay"])
    system.wait_for_state("t-1", "received")
    system.processes.stop_all()

    execute(system.store, "UPDATE server_state SET timeline = '000000FF'")
    worker = system.start_one("worker", **faults.arm(f"{FaultPoint.RESTORE_MARKED}:kill"))
    worker.set_restart(Restart(first=0.1, most=0.5))
    faults.wait_for(FaultPoint.RESTORE_MARKED)
    system.start("beat")
    assert system.wait_for_state("t-1", "waiting").waits_for is WaitsFor.PERSON
    assert scripted_agent.ledger().posts("/pay") == []
    assert scalar(system.store, "SELECT count(*) FROM restores") == 1
    wait_for(lambda: worker.running, what="the worker is back")


def has_taken(system: System, count: int) -> bool:
    return accepted(system.store) == count


@pytest.mark.parametrize("known", [0, 6])
def test_a_bridge_killed_as_it_reads_again_what_was_forgotten_notes_no_second_restore(
    system: System, tmp_path: Path, faults: Faults, known: int
) -> None:
    """On a broker that keeps nothing beside an offset, as the one of tests: only where the group stands tells."""
    ids = [f"task-{number}" for number in range(known + 12)]
    with own_servers(tmp_path, fsync="off") as stack, product_on(stack, system) as own:
        older = SetBack(stack.postgres)
        for upto in (known, len(ids)):
            own.start("bridge")
            for task_id in ids[accepted(own.store) : upto]:
                own.produce_task(task_id)
            own.producer.flush()
            wait_for(partial(has_taken, own, upto), 60.0, f"{upto} tasks are taken in")
            own.processes.stop_all()
            if upto == known:
                older.keep()
        older.put_back()
        bridge = own.start_one("bridge", BRIDGE_BATCH="1", **faults.arm(f"{FaultPoint.BRIDGE_COMMITTED}:kill"))
        bridge.set_restart(Restart(first=0.1, most=0.5))
        faults.wait_for(FaultPoint.BRIDGE_COMMITTED)
        wait_for(lambda: accepted(own.store) == len(ids), 60.0, "what was forgotten is taken in again")
        assert_each_taken_once(own.store, ids, restores=1)
        assert scalar(own.store, "SELECT count(*) FROM read_before") == 0, "it is read again"
