"""Workers that die by kill -9 while a person's answer goes to the agent that asked: it is told, and told once."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.devstack.process import Restart
from orchestrator.fault_points import FaultPoint
from tests.faults.test_undo_dies import entry
from tests.support.agents import Answer, ScriptedAgent, job, poll
from tests.support.faults import Faults
from tests.support.processes import wait_for
from tests.support.system import System

POSTS = {
    "keys": {
        FaultPoint.ANSWER_IN_HAND: 1,
        # Under the same key: the agent acts on it once.
        FaultPoint.ANSWER_TAKEN: 2,
    },
    "no keys": {FaultPoint.ANSWER_IN_HAND: 1, FaultPoint.ANSWER_MARKED: 1, FaultPoint.ANSWER_TAKEN: 1},
}


def asks(name: str) -> Answer:
    body = {"status": "input_required", "question": "Which account?", "choices": ["Main", "Savings"]}
    return {"status": 200, "body": {**body, "answer_url": f"/{name}/answers"}}


@pytest.mark.parametrize("honours", ["keys", "no keys"])
def test_an_agent_that_asks_back_is_told_once_whoever_dies(
    system: System, scripted_agent: ScriptedAgent, faults: Faults, honours: str
) -> None:
    """An agent that does not honour keys is asked whether it still asks, where it may have been told."""
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    keyed = honours == "keys"
    entries, kills = [], list(POSTS[honours])
    for point in kills:
        name = str(point).replace(".", "_")
        # Asked once more where only the job can say that the answer, which may have left, has not arrived.
        polls = [asks(name)] * (1 + (point is FaultPoint.ANSWER_MARKED))
        scripted_agent.script(f"/{name}", job(*polls, poll("succeeded", {name: "done"}), retry_after=0))
        scripted_agent.script(f"/{name}/answers", {"status": 202, "body": {}}, idempotent=keyed)
        entries.append(entry(scripted_agent, name, idempotent=keyed))
    system.use_agents(*entries)
    armed = faults.arm(*(f"{point}:kill:only=dies-at-{point}" for point in kills))
    for number in (1, 2):
        system.start_worker(number, "--concurrency", "4", **armed).set_restart(Restart(first=0.1, most=0.5))
    system.start("bridge", "beat")
    names = [f"dies-at-{point}" for point in kills]
    for point in kills:
        system.produce_task(f"dies-at-{point}", required_fields=[str(point).replace(".", "_")])
    for name in names:
        wait_for(lambda task_id=name: system.store.questions(task_id=task_id), 60.0, f"{name} asks")  # type: ignore[misc]  # the default binds the loop's value
        system.orchestrator("task", "answer", name, "--choice", "Main")
    for point in kills:
        faults.wait_for(point)
    system.wait_for_all(names)
    ledger = scripted_agent.ledger()
    assert ledger.doubled == []
    posts = Counter(seen.key.partition(":")[0] for seen in ledger.requests if seen.path.endswith("/answers"))
    assert posts == {f"dies-at-{point}": POSTS[honours][point] for point in kills}
    assert {seen.body["answer"] for seen in ledger.requests if seen.path.endswith("/answers")} == {"Main"}
