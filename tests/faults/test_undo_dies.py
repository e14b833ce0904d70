"""Workers that die by kill -9 in the middle of an undo: everything is undone, and nothing twice."""

from __future__ import annotations

from typing import Any

from orchestrator.devstack.process import Restart
from orchestrator.domain.delegation import DelegationState
from orchestrator.fault_points import FaultPoint
from tests.support.agents import ScriptedAgent, problem, reply
from tests.support.faults import Faults
from tests.support.system import System

KILLS = (FaultPoint.UNDO_MARKED, FaultPoint.UNDO_ANSWERED, FaultPoint.UNDO_RECORDED)


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "retry": {"max_attempts": 3, "base_delay": 0.1, "max_delay": 0.5},
        **parts,
    }


def undoable(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    agent.script(f"/{name}", reply({name: f"{name}-1"}), idempotent=True)
    url = agent.script(f"/{name}/undo", reply({"gone": True}), idempotent=True)
    compensate = {"url": url, "input": {"id": f"/reply/{name}"}, "idempotent": True}
    return entry(agent, name, idempotent=True, compensate=compensate, **parts)


def test_a_worker_killed_anywhere_in_an_undo_undoes_everything_once(
    system: System, scripted_agent: ScriptedAgent, faults: Faults
) -> None:
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    scripted_agent.script("/sign", problem(422), idempotent=False)
    scripted_agent.script("/seal", problem(422), idempotent=False)
    system.use_agents(
        undoable(scripted_agent, "reserve"),
        undoable(scripted_agent, "draft", requires=["reserve"]),
        entry(scripted_agent, "sign", requires=["draft"]),
        # Two siblings of one step, carried out side by side, and then a refusal.
        undoable(scripted_agent, "left", requires=["pair"]),
        undoable(scripted_agent, "right", requires=["pair"]),
        entry(scripted_agent, "seal", requires=["left", "right"]),
    )
    armed = faults.arm(*(f"{point}:kill:only=dies-at-{point}" for point in KILLS))
    for number in (1, 2):
        system.start_worker(number, "--concurrency", "4", **armed).set_restart(Restart(first=0.1, most=0.5))
    system.start("bridge", "beat")
    for point in KILLS:
        task_id = f"dies-at-{point}"
        siblings = point is FaultPoint.UNDO_RECORDED
        parts = {"required_fields": ["seal"], "event_data": {"pair": 1}} if siblings else {"required_fields": ["sign"]}
        system.produce_task(task_id, on_failure="undo", **parts)
        faults.wait_for(point)
        task = system.wait_for_state(task_id, "failed")
        undone = "right (1.1), left (1.0)" if siblings else "draft (2.0), reserve (1.0)"
        assert f"undone: {undone}" in (task.reason or ""), point
        items = system.store.undo_items(task_id)
        assert [item.delegation.state for item in items] == [DelegationState.COMPENSATED] * 2
    ledger = scripted_agent.ledger()
    assert ledger.doubled == []
    assert sum(key.endswith(":undo") for key in ledger.effects) == 2 * len(KILLS)
    paths = [seen.path for seen in ledger.requests if seen.key.startswith("dies-at-undo.marked")]
    assert [path for path in paths if path.endswith("/undo")] == ["/draft/undo", "/reserve/undo"]

    shown = system.orchestrator("task", "show", "dies-at-undo.marked").out
    assert "undone" in shown and "draft" in shown
    told = [update for update in system.read("task-updates", 10) if update["task_id"] == "dies-at-undo.marked"]
    assert all(update["undo"] for update in told if update["state"] == "compensating")
