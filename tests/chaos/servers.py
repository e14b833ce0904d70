"""The servers of a storm, and how they are struck: those that it starts itself, or those that the environment names."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
import redis

from orchestrator.devstack.kafka import KafkaBroker
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.postgres import PostgresServer
from orchestrator.devstack.server import Place, Server
from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.kafka.connection import connection_config
from orchestrator.settings import Settings, read_settings
from orchestrator.store import make_engine
from orchestrator.store.migrate import current, upgrade
from tests.kafka.apache import ApacheKafka
from tests.support.pgbouncer import PgBouncer

GIVEN = ("DATABASE_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS")
"""What must be set for a storm on servers that it did not start. Further settings (TLS, logins) are passed on."""


class NotForStorms(Exception):
    """Why a storm is not let loose on the servers that are given."""


class Switch(Protocol):
    """A server that can be ended and started."""

    def kill(self) -> None:
        """End it at once."""

    def stop(self) -> None:
        """End it in an orderly way."""

    def start(self) -> None:
        """Start it again with its data; returns when it answers."""


@dataclass
class Servers:
    """Where everything is, and what can be done to it.

    A server without a switch is not ours to end: faults that need one are left out.
    """

    keeper: Keeper
    env: Mapping[str, str]
    """Settings for the product's processes."""
    database_url: str
    """The database itself, without a PgBouncer in between."""
    switches: Mapping[str, Switch]
    """``redis``, ``postgres``, ``kafka``."""
    redis_prefix: str = ""
    """Whose keys are ours; empty: all."""
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = read_settings(dict(self.env), dotenv=None)

    @property
    def redis_url(self) -> str:
        """Redis."""
        return self.settings.redis_url.get_secret_value()

    @property
    def kafka(self) -> dict[str, Any]:
        """How a client of kafka-python reaches Kafka."""
        config = connection_config(self.settings)
        return {name: value for name, value in config.items() if name not in {"client_id", "metadata_max_age_ms"}}

    def topic(self, kind: str) -> str:
        """The full name of ``tasks``, ``events``, ``updates`` or ``dead_letters``."""
        return self.settings.topic(kind)  # type: ignore[arg-type]  # the settings name the four

    def can(self, kind: str) -> bool:
        """Whether a fault of this kind can strike here."""
        needs_switch = {"redis.kill", "redis.restart", "postgres.kill", "postgres.restart", "kafka.kill"}
        if kind == "postgres.full":
            return isinstance(self.switches.get("postgres"), PostgresServer)
        return kind not in needs_switch or kind.partition(".")[0] in self.switches

    # -- Redis

    def flush_redis(self) -> None:
        """Empty it, or the part of it that is ours."""
        with contextlib.suppress(redis.ConnectionError), self._redis() as client:
            if not self.redis_prefix:
                client.flushall()
                return
            while names := list(client.scan_iter(match=f"{self.redis_prefix}*", count=1000)):
                client.delete(*names)

    def cut_redis(self) -> None:
        """End all connections of clients."""
        with contextlib.suppress(redis.ConnectionError), self._redis() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def hang_redis(self, seconds: float) -> None:
        """Let it answer nothing for a while."""
        switch = self.switches.get("redis")
        if isinstance(switch, Server):
            switch.process.signal(signal.SIGSTOP)
            time.sleep(seconds)
            switch.process.signal(signal.SIGCONT)
            return
        with contextlib.suppress(redis.ConnectionError), self._redis() as client:
            client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
        time.sleep(seconds)

    def forget_redis(self) -> None:
        """Restart it without what it kept on disk."""
        switch = self.switches["redis"]
        switch.kill()
        if isinstance(switch, Server):
            for path in switch.folder.glob("appendonlydir/*"):
                path.unlink()
        switch.start()
        if not isinstance(switch, Server):
            self.flush_redis()

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, socket_timeout=10)

    # -- PostgreSQL

    def restart_postgres(self, immediate: bool) -> None:
        """Stop it (``immediate``: without a word to anybody, to be recovered from its log) and start it."""
        switch = self.switches["postgres"]
        if immediate and isinstance(switch, Server):
            switch.process.signal(signal.SIGQUIT)
            switch.process.wait(30)
        switch.stop()
        switch.start()

    def cut_postgres(self) -> None:
        """End all connections to the database but ours."""
        connection = psycopg2.connect(self.database_url, connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
                )
        finally:
            connection.close()

    def fill_postgres(self, seconds: float) -> None:
        """Take every connection that it has, the product's own included, and keep them for a while."""
        server = self.switches["postgres"]
        if not isinstance(server, PostgresServer):
            raise NotForStorms("not a server of our own")
        taken: list[psycopg2.extensions.connection] = []
        try:
            for again in (True, False):
                with contextlib.suppress(psycopg2.OperationalError):
                    while len(taken) < 1000:
                        taken.append(psycopg2.connect(self.database_url, application_name="taken", connect_timeout=5))
                if again:
                    self._end_others(server)
            time.sleep(seconds)
        finally:
            for connection in taken:
                connection.close()

    @staticmethod
    def _end_others(server: PostgresServer) -> None:
        admin = psycopg2.connect(server.admin_url(), connect_timeout=5)
        try:
            admin.autocommit = True
            with admin.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = 'orchestrator' AND application_name <> 'taken'"
                )
        finally:
            admin.close()


@dataclass(frozen=True, slots=True)
class Commands:
    """A server that a storm did not start: shell commands end it and start it."""

    ends: str
    starts: str

    def kill(self) -> None:
        """End it."""
        self._run(self.ends)

    def stop(self) -> None:
        """End it."""
        self._run(self.ends)

    def start(self) -> None:
        """Start it; the command returns when it answers."""
        self._run(self.starts)

    @staticmethod
    def _run(command: str) -> None:
        subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL, timeout=120)


@contextlib.contextmanager
def own_servers(folder: Path, classpath: str | None, *, pgbouncer: bool = False) -> Iterator[Servers]:
    """Servers of this storm alone, with durable data in ``folder``.

    Args:
        classpath: of Apache Kafka; None takes the embedded broker.
        pgbouncer: put PgBouncer in transaction mode before PostgreSQL.
    """
    stack = EmbeddedStack(
        folder / "stack",
        restart=None,
        durable_kafka=classpath is None,
        postgres_options={"max_connections": "100"},
    )
    with stack:
        kafka: KafkaBroker | ApacheKafka = stack.kafka
        if classpath is not None:
            kafka = ApacheKafka(stack.keeper, Place(folder / "kafka", stack.logs / "apache-kafka.log"), classpath)
            kafka.start()
        env = {**stack.env(), "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_SESSION_TIMEOUT": "3"}
        upgrade(stack.postgres.url())
        if pgbouncer:
            place = Place(folder / "pgbouncer", stack.logs / "pgbouncer.log")
            between = PgBouncer(stack.keeper, place, stack.postgres.url(), pool=8)
            between.start()
            env["DATABASE_URL"] = between.url()
        switches: dict[str, Switch] = {"redis": stack.valkey, "postgres": stack.postgres, "kafka": kafka}
        try:
            yield Servers(stack.keeper, env, stack.postgres.url(), switches)
        finally:
            if kafka is not stack.kafka:
                kafka.kill()


@contextlib.contextmanager
def given_servers(folder: Path, environment: Mapping[str, str]) -> Iterator[Servers]:
    """The servers that ``environment`` names, with topics, group and keys of this storm alone.

    ``CHAOS_STOP_POSTGRES`` and ``CHAOS_START_POSTGRES`` (the same for ``REDIS`` and ``KAFKA``) are shell commands, the
    second returning when the server answers; without both, that server is not ended, but its connections are cut.

    Raises:
        NotForStorms: a setting is missing, or the database holds something.
    """
    if missing := [name for name in GIVEN if name not in environment]:
        raise NotForStorms(f"{', '.join(missing)} must be set")
    own = f"chaos-{secrets.token_hex(4)}"
    names = {field.alias for field in Settings.model_fields.values()}
    env = {
        **{name: value for name, value in environment.items() if name.removesuffix("_FILE") in names},
        "KAFKA_TOPIC_PREFIX": f"{own}.",
        "KAFKA_GROUP_ID": own,
        "KAFKA_SESSION_TIMEOUT": environment.get("KAFKA_SESSION_TIMEOUT", "6"),
        "REDIS_KEY_PREFIX": f"{own}:",
    }
    _refuse_a_database_in_use(env["DATABASE_URL"])
    switches: dict[str, Switch] = {}
    for name in ("redis", "postgres", "kafka"):
        ends, starts = (environment.get(f"CHAOS_{word}_{name.upper()}") for word in ("STOP", "START"))
        if ends and starts:
            switches[name] = Commands(ends, starts)
    upgrade(env["DATABASE_URL"])
    keeper = Keeper(f"chaos-{os.getpid()}", folder / "keeper.log")
    try:
        servers = Servers(keeper, env, env["DATABASE_URL"], switches, f"{own}:")
        yield servers
        servers.flush_redis()
    finally:
        keeper.close()


def _refuse_a_database_in_use(url: str) -> None:
    if current(url) is None:
        return
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one()
    finally:
        engine.dispose()
    if found:
        raise NotForStorms(f"the database holds {found} tasks; a storm wants one that is empty")
