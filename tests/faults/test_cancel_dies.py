"""Workers and commands that die by kill -9 while an agent is told that a call is not wanted any more."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from orchestrator.devstack.process import Restart
from orchestrator.domain.delegation import DelegationState
from orchestrator.fault_points import FaultPoint
from tests.faults.test_undo_dies import entry, undoable
from tests.support.agents import ScriptedAgent, job, poll
from tests.support.faults import Faults
from tests.support.system import System

KILLS = (FaultPoint.CANCEL_CLAIMED, FaultPoint.CANCEL_ANSWERED, FaultPoint.CANCEL_RECORDED)
DELETED: dict[str, Any] = {"status": 200, "body": {"status": "canceled"}}


def test_a_call_is_canceled_once_whoever_dies_in_between(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    """Each task has reserved something and waits for a job; its cancel takes both back."""
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    scripted_agent.script("/score", job(poll("running"), retry_after=600), idempotent=False)
    slow = entry(scripted_agent, "score", requires=["reserve"], cancel="location", timeout={"total": 900})
    system.use_agents(undoable(scripted_agent, "reserve"), slow)
    armed = faults.arm(*(f"{point}:kill:only=dies-at-{point}" for point in KILLS))
    for number in (1, 2):
        system.start_worker(number, "--concurrency", "4", **armed).set_restart(Restart(first=0.1, most=0.5))
    system.start("bridge", "beat")
    names = [*(f"dies-at-{point}" for point in KILLS), "dies-in-the-command"]
    for name in names:
        system.produce_task(name, required_fields=["score"])
    for name in names:
        system.wait_for_state(name, "waiting")
        scripted_agent.script(job_of(system, name), DELETED, method="DELETE", idempotent=True)
        if name == "dies-in-the-command":
            dies = faults.arm(f"{FaultPoint.CONTROL_WRITTEN}:kill")
            command = ("task", "cancel", name, "--undo")
            assert system.orchestrator(*command, input=b"", code=None, **dies).code == -signal.SIGKILL
        else:
            system.orchestrator("task", "cancel", name, "--undo", "--why", "enough")
    for point in KILLS:
        faults.wait_for(point)
    for name in names:
        task = system.wait_for_state(name, "canceled")
        assert "undone: reserve (1.0)" in (task.reason or ""), name
        call = next(one for entry in system.store.history(name) for one in entry.delegations if one.agent == "score")
        assert (call.state, call.error_code) == (DelegationState.FAILED, "agent_canceled"), name
    ledger = scripted_agent.ledger()
    assert ledger.doubled == []
    deletes = Counter(seen.key.partition(":")[0] for seen in ledger.requests if seen.method == "DELETE")
    # Told again only where nobody knew of the first answer.
    assert deletes == {name: 1 + name.endswith(FaultPoint.CANCEL_ANSWERED) for name in names}

    shown = system.orchestrator("task", "show", "dies-in-the-command").out
    assert "Calls not wanted any more" in shown and "score canceled" in shown
    told = [one for one in system.read("task-updates", 20) if one["task_id"] == "dies-in-the-command"]
    assert told[-1]["cancellations"][0]["state"] == "canceled"


def job_of(system: System, task_id: str) -> str:
    """The path of the job that a task waits for."""
    urls = [one.remote_url for entry in system.store.history(task_id) for one in entry.delegations if one.remote_url]
    return urlsplit(urls[0]).path
