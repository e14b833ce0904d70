"""Workers as Celery's own commands handle them: scaling, refusals, kills, and a Redis that comes and goes."""

from __future__ import annotations

import base64
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis

from orchestrator.devstack.stack import EmbeddedStack
from tests.support.agents import ScriptedAgent, reply
from tests.support.processes import wait_for
from tests.support.system import System


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "idempotent": True,
        "retry": {"max_attempts": 3, "base_delay": 0.1, "max_delay": 0.5},
        **parts,
    }


def celery(system: System, *arguments: str) -> str:
    ended = system.celery(*arguments)
    return ended.stdout + ended.stderr


def pool_size(system: System) -> int:
    answer = json.loads(celery(system, "inspect", "stats", "--json", "--timeout", "5"))
    (stats,) = answer.values()
    return int(stats["pool"]["max-concurrency"])


@pytest.fixture
def quick(system: System) -> Iterator[System]:
    """Short leases, so that a killed worker is noticed soon."""
    system.env |= {"ORCHESTRATOR_LEASE": "1.5", "ORCHESTRATOR_STALL": "1.5"}
    yield system


@pytest.mark.timeout(400)  # it waits for a worker to grow and shrink, several times
def test_a_worker_grows_and_shrinks_by_celerys_own_means(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/slow", reply({"slow": 1}, gate="go"))
    system.use_agents(entry(scripted_agent, "slow"))
    worker = system.start_worker(1, "--concurrency", "2")
    system.start("bridge", "beat")
    assert pool_size(system) == 2
    assert "pool will grow" in celery(system, "control", "pool_grow", "3")
    wait_for(lambda: pool_size(system) == 5, what="five at once")
    for number in range(5):
        system.produce_task(f"slow-{number}", required_fields=["slow"])
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/slow") == 5, what="five calls in flight")
    scripted_agent.open_gate("go")
    system.wait_for_all([f"slow-{number}" for number in range(5)])
    assert "pool will shrink" in celery(system, "control", "pool_shrink", "4")
    wait_for(lambda: pool_size(system) == 1, what="one at once")
    assert worker.running


def test_flower_grows_a_worker_for_whoever_may_log_in(system: System) -> None:
    system.env["FLOWER_BASIC_AUTH"] = "admin:flower-password"
    system.start_worker(1, "--concurrency", "2")
    system.start("flower")
    (name,) = json.loads(celery(system, "inspect", "ping", "--json", "--timeout", "5"))
    url = f"{system.flower_url}/api/worker/pool/grow/{name}?n=2"

    def status(password: str) -> int:
        login = base64.b64encode(f"admin:{password}".encode()).decode()
        request = urllib.request.Request(url, b"", {"Authorization": f"Basic {login}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("wrong") == 401
    wait_for(lambda: status("flower-password") == 200, what="Flower knows the worker")
    assert pool_size(system) >= 4


def test_autoscale_follows_the_work(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/slow", reply({"slow": 1}, gate="go"))
    system.use_agents(entry(scripted_agent, "slow"))
    worker = system.start_worker(1, "--pool", "threads", "--autoscale", "8,1")
    system.start("bridge", "beat")
    for number in range(8):
        system.produce_task(f"slow-{number}", required_fields=["slow"])
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/slow", 0) >= 4, what="the pool grew", timeout=40)
    scripted_agent.open_gate("go")
    system.wait_for_all([f"slow-{number}" for number in range(8)])
    assert worker.running


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ORCHESTRATOR_AGENTS": "missing.yaml"}, "missing.yaml"),
        ({"ORCHESTRATOR_MODEL": "openai:gpt-test"}, "OPENAI_API_KEY"),
        ({"ORCHESTRATOR_LEASE": "soon"}, "ORCHESTRATOR_LEASE"),
        ({"REDIS_URL": "redis+cluster://127.0.0.1:1"}, "Redis Cluster"),
    ],
)
def test_a_worker_that_cannot_work_says_why_and_ends(system: System, env: Mapping[str, str], said: str) -> None:
    worker = system.start_one("worker", **env)
    wait_for(lambda: not worker.running, what="the worker ends", timeout=40)
    assert worker.exit_code == 2
    assert said in worker.log_text()
    assert "Traceback" not in worker.log_text()


def test_a_database_without_tables_is_told(system: System, empty_database_url: str) -> None:
    worker = system.start_one("worker", DATABASE_URL=empty_database_url)
    wait_for(lambda: not worker.running, what="the worker ends", timeout=40)
    assert worker.exit_code == 2
    assert "orchestrator db upgrade" in worker.log_text()


def test_a_killed_workers_step_goes_on_elsewhere_without_a_second_effect(
    quick: System, scripted_agent: ScriptedAgent
) -> None:
    system = quick
    scripted_agent.script("/pay", reply({"pay": "P-1"}, gate="go"), idempotent=True)
    system.use_agents(entry(scripted_agent, "pay"))
    first = system.start_worker(1)
    system.start("bridge", "beat")
    system.produce_task("killed-1", required_fields=["pay"])
    scripted_agent.wait_for_requests("/pay")
    first.kill()
    system.start_worker(2)
    calls = scripted_agent.wait_for_requests("/pay", 2)
    scripted_agent.open_gate("go")
    system.wait_for_state("killed-1", "completed")
    assert len({call.key for call in calls}) == 1
    assert scripted_agent.ledger().doubled == []
    (entry_,) = system.store.history("killed-1")
    assert entry_.step.number == 1


def test_sigterm_lets_the_running_step_end(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/pay", reply({"pay": "P-1"}, gate="go"))
    system.use_agents(entry(scripted_agent, "pay"))
    worker = system.start_worker(1)
    system.start("bridge", "beat")
    system.produce_task("stopped-1", required_fields=["pay"])
    scripted_agent.wait_for_requests("/pay")
    worker.signal(signal.SIGTERM)
    scripted_agent.open_gate("go")
    wait_for(lambda: not worker.running, what="the worker ends", timeout=30)
    assert worker.exit_code == 0
    system.wait_for_state("stopped-1", "completed")
    assert len(scripted_agent.ledger().posts("/pay")) == 1


def test_redis_may_be_emptied_at_any_moment(quick: System, scripted_agent: ScriptedAgent) -> None:
    system = quick
    scripted_agent.script("/one", reply({"one": 1}, delay=0.3))
    scripted_agent.script("/two", reply({"two": 2}, delay=0.3))
    system.use_agents(entry(scripted_agent, "one"), entry(scripted_agent, "two", requires=["one"]))
    system.start("bridge", "worker", "beat")
    ids = [f"flushed-{number}" for number in range(20)]
    with redis.Redis.from_url(system.env["REDIS_URL"]) as client:
        for task_id in ids:
            system.produce_task(task_id, required_fields=["one", "two"])
            client.flushdb()
        scripted_agent.wait_for_requests("/two")
        client.flushdb()
    system.wait_for_all(ids)
    assert scripted_agent.ledger().doubled == []


def test_a_worker_outlives_a_redis_killed_with_steps_in_flight(
    quick: System, scripted_agent: ScriptedAgent, private_stack: EmbeddedStack
) -> None:
    system = quick
    system.env["REDIS_URL"] = private_stack.env()["REDIS_URL"]
    scripted_agent.script("/pay", reply({"pay": "P-1"}, gate="go"))
    system.use_agents(entry(scripted_agent, "pay"))
    worker = system.start_worker(1)
    system.start("bridge", "beat")
    ids = [f"redis-{number}" for number in range(5)]
    for task_id in ids:
        system.produce_task(task_id, required_fields=["pay"])
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/pay") == 5, what="five calls in flight")
    private_stack.valkey.kill()
    scripted_agent.open_gate("go")
    system.wait_for_all(ids)
    private_stack.valkey.start()
    system.produce_task("redis-after", required_fields=["pay"])
    system.wait_for_state("redis-after", "completed")
    assert worker.running
    assert worker.restarts == 0
    assert scripted_agent.ledger().doubled == []
