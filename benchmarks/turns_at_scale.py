"""How long it takes to find whose turn it is, among a million ended tasks and a hundred thousand that wait.

    python -m benchmarks.turns_at_scale

Servers of its own, made for it and removed after it. Prints milliseconds for letting the next 500 tasks start.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.domain.turns import TurnRules
from orchestrator.flow.ports import Received
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.engine import text
from orchestrator.store.migrate import upgrade

STALL = timedelta(seconds=10)

_TASKS = text("""
    INSERT INTO tasks (task_id, description, required_fields, state, waits_for, priority, tenant, content_digest,
                       due_at, ended_at)
    SELECT :name || n, 'x', '[]', :state, :waits_for, n % 10,
           CASE WHEN CAST(:tenants AS int) > 0 THEN 'tenant-' || n % :tenants END,
           'x', CASE WHEN :due THEN now() END, CASE WHEN :state = 'completed' THEN now() END
    FROM generate_series(1, :count) n
""")


def main() -> None:
    """Fill, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        stack = EmbeddedStack(Path(folder))
        try:
            stack.start()
            measure(stack.env()["DATABASE_URL"])
        finally:
            stack.destroy()


def measure(url: str) -> None:
    """Grow the table from case to case."""
    upgrade(url)
    store = PostgresStore(make_engine(url, statement_timeout=300), turns=TurnRules(cap=1_000))
    fill(store, "ended-", 1_000_000, "completed")
    report(store, "1,000,000 ended")
    fill(store, "waiting-", 100_000, "waiting", waits_for="event", tenants=1)
    report(store, "and 100,000 that wait for an event")
    fill(store, "due-", 100_000, "received", due=True, tenants=1)
    report(store, "and 100,000 of one tenant at its cap, all due")
    fill(store, "others-", 10_000, "received", due=True, tenants=1_000)
    report(store, "and 10,000 of 1,000 other tenants")
    store.close()


def fill(
    store: PostgresStore,
    name: str,
    count: int,
    state: str,
    *,
    waits_for: str | None = None,
    due: bool = False,
    tenants: int = 0,
) -> None:
    """Write so many tasks in one statement."""
    with store.engine.begin() as connection:
        connection.execute(
            _TASKS,
            {"name": name, "count": count, "state": state, "waits_for": waits_for, "due": due, "tenants": tenants},
        )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE tasks"))


def report(store: PostgresStore, what: str) -> None:
    """Ring, take in, count; several times each."""
    rings, intakes, found = [], [], []
    for attempt in range(10):
        began = time.perf_counter()
        found.append(len(store.ring_due(500, STALL, busy=True, ahead=9)))
        rings.append(time.perf_counter() - began)
        batch = [
            Received(
                Record("tasks", 0, 0, 1, None, f"{what}{attempt}{n}".encode()),
                TaskMessage(f"{what}-{attempt}-{n}", "x", ("a",), tenant=f"tenant-{n}"),
            )
            for n in range(100)
        ]
        began = time.perf_counter()
        store.accept(batch, due_in=STALL)
        intakes.append(time.perf_counter() - began)
    print(
        f"{what:50} next turns {1000 * statistics.median(rings):6.1f} ms (found {found[0]}, {found[-1]}), "
        f"100 tasks taken in {1000 * statistics.median(intakes):6.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
