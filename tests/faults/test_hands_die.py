"""A sweep and commands that die by kill -9 between what they write and what they send."""

from __future__ import annotations

import signal

from orchestrator.devstack.process import Restart
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.intake_seen import accepted
from tests.support.processes import wait_for
from tests.support.system import System


def use_pay(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=True)
    pay = {"name": "pay", "description": "Pays.", "url": scripted_agent.url("/pay"), "provides": ["pay"]}
    system.use_agents({**pay, "idempotent": True})


def test_a_sweep_killed_between_marking_and_ringing_is_made_up_for(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_STALL": "1"}
    use_pay(system, scripted_agent)
    ids = [f"unrung-{number}" for number in range(5)]
    for task_id in ids:
        system.produce_task(task_id, required_fields=["pay"])
    system.producer.flush()
    # A bridge that dies before it rings: only a sweep can.
    system.start_one("bridge", **faults.arm(f"{FaultPoint.BRIDGE_COMMITTED}:kill"))
    faults.wait_for(FaultPoint.BRIDGE_COMMITTED)
    system.start_one("bridge", as_name="bridge2")
    worker = system.start_worker(1, **faults.arm(f"{FaultPoint.SWEEP_MARKED}:kill"))
    worker.set_restart(Restart(first=0.1, most=0.5))
    system.start("beat")
    faults.wait_for(FaultPoint.SWEEP_MARKED)
    system.wait_for_all(ids)
    assert set(scripted_agent.ledger().effects.values()) == {1}


def test_a_retry_killed_after_its_commit_is_rung_by_the_sweep(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_STALL": "1"}
    scripted_agent.script("/pay", {"status": 400, "body": {"title": "No"}}, reply({"pay": "P-1"}))
    pay = {"name": "pay", "description": "Pays.", "url": scripted_agent.url("/pay"), "provides": ["pay"]}
    system.use_agents({**pay, "idempotent": True})
    system.start("bridge", "worker", "beat")
    system.produce_task("retried", required_fields=["pay"])
    system.wait_for_state("retried", "failed")
    ended = system.orchestrator(
        "task", "retry", "retried", input=b"", code=None, **faults.arm(f"{FaultPoint.CONTROL_WRITTEN}:kill")
    )
    assert ended.code == -signal.SIGKILL
    assert faults.fired(FaultPoint.CONTROL_WRITTEN) == ["retried"]
    system.wait_for_state("retried", "completed")
    assert len(scripted_agent.ledger().posts("/pay")) == 2
    assert scripted_agent.ledger().doubled == []


def test_a_replay_killed_before_it_is_noted_can_be_done_again(system: System, faults: Faults) -> None:
    system.start("bridge")
    system.produce("tasks", b'{"task_id": "mended", ')
    (letter,) = wait_for(lambda: system.store.dead_letters(), what="a dead letter")
    mended = b'{"task_id": "mended", "task_description": "Mend", "required_fields": ["pay"]}'
    replay = ("dead-letter", "replay", str(letter.id), "--file", "-")
    ended = system.orchestrator(
        *replay, input=mended, code=None, **faults.arm(f"{FaultPoint.DEAD_LETTER_PRODUCED}:kill")
    )
    assert ended.code == -signal.SIGKILL
    wait_for(lambda: system.task("mended"), what="the record is taken in")
    assert system.store.dead_letter(letter.id).replayed_at is None
    system.orchestrator(*replay, input=mended)
    assert system.store.dead_letter(letter.id).replayed_at is not None
    system.produce_task("last")
    wait_for(lambda: system.task("last"), what="what was produced after it is taken in")
    assert accepted(system.store) == 2
    assert len(system.store.dead_letters()) == 1
