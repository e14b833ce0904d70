"""Real servers and real processes for tests: one embedded stack for the whole run, nothing shared between two tests.

A pytest plugin. The controlling pytest process starts a small host process (`tests.support.stack_host`); the first
test that asks for a server, in whichever xdist worker, makes the host start the stack. Each test gets a PostgreSQL
database, a numbered Valkey database, Kafka topics and a consumer group of its own, so ``-n 4`` just works.

Fixtures: ``stack``, ``database_url`` (migrated), ``empty_database_url``, ``redis_url``, ``topic_prefix``, ``group_id``,
``kafka_topics``, ``orchestrator_env``, and ``private_stack`` for tests that kill servers. Processes of a test come from
`tests.support.processes`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from orchestrator.devstack.postgres import ROLE, SUPERUSER
from orchestrator.devstack.stack import EmbeddedStack
from tests.support.processes import ROOT, Processes, clean_environment, wait_for
from tests.support.stack_host import VALKEY_DATABASES

__all__ = ["KafkaTopics", "Processes", "SharedStack", "clean_environment", "wait_for"]

RUN_FOLDER = "ORCHESTRATOR_TEST_RUN"
"""Environment variable with the folder of this test run; xdist workers inherit it."""

KAFKA = "ORCHESTRATOR_TEST_KAFKA"
"""Environment variable with the address of a broker to run tests on, in place of the embedded one."""

STACK_START_TIMEOUT = 120.0
SESSION_TIMEOUT = "2"
"""Seconds: this broker makes a group's first join wait for half of it."""

_HOST = pytest.StashKey["subprocess.Popen[bytes]"]()
_TEMPLATE = "template_migrated"

# -- one stack for the run


@dataclass(frozen=True)
class SharedStack:
    """The servers of this test run."""

    postgres: str
    postgres_password: str
    valkey: str
    valkey_password: str
    kafka: str
    logs: Path

    def database_url(self, name: str) -> str:
        """A database, as the role that owns it and is no superuser."""
        return f"postgresql://{ROLE}:{self.postgres_password}@{self.postgres}/{name}"

    def admin_url(self, name: str = "postgres") -> str:
        """A database, as the superuser."""
        return f"postgresql://{SUPERUSER}:{self.postgres_password}@{self.postgres}/{name}"

    def redis_url(self, number: int) -> str:
        """A numbered database of Valkey."""
        return f"redis://:{self.valkey_password}@{self.valkey}/{number}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database that the role owns, as a copy of ``template``. Returns its URL."""
        self._execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template)
            )
        )
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database; whoever is still connected is thrown out."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        connection = psycopg2.connect(self.admin_url())
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


def pytest_configure(config: pytest.Config) -> None:
    """In the controlling process: a folder for the run and the host that may start the stack."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(tempfile.mkdtemp(prefix="orchestrator tests "))  # a path with spaces, in every run
    os.mkfifo(folder / "wanted")
    os.environ[RUN_FOLDER] = str(folder)
    with (folder / "host.log").open("wb") as log:
        config.stash[_HOST] = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stack_host", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run is over: the host stops the stack, and the folder goes."""
    host = config.stash.get(_HOST, None)
    if host is None:
        return
    with host:  # closes its stdin and waits for it
        pass
    shutil.rmtree(os.environ[RUN_FOLDER], ignore_errors=True)


@contextlib.contextmanager
def _one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def stack() -> SharedStack:
    """The servers of this run, started when the first test asks for them."""
    folder = Path(os.environ[RUN_FOLDER])
    description = folder / "stack.json"
    error = folder / "error"
    with _one_at_a_time(folder, "start"):
        if not description.exists() and not error.exists():
            with (folder / "wanted").open("wb", buffering=0) as wanted:
                wanted.write(b"!")
            wait_for(
                lambda: description.exists() or error.exists(), STACK_START_TIMEOUT, "the embedded stack has started"
            )
    if error.exists():
        pytest.fail(f"the embedded stack did not start: {error.read_text(encoding='utf-8')}", pytrace=False)
    said = json.loads(description.read_text(encoding="utf-8"))
    kafka = os.environ.get(KAFKA) or said["kafka"]
    return SharedStack(**{**said, "kafka": kafka, "logs": Path(said["logs"])})


# -- what one test gets


@pytest.fixture
def private_stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Servers of this test alone, which it may kill, stop and start (half a second to start)."""
    own = EmbeddedStack(tmp_path / "stack", postgres_options={"fsync": "off"}, restart=None)
    try:
        own.start()
        yield own
    finally:
        own.destroy()


@pytest.fixture
def unique_name() -> str:
    """A short name that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def empty_database_url(stack: SharedStack, unique_name: str) -> Iterator[str]:
    """A fresh database without tables."""
    name = f"{unique_name}_empty"
    yield stack.create_database(name)
    stack.drop_database(name)


@pytest.fixture(scope="session")
def migrated_template(stack: SharedStack) -> str:
    """Name of the migrated database that each test's is copied from; migrated once a run."""
    from orchestrator.store.migrate import upgrade  # late: tests without a database go without its imports

    folder = Path(os.environ[RUN_FOLDER])
    with _one_at_a_time(folder, "template"):
        done = folder / "template.done"
        if not done.exists():
            stack.drop_database(_TEMPLATE)
            upgrade(stack.create_database(_TEMPLATE))
            done.touch()
    return _TEMPLATE


@pytest.fixture
def database_url(stack: SharedStack, migrated_template: str, unique_name: str) -> Iterator[str]:
    """A fresh migrated database."""
    yield stack.create_database(unique_name, migrated_template)
    stack.drop_database(unique_name)


@pytest.fixture
def redis_url(stack: SharedStack) -> Iterator[str]:
    """A numbered Valkey database of this test's own; Celery's broadcasts are kept apart by the number as well."""
    import redis  # late: it takes long to import, and most tests go without

    with redis.Redis.from_url(stack.redis_url(0)) as counter:
        number = 1 + int(counter.incr("tests:databases")) % (VALKEY_DATABASES - 1)
    url = stack.redis_url(number)
    with redis.Redis.from_url(url) as own:
        own.flushdb()
        yield url
        own.flushdb()


@pytest.fixture
def topic_prefix(unique_name: str) -> str:
    """For ``KAFKA_TOPIC_PREFIX``."""
    return f"{unique_name}."


@pytest.fixture
def group_id(unique_name: str) -> str:
    """For ``KAFKA_GROUP_ID``."""
    return f"{unique_name}-bridge"


@dataclass(frozen=True)
class KafkaTopics:
    """The four topics of a test, on the run's broker."""

    bootstrap_servers: str
    prefix: str
    group_id: str

    @property
    def tasks(self) -> str:
        return f"{self.prefix}tasks"

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def updates(self) -> str:
        return f"{self.prefix}task-updates"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}dead-letters"

    @property
    def all(self) -> tuple[str, ...]:
        return (self.tasks, self.events, self.updates, self.dead_letters)


@pytest.fixture
def kafka_topics(stack: SharedStack, topic_prefix: str, group_id: str) -> KafkaTopics:
    """This test's topics, made with two partitions each."""
    from kafka.admin import KafkaAdminClient, NewTopic  # late: most tests go without Kafka

    topics = KafkaTopics(stack.kafka, topic_prefix, group_id)
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    try:
        admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1) for name in topics.all])
    finally:
        admin.close()
    return topics


@pytest.fixture
def orchestrator_env(
    stack: SharedStack, database_url: str, redis_url: str, topic_prefix: str, group_id: str
) -> dict[str, str]:
    """Settings for bridge, worker, beat and CLI of one test; a test adds or changes what it is about."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "KAFKA_TOPIC_PREFIX": topic_prefix,
        "KAFKA_GROUP_ID": group_id,
        "KAFKA_SESSION_TIMEOUT": SESSION_TIMEOUT,
        "ORCHESTRATOR_MODEL": "rules:",
    }
