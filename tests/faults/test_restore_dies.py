"""A process that dies as it marks that PostgreSQL is older: the next one does so before it calls anybody."""

from __future__ import annotations

from orchestrator.devstack.process import Restart
from orchestrator.domain.task import WaitsFor
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.intake_seen import execute, scalar
from tests.support.processes import wait_for
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
