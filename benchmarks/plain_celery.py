"""The work on plain Celery: a chain of three tasks, each one post and one commit. No recovery, no journal, no lease.

The app is for ``celery -A benchmarks.plain_celery worker``; ``python -m benchmarks.plain_celery TASKS`` sends the
chains and waits until their rows are there. Servers come from BENCH_DATABASE_URL, BENCH_REDIS_URL, BENCH_AGENT_URL.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import psycopg2
import requests
from celery import Celery, chain

from benchmarks.work import COMMIT, STEPS, report, request_body

app = Celery("plain", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=4,
    broker_transport_options={"global_keyprefix": "plain:"},
)
_local = threading.local()


@app.task(name="plain.step")  # type: ignore[untyped-decorator]  # celery ships no types
def step(value: str, task_id: str, number: int) -> Any:
    """One step."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.connection = psycopg2.connect(os.environ["BENCH_DATABASE_URL"])
    answer = _local.session.post(
        os.environ["BENCH_AGENT_URL"],
        data=request_body(task_id, number, value),
        headers={"Content-Type": "application/json", "Idempotency-Key": f"{task_id}:{number}"},
        timeout=30,
    )
    with _local.connection as connection, connection.cursor() as cursor:
        cursor.execute(COMMIT, (task_id, number, answer.text))
    return answer.json()["output"]["value"]


def main() -> None:
    """Send the chains, wait for their end, print the figures."""
    tasks = int(sys.argv[1])
    run_id = time.time_ns()
    connection = psycopg2.connect(os.environ["BENCH_DATABASE_URL"])
    connection.autocommit = True
    begun, cpu = time.perf_counter(), time.process_time()
    for number in range(tasks):
        task_id = f"{run_id}-{number}"
        first, *rest = (
            step.s("v", task_id, place) if place == 1 else step.s(task_id, place) for place in range(1, STEPS + 1)
        )
        chain(first, *rest).apply_async()
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM bench WHERE task_id LIKE %s", (f"{run_id}-%",))
            row = cursor.fetchone()
            if row is not None and row[0] >= tasks * STEPS:
                break
            time.sleep(0.05)
    report(seconds=time.perf_counter() - begun, cpu=time.process_time() - cpu, steps=tasks * STEPS)


if __name__ == "__main__":
    main()
