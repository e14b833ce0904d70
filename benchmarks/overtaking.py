"""How long a late urgent task waits behind a backlog of 10,000, beside how long the backlog waits.

    python -m benchmarks.overtaking [TASKS]

Everything is real and of its own: servers, bridge, beat, one worker. Each task of the backlog is one step; once the
bridge has taken it all in, urgent tasks (priority 9), one of another tenant and ordinary ones follow. Prints seconds
from producing to the end of the task.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from kafka import KafkaProducer

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.engine import text
from orchestrator.store.migrate import upgrade

ROOT = Path(__file__).resolve().parents[1]
CELERY = (sys.executable, "-m", "celery", "-A", "orchestrator")
LATE = 10


def main() -> None:
    """Measure and print."""
    backlog = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        stack = EmbeddedStack(Path(folder))
        try:
            stack.start()
            measure(stack, backlog)
        finally:
            stack.destroy()


def measure(stack: EmbeddedStack, backlog: int) -> None:
    """Produce the backlog, then the late ones, and wait for all."""
    env = {
        **os.environ,
        **stack.env(),
        "ORCHESTRATOR_MODEL": "rules:",
        "ORCHESTRATOR_AGENTS": str(ROOT / "examples" / "agents.yaml"),
        "SAMPLE_AGENTS_URL": "http://127.0.0.1:9",
        "ORCHESTRATOR_LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT),
    }
    upgrade(env["DATABASE_URL"])
    store = PostgresStore(make_engine(env["DATABASE_URL"]))
    producer = KafkaProducer(bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"], linger_ms=20)

    def produce(name: str, **parts: object) -> None:
        message = {"task_id": name, "task_description": "x", "required_fields": ["a"], "event_data": {"a": 1}, **parts}
        producer.send("tasks", json.dumps(message).encode(), key=name.encode())

    def count(condition: str) -> int:
        with store.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM tasks WHERE {condition}")).scalar_one())  # ours

    def wait_until(condition: str, wanted: int) -> None:
        while count(condition) < wanted:
            time.sleep(0.2)

    stack.supervise("bridge", (sys.executable, "-m", "bridge"), env=env, cwd=ROOT)
    for number in range(backlog):
        produce(f"backlog-{number}", tenant="big")
    producer.flush()
    wait_until("true", backlog)
    print(f"{backlog} taken in", flush=True)
    stack.supervise("beat", (*CELERY, "beat"), env=env, cwd=ROOT)
    stack.supervise("worker", (*CELERY, "worker", "--concurrency", "20"), env=env, cwd=ROOT)
    wait_until("state = 'completed'", backlog // 20)
    began = time.monotonic()
    done = count("state = 'completed'")
    for number in range(LATE):
        produce(f"urgent-{number}", tenant="big", priority=9)
        produce(f"other-{number}", tenant=f"small-{number}")
        produce(f"ordinary-{number}", tenant="big")
    producer.flush()
    wait_until("state = 'completed'", backlog + 3 * LATE)
    rate = (backlog + 3 * LATE - done) / (time.monotonic() - began)
    print(f"one worker, {rate:.0f} steps a second")
    for what in ("backlog", "ordinary", "other", "urgent"):
        with store.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT extract(epoch FROM t.ended_at - to_timestamp(i.timestamp_ms / 1000.0)) AS seconds "
                    "FROM tasks t JOIN inbox i USING (task_id) WHERE task_id LIKE :what"
                ),
                {"what": f"{what}-%"},
            )
            seconds = sorted(float(row.seconds) for row in rows)
        print(f"{what:10} p50 {statistics.median(seconds):7.2f} s   max {seconds[-1]:7.2f} s   ({len(seconds)} tasks)")
    store.close()


if __name__ == "__main__":
    main()
