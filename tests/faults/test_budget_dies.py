"""A worker that dies by kill -9 between reserving what a question to the model may cost, and asking it."""

from __future__ import annotations

from orchestrator.devstack.process import Restart
from orchestrator.fault_points import FaultPoint
from tests.faults.test_undo_dies import entry
from tests.support.agents import ScriptedAgent, reply
from tests.support.faults import Faults
from tests.support.llm import LlmServer, says, tool
from tests.support.system import System


def test_a_question_that_was_reserved_and_not_asked_is_asked_and_its_reservation_is_spent(
    system: System, scripted_agent: ScriptedAgent, llm_server: LlmServer, faults: Faults
) -> None:
    """The same task, once undisturbed and once with its worker killed: the difference is one reservation."""
    system.env |= {
        "ORCHESTRATOR_LEASE": "1.5",
        "ORCHESTRATOR_STALL": "1.5",
        "ORCHESTRATOR_MODEL": "openai:gpt-test",
        "ORCHESTRATOR_MODEL_MAX_TOKENS": "600",
        "OPENAI_API_KEY": "sk-test-12345",
        "OPENAI_BASE_URL": llm_server.api_url,
        "no_proxy": "127.0.0.1",
    }
    scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=True)
    system.use_agents(entry(scripted_agent, "pay", idempotent=True))
    llm_server.script(*[says(tool("pay", reason="it is missing", task="pay", input={}))] * 2)
    point = FaultPoint.BUDGET_RESERVED
    worker = system.start_worker(1, **faults.arm(f"{point}:kill:only=dies"))
    worker.set_restart(Restart(first=0.1, most=0.5))
    system.start("bridge", "beat")
    for name in ("lives", "dies"):
        system.produce_task(name, required_fields=["pay"])
        system.wait_for_state(name, "completed", 120.0)
    assert faults.fired(point) == ["dies"]
    assert len(llm_server.requests()) == 2
    assert scripted_agent.ledger().doubled == []
    undisturbed, disturbed = (system.store.task(name).spent for name in ("lives", "dies"))
    assert undisturbed.reserved_tokens == disturbed.reserved_tokens == 0
    assert disturbed.tokens - undisturbed.tokens > 600
