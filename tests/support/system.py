"""The whole product in processes of its own on the run's servers: bridge, workers, beat, Flower. A pytest plugin.

    def test_something(system):
        system.start("bridge", "worker", "beat")
        system.produce_task("t-1", required_fields=["legal_name"], event_data={"company_name": "…"})
        system.wait_for_state("t-1", "completed")

Fixture: ``system``. It knows the sample agents; `use_agents` gives it others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaConsumer, KafkaProducer

from orchestrator.devstack.ports import free_port
from orchestrator.devstack.process import ManagedProcess
from orchestrator.domain.task import Task
from orchestrator.errors import TaskNotFound
from orchestrator.settings import Settings, read_settings
from orchestrator.store import PostgresStore, make_engine
from tests.support.agents import SampleAgents
from tests.support.command import Command
from tests.support.processes import ROOT, Processes, clean_environment, wait_for
from tests.support.stack import KafkaTopics

CELERY = (sys.executable, "-m", "celery", "-A", "orchestrator")
PROGRAMS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "bridge": ((sys.executable, "-m", "bridge"), "bridge.reading"),
    "worker": ((*CELERY, "worker", "--without-gossip", "--without-mingle"), "worker.ready"),
    "beat": ((*CELERY, "beat"), "beat.ready"),
    "flower": ((*CELERY, "flower"), "Visit me at"),
}
"""Command of each process, and what its log says when it works."""


class System:
    """Processes, and what a user does with them."""

    def __init__(self, env: dict[str, str], processes: Processes, folder: Path, store: PostgresStore) -> None:
        self.env = env
        self.processes = processes
        self.folder = folder
        self.store = store
        self.orchestrator = Command(env, folder)
        self.producer = KafkaProducer(bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"], linger_ms=5)

    @property
    def settings(self) -> Settings:
        return read_settings(self.env, dotenv=None)

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.env['FLOWER_PORT']}"

    # -- processes

    def start(self, *names: str, **env: str) -> None:
        """Start these programs (all at once) and wait until each works."""
        started = [(self.start_one(name, **env), PROGRAMS[name][1]) for name in names]
        for process, ready in started:
            self.processes.wait_for_log(process, ready)

    def start_one(self, name: str, *arguments: str, as_name: str | None = None, **env: str) -> ManagedProcess:
        """Start one program with further arguments, without waiting."""
        argv = (*PROGRAMS[name][0], *arguments)
        return self.processes.start(as_name or name, argv, env={**self.env, **env}, cwd=self.folder, grace=10.0)

    def start_worker(self, number: int, *arguments: str, **env: str) -> ManagedProcess:
        """Start a worker beside others, under a name of its own, and wait until it works."""
        name = f"worker{number}"
        process = self.start_one("worker", "--hostname", f"{name}@%h", *arguments, as_name=name, **env)
        self.processes.wait_for_log(process, PROGRAMS["worker"][1])
        return process

    def celery(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of Celery's own commands, to its end."""
        return subprocess.run(
            [*CELERY, *arguments],
            env={**clean_environment(), **self.env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    # -- files

    def use_agents(self, *entries: Mapping[str, Any]) -> None:
        """Write these entries as the registry of processes started from now on."""
        path = self.folder / "agents.yaml"
        path.write_text(yaml.safe_dump({"agents": [dict(entry) for entry in entries]}), encoding="utf-8")
        self.env["ORCHESTRATOR_AGENTS"] = str(path)

    # -- Kafka

    def produce(self, topic: str, value: bytes | Mapping[str, Any] | None, key: str | None = None) -> Any:
        """Put a record into one of our topics, named without its prefix; the future tells whether the broker has it."""
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        return self.producer.send(
            self.env["KAFKA_TOPIC_PREFIX"] + topic, raw, key=None if key is None else key.encode("utf-8")
        )

    def produce_task(self, task_id: str, **parts: Any) -> Any:
        """Produce a task keyed by its id; gives the future."""
        message = {"task_id": task_id, "task_description": f"Do {task_id}", **parts}
        return self.produce("tasks", message, key=task_id)

    def produce_event(self, task_id: str, event_type: str | None = None, **event_data: Any) -> None:
        """Produce an event keyed by its task."""
        message: dict[str, Any] = {"task_id": task_id, "event_data": event_data}
        if event_type is not None:
            message["event_type"] = event_type
        self.produce("events", message, key=task_id)

    def read(
        self,
        topic: str,
        count: int,
        timeout: float = 20.0,
        counted_by: Callable[[dict[str, Any]], object] = id,
    ) -> list[dict[str, Any]]:
        """The records of one of our topics from its beginning, as JSON, until there are ``count``.

        Args:
            counted_by: what makes a record count as one; given a field, records that come twice count once.
        """
        consumer = KafkaConsumer(
            self.env["KAFKA_TOPIC_PREFIX"] + topic,
            bootstrap_servers=self.env["KAFKA_BOOTSTRAP_SERVERS"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            for records in consumer.poll(200).values():
                found.extend(json.loads(record.value) for record in records)
            return len({counted_by(record) for record in found}) >= count

        try:
            wait_for(enough, timeout, f"{count} records in {topic}")
        finally:
            consumer.close()
        return found

    # -- tasks

    def task(self, task_id: str) -> Task | None:
        """The task as it is now; None where it is not known yet."""
        try:
            return self.store.task(task_id)
        except TaskNotFound:
            return None

    def wait_for_state(self, task_id: str, state: str, timeout: float = 60.0) -> Task:
        """Wait until a task is in a state; fails with what it is in instead."""

        def seen() -> Task | None:
            task = self.task(task_id)
            return task if task is not None and task.state == state else None

        try:
            found = wait_for(seen, timeout, f"{task_id} is {state}", every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.task(task_id)}") from None
        assert found is not None
        return found

    def wait_for_all(self, task_ids: Sequence[str], state: str = "completed", timeout: float = 120.0) -> None:
        """Wait until all these tasks are in a state."""
        wanted = set(task_ids)

        def done() -> bool:
            found = {task.task_id for task in self.store.tasks(state=state, limit=len(wanted) + 100)}
            return wanted <= found

        wait_for(done, timeout, f"all {len(wanted)} tasks are {state}", every=0.2)

    def data(self, task_id: str) -> dict[str, Any]:
        """What the task knows."""
        return dict(self.store.context(task_id).collected_data)

    def close(self) -> None:
        self.producer.close()
        self.store.close()


@pytest.fixture
def system(
    orchestrator_env: dict[str, str],
    kafka_topics: KafkaTopics,
    sample_agents: SampleAgents,
    processes: Processes,
    tmp_path: Path,
) -> Iterator[System]:
    """The product on the run's servers, nothing started yet; quick sweeps."""
    env = {
        **orchestrator_env,
        "ORCHESTRATOR_AGENTS": str(ROOT / "examples" / "agents.yaml"),
        "ORCHESTRATOR_EVENTS": str(ROOT / "examples" / "events.yaml"),
        "SAMPLE_AGENTS_URL": sample_agents.base_url,
        "ORCHESTRATOR_SWEEP_INTERVAL": "0.3",
        "FLOWER_PORT": str(free_port()),
    }
    found = System(env, processes, tmp_path, PostgresStore(make_engine(orchestrator_env["DATABASE_URL"])))
    yield found
    processes.stop_all()
    found.close()
