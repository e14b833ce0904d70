"""The product behind PgBouncer in transaction mode: its connections belong to no session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.server import Place
from tests.support.agents import ScriptedAgent, reply
from tests.support.pgbouncer import PROGRAM, PgBouncer, program
from tests.support.system import System

POOL = 4
"""Far fewer than the processes' own pools together, so that transactions change places all the time."""

pytestmark = pytest.mark.skipif(
    program() is None, reason=f"no PgBouncer here (apt-get install pgbouncer, or {PROGRAM}=/path/to/pgbouncer)"
)


@pytest.fixture
def pgbouncer(system: System, keeper: Keeper, tmp_path: Path) -> Iterator[PgBouncer]:
    """Between the product and its database; what the test itself asks goes straight to the server."""
    server = PgBouncer(
        keeper, Place(tmp_path / "pgbouncer", tmp_path / "pgbouncer.log"), system.env["DATABASE_URL"], POOL
    )
    server.start()
    system.env["DATABASE_URL"] = server.url()
    yield server
    system.processes.stop_all()
    server.stop()


def sessions_differ_from_new(pgbouncer: PgBouncer) -> list[tuple[str, str]]:
    """Settings that transactions have left behind in the server's connections."""
    connections = [psycopg2.connect(pgbouncer.url()) for _ in range(POOL)]
    found: set[tuple[str, str]] = set()
    try:
        for connection in connections:
            with connection.cursor() as cursor:  # its transaction stays open: the next one gets another place
                cursor.execute("SELECT name, setting FROM pg_settings WHERE source = 'session'")
                found |= set(cursor.fetchall())
    finally:
        for connection in connections:
            connection.close()
    # PgBouncer itself keeps these apart for each client.
    kept_apart = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}
    return sorted(one for one in found if one[0] not in kept_apart)


def test_everything_works_behind_pgbouncer_in_transaction_mode(
    system: System, scripted_agent: ScriptedAgent, pgbouncer: PgBouncer, empty_database_url: str
) -> None:
    for name in ("a", "b", "c", "last"):
        scripted_agent.script(f"/{name}", reply({name: name}, delay=0.02), idempotent=True)
    entries = [
        {
            "name": name,
            "description": f"Gives {name}.",
            "url": scripted_agent.url(f"/{name}"),
            "provides": [name],
            "requires": ["a", "b", "c"] if name == "last" else [],
            "side_effects": True,
            "idempotent": True,
            "limits": {"max_concurrency": 20},
        }
        for name in ("a", "b", "c", "last")
    ]
    system.use_agents(*entries)
    name = empty_database_url.rpartition("/")[2]
    fresh = system.env["DATABASE_URL"].rpartition("/")[0] + f"/{name}"
    system.orchestrator("db", "upgrade", DATABASE_URL=fresh)
    assert "not" not in system.orchestrator("db", "current", DATABASE_URL=fresh).out
    started = [
        system.start_one("bridge"),
        system.start_one("beat"),
        *(system.start_worker(number, ORCHESTRATOR_TENANT_SHARE="5") for number in (1, 2)),
    ]
    ids = [f"pooled-{number}" for number in range(60)]
    for number, task_id in enumerate(ids):
        # Three calls at once, joined in PostgreSQL; then one more.
        system.produce_task(task_id, required_fields=["last"], tenant=f"tenant-{number % 3}")
    system.produce_task("waits", required_fields=["never"], event_data={"a": 1, "b": 1, "c": 1})
    system.producer.flush()
    system.wait_for_all(ids)
    assert scripted_agent.ledger().doubled == []
    assert set(scripted_agent.ledger().effects.values()) == {1}
    assert len(scripted_agent.ledger().effects) == 4 * len(ids)

    # What a person does.
    system.orchestrator("task", "list", "--limit", "5")
    system.orchestrator("task", "show", ids[0], "--history")
    system.wait_for_state("waits", "failed")
    system.orchestrator("task", "undo", ids[1], code=None)
    system.orchestrator("doctor", code=None)
    system.orchestrator("db", "prune")
    system.read("task-updates", len(ids), counted_by=lambda update: update["task_id"])
    assert sessions_differ_from_new(pgbouncer) == []
    for process in started:
        assert process.running
        assert "Traceback" not in process.log_text()
