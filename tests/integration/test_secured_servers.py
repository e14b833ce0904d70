"""Settings for secured servers: TLS to Redis, PostgreSQL and Kafka, Redis with ACL and Sentinel, Kafka's SASL."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.devstack import wheels
from orchestrator.devstack.kafka import KafkaBroker
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.ports import free_port
from orchestrator.devstack.process import ManagedProcess
from orchestrator.devstack.server import Place
from orchestrator.devstack.valkey import ValkeyServer
from orchestrator.domain.journal import Dispatch
from orchestrator.errors import ConfigurationError, DispatchFailed, KafkaUnavailable, StoreUnavailable
from orchestrator.kafka.connection import open_consumer
from orchestrator.kafka.producer import produce
from orchestrator.kafka.topics import ensure_topics
from orchestrator.settings import Settings, read_settings
from orchestrator.store import PostgresStore, make_engine
from tests.integration.test_dispatcher import dispatcher_for
from tests.support.processes import wait_for
from tests.support.sasl import PASSWORD, TOKEN, USER, sasl
from tests.support.secured import CA, OTHER_CA, Door, postgres_tls, tls
from tests.support.stack import SharedStack
from tests.support.system import System


def settings(**values: str) -> Settings:
    return read_settings({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", **values}, dotenv=None)


# -- Redis


def rings(given: Settings) -> None:
    """A doorbell can be rung and counted."""
    dispatcher = dispatcher_for(given)
    try:
        dispatcher.dispatch([Dispatch("t-1", 1)])
        assert dispatcher.backlog() == 1
    finally:
        dispatcher.close()


@pytest.mark.parametrize("ca", [CA, OTHER_CA])
def test_rediss_trusts_our_ca_alone(stack: SharedStack, redis_url: str, ca: Path) -> None:
    with Door(stack.valkey, tls) as door:
        url = redis_url.replace("redis://", "rediss://").replace(stack.valkey, door.address)
        given = settings(REDIS_URL=url, REDIS_SSL_CA=str(ca))
        if ca == CA:
            rings(given)
            assert door.opened
        else:
            with pytest.raises(DispatchFailed, match=r"(?i)certificate"):
                rings(given)


def test_a_worker_works_over_tls(system: System, stack: SharedStack, database_url: str) -> None:
    """The whole product with TLS to Redis and to PostgreSQL."""
    with Door(stack.valkey, tls) as redis_door, Door(stack.postgres, postgres_tls) as postgres_door:
        plain = system.env["REDIS_URL"]
        system.env["REDIS_URL"] = plain.replace("redis://", "rediss://").replace(stack.valkey, redis_door.address)
        system.env["REDIS_SSL_CA"] = str(CA)
        secured = database_url.replace(stack.postgres, postgres_door.address)
        system.env["DATABASE_URL"] = f"{secured}?sslmode=verify-full&sslrootcert={CA}"
        system.start("bridge", "worker", "beat")
        system.produce_task("tls-1", required_fields=["legal_name"], event_data={"company_name": "Lumen Optik AG"})
        system.wait_for_state("tls-1", "completed")
        assert redis_door.opened
        assert postgres_door.opened


@pytest.fixture
def valkey_with_acl(keeper: Keeper, tmp_path: Path) -> Iterator[ValkeyServer]:
    user = "user orders on >acl-password ~orchestrator:* &* +@all -@dangerous +info"
    place = Place(tmp_path / "valkey", tmp_path / "valkey.log")
    server = ValkeyServer(keeper, place, password="of-the-default-user", settings=[user])
    server.folder.mkdir()
    server.start()
    yield server
    server.stop()


def test_a_redis_user_of_its_own(valkey_with_acl: ValkeyServer) -> None:
    rings(settings(REDIS_URL=f"redis://orders:acl-password@{valkey_with_acl.address}/0"))
    for login in ("orders:wrong@", ""):
        with pytest.raises(DispatchFailed):
            rings(settings(REDIS_URL=f"redis://{login}{valkey_with_acl.address}/0"))


@pytest.fixture
def sentinel(keeper: Keeper, tmp_path: Path) -> Iterator[tuple[ValkeyServer, ManagedProcess, int]]:
    """A Valkey, and a Sentinel with a password of its own that watches it."""
    place = Place(tmp_path / "valkey", tmp_path / "valkey.log")
    server = ValkeyServer(keeper, place, password="of-the-master")
    server.folder.mkdir()
    server.start()
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass of-the-sentinel\ndir {tmp_path}\n"
        f"sentinel monitor orders 127.0.0.1 {server.port} 1\nsentinel auth-pass orders of-the-master\n"
    )
    argv = [str(wheels.valkey_server()), str(configuration), "--sentinel"]
    process = ManagedProcess(
        keeper, "sentinel", argv, env=dict(os.environ), log=tmp_path / "sentinel.log", cwd=tmp_path
    )
    process.start()
    wait_for(lambda: "+monitor master orders" in process.log_text(), what="the Sentinel watches")
    yield server, process, port
    process.stop()
    server.stop()


def test_redis_behind_sentinel(sentinel: tuple[ValkeyServer, ManagedProcess, int]) -> None:
    _, _, port = sentinel
    given = {
        "REDIS_URL": f"sentinel://:of-the-master@127.0.0.1:{port};sentinel://127.0.0.1:1",
        "REDIS_SENTINEL_MASTER": "orders",
        "REDIS_SENTINEL_PASSWORD": "of-the-sentinel",
    }
    rings(settings(**given))
    with pytest.raises(DispatchFailed):
        rings(settings(**{**given, "REDIS_SENTINEL_MASTER": "nobody", "REDIS_KEY_PREFIX": "other:"}))


def test_redis_cluster_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigurationError, match="Redis Cluster cannot be Celery's broker"):
        settings(REDIS_URL="redis+cluster://127.0.0.1:7000")


# -- PostgreSQL


def test_sslmode_of_postgresql(stack: SharedStack, database_url: str) -> None:
    with Door(stack.postgres, postgres_tls) as door:
        url = database_url.replace(stack.postgres, door.address)
        for ca, trusted in ((CA, True), (OTHER_CA, False)):
            store = PostgresStore(make_engine(f"{url}?sslmode=verify-full&sslrootcert={ca}"))
            try:
                if trusted:
                    assert store.undispatched() == 0
                else:
                    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                        store.undispatched()
            finally:
                store.close()


# -- Kafka


@pytest.fixture(params=["TLS", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
def locked_kafka(
    request: pytest.FixtureRequest, keeper: Keeper, tmp_path: Path
) -> Iterator[tuple[Door, dict[str, str]]]:
    """A broker that tells clients to come through a door, and the settings that open it."""
    mechanism = request.param
    port = free_port()

    class Behind(KafkaBroker):
        def argv(self) -> Sequence[str]:
            argv = list(super().argv())
            argv[argv.index("--advertised-listener-url") + 1] = f"tcp://127.0.0.1:{port}"
            return argv

    broker = Behind(keeper, Place(tmp_path / "kafka", tmp_path / "kafka.log"))
    broker.folder.mkdir()
    broker.start()
    locks = [tls] if mechanism == "TLS" else [tls, sasl(mechanism)]
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
        "KAFKA_SECURITY_PROTOCOL": "SSL" if mechanism == "TLS" else "SASL_SSL",
        "KAFKA_SSL_CA": str(CA),
        "KAFKA_SESSION_TIMEOUT": "2",
    }
    if mechanism == "OAUTHBEARER":
        env |= {"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_OAUTH_TOKEN": TOKEN}
    elif mechanism != "TLS":
        env |= {"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": PASSWORD}
    with Door(broker.address, *locks, port=port) as door:
        yield door, env
    broker.stop()


def test_kafka_through_its_locks(locked_kafka: tuple[Door, dict[str, str]]) -> None:
    door, env = locked_kafka
    given = settings(**env)
    ensure_topics(given, threading.Event())
    produce(given, given.topic("tasks"), b"key", b"value", [])
    consumer = open_consumer(given)
    try:
        consumer.subscribe([given.topic("tasks")])
        polled = wait_for(lambda: consumer.poll(200), what="the record")
        assert [record.value for records in polled.values() for record in records] == [b"value"]
    finally:
        consumer.close()
    assert door.opened

    with pytest.raises(KafkaUnavailable):
        produce(settings(**{**env, "KAFKA_SSL_CA": str(OTHER_CA)}), given.topic("tasks"), b"key", b"value", [])
    wrong = {"KAFKA_SASL_PASSWORD": "wrong", "KAFKA_OAUTH_TOKEN": "wrong.token"}
    if changed := {name: value for name, value in wrong.items() if name in env}:
        with pytest.raises((ConfigurationError, KafkaUnavailable)):
            produce(settings(**{**env, **changed}), given.topic("tasks"), b"key", b"value", [])
