"""An undo on the real stack while agents ask back: each task ends by itself, whatever its agent offers."""

from __future__ import annotations

from typing import Any

from tests.faults.test_undo_dies import entry, undoable
from tests.support.agents import Answer, ScriptedAgent, job, problem
from tests.support.processes import wait_for
from tests.support.system import System

ASKS: Answer = {
    "status": 200,
    "body": {"status": "input_required", "question": "Which account?", "choices": ["Main", "Savings"]},
}
DELETED: Answer = {"status": 200, "body": {"status": "canceled"}}


def test_a_task_that_is_undone_while_its_agent_asks_ends_by_itself(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    # Once its time is over, the agent has thrown the job away and says so.
    looked_up = scripted_agent.script("/looked_up", problem(404), method="GET", idempotent=False)
    offers: dict[str, dict[str, Any]] = {
        "keys": {"idempotent": True},
        "nothing": {},
        "look_up": {"lookup": {"url": f"{looked_up}?key={{key}}"}},
        "cancel": {"cancel": "location", "timeout": {"total": 900}},
    }
    entries = [undoable(scripted_agent, "reserve")]
    for name, parts in offers.items():
        scripted_agent.script(f"/{name}", job(ASKS, retry_after=0), idempotent=name == "keys")
        entries.append(entry(scripted_agent, name, requires=["reserve"], **{"timeout": {"total": 2}, **parts}))
    system.use_agents(*entries)
    system.start("bridge", "beat", "worker")
    for name in offers:
        system.produce_task(name, required_fields=[name])
    for name in offers:
        wait_for(lambda task_id=name: system.store.questions(task_id=task_id), 60.0, f"{name} asks")  # type: ignore[misc]  # the default binds the loop's value
        (call,) = (one for entry in system.store.history(name) for one in entry.delegations if one.agent == name)
        path = (call.remote_url or "").removeprefix(scripted_agent.base_url)
        scripted_agent.script(path, DELETED, method="DELETE", idempotent=True)
        system.orchestrator("task", "cancel", name, "--undo", "--why", "enough")
        assert system.store.questions(task_id=name) == []
    refused = system.orchestrator("task", "answer", "nothing", "--choice", "Main", code=None)
    assert refused.code != 0 and "asks nobody anything" in refused.err
    reasons = {name: system.wait_for_state(name, "canceled").reason or "" for name in offers}
    assert all("undone: reserve (1.0)" in reason for reason in reasons.values()), reasons
    # Where the agent can be told, or says what became of the call, nothing is left to a person.
    assert {name for name, reason in reasons.items() if "left for a person" in reason} == {"keys", "nothing"}, reasons
    ledger = scripted_agent.ledger()
    assert ledger.doubled == []
    assert not [seen for seen in ledger.requests if ":answer:" in seen.key]
