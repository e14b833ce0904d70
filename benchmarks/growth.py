"""How the cost of a step grows: with worker processes, the context's size, load, and what lies in the tables.

Each function runs the orchestrator's own processes on the servers of one run and gives figures to be printed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2

from benchmarks.measure import memory_mib
from benchmarks.servers import Bench
from benchmarks.work import STEPS
from orchestrator.kafka.connection import open_producer
from orchestrator.settings import Settings, read_settings
from orchestrator.wiring import upgrade_database

WORKERS = (1, 2, 3, 4)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
LOAD = 0.7
LOAD_SECONDS = 20.0

_FILL = """
    WITH made AS (
        INSERT INTO tasks (task_id, description, required_fields, state, waits_for, next_step, due_at, content_digest,
                           created_at, ended_at)
        SELECT 'filler-' || n, 'Filler', '["a"]', CASE WHEN n <= %(waiting)s THEN 'waiting' ELSE 'completed' END,
               CASE WHEN n <= %(waiting)s THEN 'event' END, 2,
               CASE WHEN n <= %(waiting)s AND n %% 2 = 0 THEN now() + interval '30 days' END, 'x',
               now() - interval '30 days', CASE WHEN n > %(waiting)s THEN now() - interval '1 day' END
        FROM generate_series(1, %(waiting)s + %(finished)s) n RETURNING task_id
    )
    INSERT INTO task_contexts (task_id, context, version)
    SELECT task_id, '{"required_fields": ["a"], "current_state": "waiting", "collected_data": {}}', 1 FROM made
"""

Throughput = Callable[[int, int, tuple[str, ...]], dict[str, Any]]
"""Runs so many tasks on so many worker processes, with further arguments of `benchmarks.ours`; gives its rates."""


def by_workers(run: Throughput, tasks: int) -> dict[str, Any]:
    """Steps a second by number of worker processes."""
    return {str(count): _short(run(tasks, count, ())) for count in WORKERS}


def by_context(run: Throughput, tasks: int) -> dict[str, Any]:
    """What a step costs by bytes in the task's context from its beginning."""
    return {str(size): _short(run(max(10, tasks // (1 + size // 20_000)), 2, ("size", str(size)))) for size in SIZES}


def under_load(run: Throughput, steps_per_second: float) -> dict[str, Any]:
    """Milliseconds from a task's acceptance to its end at 70 % of the steps that were done at full speed."""
    rate = LOAD * steps_per_second / STEPS
    found = run(max(20, int(rate * LOAD_SECONDS)), 2, ("at-rate", str(rate)))
    return {"tasks_per_second": round(rate, 1), **found["task_ms"]}


def among_rows(bench: Bench, run: Throughput, tasks: int, waiting: int, finished: int) -> dict[str, Any]:
    """The same work in nearly empty tables, and among waiting and finished tasks."""
    alone = run(tasks, 2, ())
    with psycopg2.connect(bench.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(_FILL, {"waiting": waiting, "finished": finished})
    vacuum = psycopg2.connect(bench.database_url)
    vacuum.autocommit = True
    with vacuum.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    vacuum.close()
    among = run(tasks, 2, ())
    return {
        "waiting": waiting,
        "finished": finished,
        "alone": _short(alone),
        "among": _short(among),
        "cpu_ratio": round(among["cpu_ms_per_step"]["total"] / alone["cpu_ms_per_step"]["total"], 2),
    }


def intake(bench: Bench, env: dict[str, str], records: int) -> dict[str, Any]:
    """Records a second that one real bridge commits, from a topic that is full when it starts; its memory at most.

    Into a database and a Redis of their own: what is taken in would be work for who is measured next.
    """
    servers = bench.stack
    url = servers.postgres.create_database("intake")
    env = {**env, "DATABASE_URL": url, "REDIS_URL": servers.valkey.url(1)}
    settings = read_settings(env, dotenv=None)
    upgrade_database(settings)
    _fill(settings, records)
    bridge = bench.start("bridge", env={**os.environ, **env})
    try:
        with closing(psycopg2.connect(url)) as database:
            database.autocommit = True
            first = last = _taken(database)
            peak = 0.0
            while last.records < records:
                time.sleep(0.2)
                if bridge.poll() is not None:
                    raise RuntimeError("the bridge ended")
                last = _taken(database)
                first = first if first.records else last
                peak = max(peak, memory_mib([bridge.pid]))
    finally:
        bridge.terminate()
        bridge.wait()
        servers.postgres.drop_database("intake")
    rate = (last.records - first.records) / (last.at - first.at)
    return {"records": records, "per_second": round(rate), "peak_mib": round(peak, 1)}


def _fill(settings: Settings, records: int) -> None:
    run_id = time.time_ns()
    producer = open_producer(settings)
    for number in range(records):
        task_id = f"intake-{run_id}-{number}"
        value = f'{{"task_id": "{task_id}", "task_description": "Find all.", "required_fields": ["f1"]}}'
        producer.send(settings.topic("tasks"), value.encode(), key=task_id.encode())
    producer.flush()
    producer.close()


@dataclass(frozen=True, slots=True)
class _Taken:
    """Records taken in, and when the last commit of them began (seconds since 1970, PostgreSQL's clock)."""

    records: int
    at: float


def _taken(database: Any) -> _Taken:
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT sum(next_offset), extract(epoch FROM max(updated_at)) FROM offsets WHERE next_offset > 0"
        )
        row = cursor.fetchone()
    return _Taken(int(row[0] or 0), float(row[1] or 0.0))


def _short(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps_per_second": found["steps_per_second"],
        "cpu_ms_per_step": found["cpu_ms_per_step"]["total"],
        "wal_bytes_per_step": found["wal_bytes_per_step"],
    }
