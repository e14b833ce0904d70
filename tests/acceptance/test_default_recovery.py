"""With default settings: a task whose worker is killed goes on within 15 seconds, by itself."""

from __future__ import annotations

from orchestrator.settings import Settings
from tests.support.agents import ScriptedAgent, reply
from tests.support.intake_seen import scalar
from tests.support.system import System

PROMISE = 15.0


def test_an_orphaned_task_goes_on_within_the_promised_time(system: System, scripted_agent: ScriptedAgent) -> None:
    """Counted on PostgreSQL's clock: the lease ends and the sweep rings soon enough, whatever this machine is at."""
    del system.env["ORCHESTRATOR_SWEEP_INTERVAL"]
    scripted_agent.script("/pay", reply({"pay": "P-1"}, gate="go"), idempotent=True)
    pay = {"name": "pay", "description": "Pays.", "url": scripted_agent.url("/pay"), "provides": ["pay"]}
    system.use_agents({**pay, "idempotent": True})
    first = system.start_worker(1)
    system.start("bridge", "beat")
    system.produce_task("orphan", required_fields=["pay"])
    scripted_agent.wait_for_requests("/pay")
    system.start_worker(2)
    first.kill()
    left = "SELECT extract(epoch FROM due_at - now()) FROM tasks WHERE task_id = 'orphan'"
    due_in = float(scalar(system.store, left))
    scripted_agent.wait_for_requests("/pay", 2, timeout=60.0)
    scripted_agent.open_gate("go")
    system.wait_for_state("orphan", "completed")
    assert scripted_agent.ledger().doubled == []
    assert due_in + system.settings.sweep_interval <= PROMISE


def test_the_defaults_keep_the_promise() -> None:
    """Also where the doorbell itself was lost: rung again after the stall time."""
    fields = Settings.model_fields
    lease, stall, interval = (float(fields[name].default) for name in ("lease", "stall", "sweep_interval"))
    assert max(lease, stall) + interval < PROMISE
