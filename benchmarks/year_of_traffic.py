"""Whether a million ended tasks slow the claim or the sweep.

    python -m benchmarks.year_of_traffic

Servers of its own, made for it and removed after it. Prints milliseconds with and without them, and their ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.flow.ports import Received
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.engine import text
from orchestrator.store.migrate import upgrade

STALL = timedelta(seconds=10)
COUNT = 200

_ENDED = text("""
    INSERT INTO tasks (task_id, description, required_fields, state, next_step, content_digest, created_at, ended_at)
    SELECT 'ended-' || n, 'd', '["a"]', 'completed', 3, 'x', now() - interval '1 year', now()
    FROM generate_series(1, 1000000) n
""")


def main() -> None:
    """Measure, fill, measure again."""
    with tempfile.TemporaryDirectory() as folder:
        stack = EmbeddedStack(Path(folder))
        try:
            stack.start()
            url = stack.env()["DATABASE_URL"]
            upgrade(url)
            store = PostgresStore(make_engine(url, statement_timeout=600))
            before = measure(store, "before")
            store.transact(lambda connection: connection.execute(_ENDED))
            after = measure(store, "after")
            store.close()
        finally:
            stack.destroy()
    print(f"{'':8} {'empty':>9} {'1,000,000':>11} {'ratio':>7}")
    for name in before:
        print(f"{name:8} {before[name]:6.2f} ms {after[name]:8.2f} ms {after[name] / before[name]:7.2f}")


def measure(store: PostgresStore, name: str) -> dict[str, float]:
    """Medians of claiming a task and of a sweep that rings one."""
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE tasks"))
    ids = [f"{name}-{number}" for number in range(COUNT)]
    sweeps, claims = [], []
    for number, task_id in enumerate(ids):
        record = Record(name, 0, number, 0, None, b"{}")
        store.accept([Received(record, TaskMessage(task_id, "d", ("a",), {}))], due_in=timedelta(seconds=-1))
        begun = time.perf_counter()
        store.ring_due(1, STALL)
        rung = time.perf_counter()
        store.claim(task_id, 1, "bench", timedelta(minutes=5))
        claims.append(time.perf_counter() - rung)
        sweeps.append(rung - begun)
    return {"claim": 1000 * statistics.median(claims), "sweep": 1000 * statistics.median(sweeps)}


if __name__ == "__main__":
    main()
