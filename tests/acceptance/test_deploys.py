"""Deploys while work is in flight: a worker told to stop, and journals that a newer version wrote."""

from __future__ import annotations

import signal
from typing import Any

from orchestrator.domain.task import WaitsFor
from tests.support.agents import ScriptedAgent, reply
from tests.support.intake_seen import execute
from tests.support.processes import wait_for
from tests.support.system import System


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "idempotent": True,
        "timeout": {"connect": 2, "read": 100, "total": 100},
        **parts,
    }


def test_a_worker_told_to_stop_ends_in_time_in_the_middle_of_a_hundred_calls(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    """Some of its calls end meanwhile, most do not: others go on at once, and nothing is done twice."""
    system.env |= {"ORCHESTRATOR_STOP_PERIOD": "4", "ORCHESTRATOR_LEASE": "60", "ORCHESTRATOR_STALL": "60"}
    scripted_agent.script("/ends", reply({"ends": 1}, gate="first"), idempotent=True)
    scripted_agent.script("/long", reply({"long": 1}, gate="second"), idempotent=True)
    scripted_agent.script("/once", reply({"once": 1}, gate="second"), idempotent=False)
    scripted_agent.script("/next", reply({"next": 1}), idempotent=True)
    system.use_agents(
        entry(scripted_agent, "ends"),
        entry(scripted_agent, "long"),
        entry(scripted_agent, "once", idempotent=False),
        entry(scripted_agent, "next", requires=["ends"]),
    )
    first = system.start_worker(1, "--concurrency", "100")
    system.start("bridge", "beat")
    ends = [f"ends-{number}" for number in range(20)]
    long = [f"long-{number}" for number in range(70)]
    once = [f"once-{number}" for number in range(10)]
    for task_id in ends:
        system.produce_task(task_id, required_fields=["ends", "next"])
    for task_id in long:
        system.produce_task(task_id, required_fields=["long"])
    for task_id in once:
        system.produce_task(task_id, required_fields=["once"])
    wait_for(lambda: sum(scripted_agent.ledger().in_flight.values()) == 100, 60.0, "a hundred calls in flight")

    first.signal(signal.SIGTERM)
    scripted_agent.open_gate("first")
    wait_for(lambda: not first.running, 60.0, "the worker ends, though its calls do not")
    assert first.exit_code == 0
    assert "Traceback" not in first.log_text()
    assert "worker.handed_back held=80 handed_back=80" in first.log_text()
    assert len(scripted_agent.ledger().posts("/ends")) == len(ends)

    # Their leases would last for a minute: what was handed back goes on long before.
    system.start_worker(2, "--concurrency", "100")
    system.wait_for_all(ends, timeout=50.0)
    scripted_agent.wait_for_requests("/long", 2 * len(long), timeout=50.0)
    for task_id in once:
        task = system.wait_for_state(task_id, "waiting", timeout=50.0)
        assert task.waits_for is WaitsFor.PERSON
    scripted_agent.open_gate("second")
    system.wait_for_all(long)
    ledger = scripted_agent.ledger()
    assert len(ledger.posts("/once")) == len(once)
    assert len(ledger.posts("/ends")) == len(ends)
    assert ledger.doubled == []
    assert all(system.store.task(task_id).lost_leases == 0 for task_id in [*ends, *long, *once])


def test_what_a_killed_worker_held_goes_on_at_once_on_the_same_machine(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    """Its leases would last for ten minutes, and so would those of its calls; the next sweep sees that it is dead."""
    system.env |= {"ORCHESTRATOR_LEASE": "600", "ORCHESTRATOR_STALL": "600"}
    scripted_agent.script("/one", reply({"one": 1}, gate="go"), idempotent=True)
    scripted_agent.script("/two", reply({"two": 1}, gate="go"), idempotent=True)
    system.use_agents(entry(scripted_agent, "one"), entry(scripted_agent, "two"))
    first = system.start_worker(1)
    system.start("bridge", "beat")
    system.produce_task("alone", required_fields=["one"])
    system.produce_task("parallel", required_fields=["one", "two"])
    wait_for(lambda: sum(scripted_agent.ledger().in_flight.values()) == 3, 60.0, "three calls in flight")
    first.kill()
    scripted_agent.open_gate("go")
    second = system.start_worker(2)
    system.wait_for_all(["alone", "parallel"])
    assert "sweep.leases_of_the_dead" in second.log_text()
    assert scripted_agent.ledger().doubled == []


def test_what_a_newer_version_wrote_is_left_to_it(system: System, scripted_agent: ScriptedAgent) -> None:
    """The older worker neither acts on such a task nor stumbles over it, and goes on with all others."""
    system.env |= {"ORCHESTRATOR_STALL": "1"}
    scripted_agent.script("/pay", reply({"pay": 1}))
    system.use_agents(entry(scripted_agent, "pay"))
    system.start("bridge")
    system.produce_task("newer", required_fields=["pay"])
    wait_for(lambda: system.task("newer"), what="it is taken in")
    execute(
        system.store,
        """INSERT INTO steps (task_id, step_number, state, base_version, decision)
           VALUES ('newer', 1, 'open', 1, '{"kind": "negotiate", "reason": "a kind of tomorrow"}')""",
    )
    worker = system.start_worker(1)
    system.start("beat")
    system.processes.wait_for_log(worker, "negotiate")
    system.produce_task("older", required_fields=["pay"])
    system.wait_for_state("older", "completed")
    assert "Traceback" not in worker.log_text()
    left = system.store.task("newer")
    assert (left.state.is_terminal, left.next_step, left.lost_leases) == (False, 1, 0)
    assert len(scripted_agent.ledger().posts("/pay")) == 1
    shown = system.orchestrator("task", "show", "newer", "--json").json()
    assert shown["steps"][0]["decision"]["kind"] == "negotiate"
    system.orchestrator("task", "show", "newer")
    # A newer worker has taken it further: now this one can.
    execute(system.store, "DELETE FROM steps WHERE task_id = 'newer'")
    system.wait_for_state("newer", "completed")
