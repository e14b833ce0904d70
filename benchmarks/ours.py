"""The work on the orchestrator: tasks are accepted as the bridge does it, workers finish them.

The processes are the product's own, with the settings of the run in their environment; nothing in them knows that it
is measured. The planner is `rules:`, trivial on three agents in a row.

``python -m benchmarks.ours TASKS [one-after-another | at-rate TASKS_A_SECOND | size BYTES]``
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2

from benchmarks.work import STEPS, fields, report
from orchestrator.domain.message import Record, TaskMessage
from orchestrator.flow.accept import Accept
from orchestrator.flow.ports import Received
from orchestrator.settings import read_settings
from orchestrator.wiring import build_dispatcher, build_store

BATCH = 500


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run of the orchestrator went; lengths of time in seconds."""

    seconds: float
    steps: int
    task_seconds: Sequence[float]
    """From a task's acceptance to its end, sorted, by PostgreSQL's clock."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How many tasks were completed since a moment, and when the last one ended (seconds since 1970)."""

    count: int
    last: float


class Orchestrator:
    """Feeds tasks in and waits for them."""

    def __init__(self, env: dict[str, str]) -> None:
        settings = read_settings(env, dotenv=None)
        self._store = build_store(settings, "bench")
        self._accept = Accept(self._store, build_dispatcher(settings), window=1_000_000, stall=settings.stall_for)
        self._connection = psycopg2.connect(env["DATABASE_URL"])
        self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            # A look at what has ended takes as long whatever lies in the table from runs before.
            cursor.execute("SET enable_seqscan = off")
        self._offset = 0
        self.filler = ""
        """Put into each task's context, for its size."""

    def run(self, tasks: int, patience: float = 300.0) -> Finished:
        """Accept so many tasks, and wait until all are completed.

        Raises:
            TimeoutError: they are not within ``patience`` seconds.
        """
        run_id = time.time_ns()
        for first in range(0, tasks, BATCH):
            batch = [self._received(f"{run_id}-{number}") for number in range(first, min(first + BATCH, tasks))]
            self._accept.take_in(batch).ring()
        return self._finished(run_id, tasks, patience)

    def _finished(self, run_id: int, tasks: int, patience: float) -> Finished:
        """Wait until so many tasks of the run that began at ``run_id`` (nanoseconds) are completed."""
        begun = run_id / 1e9
        while (ended := self._ended(begun)).count < tasks:
            if time.time() - begun > patience:
                raise TimeoutError(f"{ended.count} of {tasks} tasks were completed within {patience:.0f} s")
            time.sleep(0.1 if tasks > 1 else 0.02)
        return Finished(ended.last - begun, tasks * STEPS, self._task_seconds(run_id))

    def at_rate(self, tasks: int, rate: float) -> Finished:
        """Accept tasks one by one at this rate (tasks a second), whatever becomes of them; then as `run`."""
        run_id = time.time_ns()
        begun = time.perf_counter()
        for number in range(tasks):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            self._accept.take_in([self._received(f"{run_id}-{number}")]).ring()
        return self._finished(run_id, tasks, 300.0)

    def one_after_another(self, tasks: int) -> Sequence[float]:
        """Seconds of tasks that are alone on an idle system, sorted."""
        return sorted(seconds for _ in range(tasks) for seconds in self.run(1).task_seconds)

    def close(self) -> None:
        """Close its connections."""
        self._connection.close()
        self._store.close()

    def _received(self, task_id: str) -> Received:
        self._offset += 1
        record = Record("bench", 0, self._offset, time.time_ns() // 1_000_000, task_id.encode(), task_id.encode())
        return Received(
            record,
            TaskMessage(
                task_id, "Find all.", tuple(fields()), {"f0": "v"} | ({"filler": self.filler} if self.filler else {})
            ),
        )

    def _ended(self, begun: float) -> _Ended:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FILTER (WHERE state = 'completed'), extract(epoch FROM max(ended_at)) FROM tasks "
                "WHERE ended_at >= to_timestamp(%s)",
                (begun,),
            )
            row = cursor.fetchone()
        return _Ended(0, begun) if row is None or row[1] is None else _Ended(int(row[0]), float(row[1]))

    def _task_seconds(self, run_id: int) -> Sequence[float]:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM ended_at - created_at) FROM tasks WHERE task_id LIKE %s ORDER BY 1",
                (f"{run_id}-%",),
            )
            return [float(row[0]) for row in cursor.fetchall()]


def main() -> None:
    """Run, and print the figures."""
    driver = Orchestrator(dict(os.environ))
    if sys.argv[2:] == ["one-after-another"]:
        report(task_seconds=driver.one_after_another(int(sys.argv[1])))
    else:
        how = sys.argv[2:]
        if how[:1] == ["size"]:
            driver.filler = "x" * int(how[1])
        cpu = time.process_time()
        tasks = int(sys.argv[1])
        finished = driver.at_rate(tasks, float(how[1])) if how[:1] == ["at-rate"] else driver.run(tasks)
        cpu = time.process_time() - cpu
        report(seconds=finished.seconds, cpu=cpu, steps=finished.steps, task_seconds=finished.task_seconds)
    driver.close()


if __name__ == "__main__":
    main()
