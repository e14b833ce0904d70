"""The work without any engine: threads, `requests` and `psycopg2`, one commit a step. Nothing survives a crash.

``python -m benchmarks.raw DATABASE_URL AGENT_URL TASKS THREADS DELAY``
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import Any

import psycopg2
import requests
from requests.adapters import HTTPAdapter

from benchmarks.work import COMMIT, STEPS, report, request_body

CONNECTIONS = 20
"""To PostgreSQL, shared by all threads."""


def main() -> None:
    """Run, and print the figures."""
    database_url, agent_url, tasks, threads, delay = sys.argv[1:]
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    started = threading.Barrier(int(threads) + 1)
    seconds: list[float] = []
    run_id = time.time_ns()
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(min(int(threads), CONNECTIONS)):
        idle.put(psycopg2.connect(database_url))
    workers = [
        threading.Thread(target=_work, args=(idle, f"{agent_url}/{delay}", waiting, started, seconds))
        for _ in range(int(threads))
    ]
    for worker in workers:
        worker.start()
    started.wait()
    begun, cpu = time.perf_counter(), time.process_time()
    for number in range(int(tasks)):
        waiting.put(f"{run_id}-{number}")
    for _ in workers:
        waiting.put(None)
    for worker in workers:
        worker.join()
    report(
        seconds=time.perf_counter() - begun,
        cpu=time.process_time() - cpu,
        steps=int(tasks) * STEPS,
        task_seconds=sorted(seconds),
    )


def _work(
    idle: queue.SimpleQueue[Any],
    url: str,
    waiting: queue.SimpleQueue[str | None],
    started: threading.Barrier,
    seconds: list[float],
) -> None:
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(pool_maxsize=1))
        started.wait()
        while (task_id := waiting.get()) is not None:
            begun = time.perf_counter()
            value = "v"
            for step in range(1, STEPS + 1):
                answer = session.post(
                    url,
                    data=request_body(task_id, step, value),
                    headers={"Content-Type": "application/json", "Idempotency-Key": f"{task_id}:{step}"},
                    timeout=30,
                )
                value = answer.json()["output"]["value"]
                connection = idle.get()
                with connection, connection.cursor() as cursor:
                    cursor.execute(COMMIT, (task_id, step, answer.text))
                idle.put(connection)
            seconds.append(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
