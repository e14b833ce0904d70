"""The bridge as a process among killed bridges, a PostgreSQL that comes and goes, and topics and offsets made anew.

Whatever happens, each record is taken in once: none is lost, none twice.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg2
import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from orchestrator.devstack.process import ManagedProcess
from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.migrate import upgrade
from tests.support.intake_seen import accepted, assert_each_taken_once, execute, scalar, unpublished
from tests.support.processes import wait_for
from tests.support.stack import KafkaTopics
from tests.support.system import System

SMALL_BATCHES = {"BRIDGE_BATCH": "10"}
"""Many commits, so that a kill falls between or into them."""


def produce(system: System, name: str, count: int) -> list[str]:
    """Produce as many tasks, all confirmed by the broker; their ids."""
    ids = [f"{name}-{number}" for number in range(count)]
    sent = [system.produce_task(task_id) for task_id in ids]
    system.producer.flush()
    for one in sent:
        one.get(timeout=30)
    return ids


def wait_for_accepted(system: System, count: int, timeout: float = 60.0) -> None:
    wait_for(lambda: accepted(system.store) >= count, timeout, f"{count} tasks are taken in")


def start_bridge(system: System, name: str = "bridge", **env: str) -> ManagedProcess:
    """Start a bridge beside others, and wait until it reads."""
    bridge = system.start_one("bridge", as_name=name, **env)
    system.processes.wait_for_log(bridge, "bridge.reading")
    return bridge


def assert_each_published(system: System, ids: list[str]) -> None:
    """Each first update reached Kafka; where it came twice, with the same update_id."""
    wait_for(lambda: unpublished(system.store) == 0, 60.0, "all updates are published")
    seen: dict[str, set[str]] = {}
    for update in system.read("task-updates", len(ids), counted_by=lambda update: update["task_id"]):
        seen.setdefault(update["task_id"], set()).add(update["update_id"])
    assert {task_id: len(update_ids) for task_id, update_ids in seen.items()} == dict.fromkeys(ids, 1)


# -- killed bridges


def test_a_bridge_killed_inside_a_commit_loses_nothing_and_repeats_nothing(system: System) -> None:
    bridge = start_bridge(system, **SMALL_BATCHES)
    ids = produce(system, "first", 100)
    wait_for_accepted(system, 1)

    blocker = psycopg2.connect(system.env["DATABASE_URL"])
    try:
        # The offsets are the last thing that the commit of a batch writes.
        blocker.cursor().execute("LOCK TABLE offsets IN EXCLUSIVE MODE")
        ids += produce(system, "second", 400)
        wait_for(lambda: waits_for_a_lock(system.store), what="a commit of the bridge is under way")
        bridge.kill()
    finally:
        blocker.close()
    assert 0 < accepted(system.store) < len(ids)

    start_bridge(system, "successor")
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids)
    assert_each_published(system, ids)


def waits_for_a_lock(store: PostgresStore) -> bool:
    query = """
        SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                       AND application_name = 'orchestrator-bridge')
    """
    return bool(scalar(store, query))


def test_bridges_killed_at_any_moment_take_each_record_once(system: System) -> None:
    ids = produce(system, "many", 500)
    before = 0
    for number in range(4):
        bridge = start_bridge(system, f"bridge{number}", BRIDGE_BATCH="3")
        wait_for_accepted(system, min(before + 20, len(ids)))
        bridge.kill()
        before = accepted(system.store)
    start_bridge(system, "successor")
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids)
    assert_each_published(system, ids)


def test_of_two_bridges_the_other_takes_over(system: System) -> None:
    first = start_bridge(system, "first", **SMALL_BATCHES)
    second = start_bridge(system, "second", **SMALL_BATCHES)
    wait_for(lambda: "bridge.partitions_given_up" in first.log_text(), what="the first shares its partitions")
    ids = produce(system, "shared", 200)
    wait_for_accepted(system, len(ids))

    publisher, other = (first, second) if "updates.elected" in first.log_text() else (second, first)
    ids += produce(system, "orphaned", 300)
    wait_for_accepted(system, 210)
    publisher.kill()
    ids += produce(system, "late", 50)
    wait_for_accepted(system, len(ids))
    assert other.running
    assert_each_taken_once(system.store, ids)
    assert_each_published(system, ids)
    assert "updates.elected" in other.log_text()


def test_a_bridge_that_was_frozen_beyond_its_session_takes_nothing_twice(system: System) -> None:
    frozen = start_bridge(system, "frozen", **SMALL_BATCHES)
    ids = produce(system, "before", 100)
    wait_for_accepted(system, 10)
    frozen.signal(signal.SIGSTOP)
    start_bridge(system, "other", **SMALL_BATCHES)
    ids += produce(system, "meanwhile", 100)
    wait_for_accepted(system, len(ids))
    frozen.signal(signal.SIGCONT)
    ids += produce(system, "after", 100)
    wait_for_accepted(system, len(ids))
    assert frozen.running
    assert_each_taken_once(system.store, ids)
    assert_each_published(system, ids)


# -- PostgreSQL away


@pytest.fixture
def own_servers(private_stack: EmbeddedStack, system: System) -> Iterator[System]:
    """The product on servers that the test may kill."""
    system.env |= {**private_stack.env(), "KAFKA_SESSION_TIMEOUT": "2"}
    upgrade(system.env["DATABASE_URL"])
    own = System(system.env, system.processes, system.folder, PostgresStore(make_engine(system.env["DATABASE_URL"])))
    yield own
    # Before the servers go, or the bridge would be stopped while it looks for them.
    system.processes.stop_all()
    own.close()


def test_it_stays_up_without_postgresql_and_goes_on(own_servers: System, private_stack: EmbeddedStack) -> None:
    system = own_servers
    bridge = start_bridge(system)
    ids = produce(system, "before", 50)
    wait_for_accepted(system, len(ids))
    private_stack.postgres.kill()
    ids += produce(system, "meanwhile", 50)
    # Longer than the session, which polling without reading must keep.
    wait_for(lambda: bridge.log_text().count("bridge.paused") >= 5, 30.0, "it waits for PostgreSQL")
    assert bridge.running
    private_stack.postgres.start()
    wait_for_accepted(system, len(ids))
    ids += produce(system, "after", 50)
    wait_for_accepted(system, len(ids))

    assert "bridge.resumed" in bridge.log_text()
    assert "bridge.partitions_given_up" not in bridge.log_text()
    assert "Traceback" not in bridge.log_text()
    assert_each_taken_once(system.store, ids)
    assert_each_published(system, ids)


def test_it_starts_without_postgresql_and_stops_without_it(own_servers: System, private_stack: EmbeddedStack) -> None:
    system = own_servers
    ids = produce(system, "waiting", 20)
    private_stack.postgres.kill()
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.paused")
    private_stack.postgres.start()
    wait_for_accepted(system, len(ids))
    private_stack.postgres.kill()
    wait_for(lambda: "updates.not_published" in bridge.log_text().split("bridge.reading")[-1], what="it is noticed")
    assert bridge.stop(grace=20.0) == 0
    private_stack.postgres.start()
    assert_each_taken_once(system.store, ids)


# -- the broker, topics and offsets


def test_a_broker_that_lost_everything_is_read_from_its_beginning(
    own_servers: System, private_stack: EmbeddedStack
) -> None:
    """Its topics are gone, and offsets start at 0 again, below those that PostgreSQL and the bridge remember."""
    system = own_servers
    bridge = start_bridge(system)
    ids = produce(system, "before", 50)
    wait_for_accepted(system, len(ids))
    wait_for(lambda: unpublished(system.store) == 0, what="all updates are published")
    placed = bridge.log_text().count("bridge.reading")
    # The test's own producer would remember what this broker knew of it.
    system.producer.close()
    private_stack.kafka.kill()
    private_stack.kafka.start()
    wait_for(lambda: bridge.log_text().count("bridge.reading") > placed, 40.0, "the bridge reads the new topics")
    system.producer = KafkaProducer(bootstrap_servers=system.env["KAFKA_BOOTSTRAP_SERVERS"])
    later = produce(system, "after", 20)
    wait_for_accepted(system, len(ids + later))
    assert bridge.running
    assert_each_taken_once(system.store, ids + later)
    assert_each_published(system, later)


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is away"])
def test_a_topic_made_anew_is_read_from_its_beginning(system: System, kafka_topics: KafkaTopics, running: bool) -> None:
    bridge = start_bridge(system)
    ids = produce(system, "before", 50)
    wait_for_accepted(system, len(ids))
    if not running:
        assert bridge.stop() == 0
    make_anew(kafka_topics)
    ids += produce(system, "after", 20)
    if not running:
        start_bridge(system, "successor")
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids)


def make_anew(topics: KafkaTopics) -> None:
    admin = KafkaAdminClient(bootstrap_servers=topics.bootstrap_servers)
    try:
        admin.delete_topics([topics.tasks])
        wait_for(lambda: topics.tasks not in admin.list_topics(), what="the topic is gone")
        admin.create_topics([NewTopic(topics.tasks, num_partitions=2, replication_factor=1)])
    finally:
        admin.close()


def test_offsets_set_back_by_hand_repeat_nothing(system: System, kafka_topics: KafkaTopics) -> None:
    ids = read_and_stop(system)
    set_offsets(kafka_topics, 0)
    successor = start_bridge(system, "successor")
    for partition in (0, 1):
        system.processes.wait_for_log(successor, f"topic={kafka_topics.tasks} partition={partition} from_offset=0")
    ids += produce(system, "after", 10)
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids)


def test_a_postgresql_set_back_is_filled_again_from_kafka(system: System) -> None:
    """Restored from a backup taken before the last records came: the group's offset is ahead of PostgreSQL's."""
    ids = read_and_stop(system)
    lost = [task_id for number, task_id in enumerate(ids) if number % 2]
    for table in ("outbox", "context_versions", "task_contexts", "inbox", "tasks"):
        execute(system.store, f"DELETE FROM {table} WHERE task_id = ANY(:lost)", lost=lost)
    execute(system.store, "UPDATE offsets SET next_offset = 0")
    successor = start_bridge(system, "successor")
    system.processes.wait_for_log(successor, "PostgreSQL is behind the group")
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids, restores=1)


def test_a_postgresql_that_knows_nothing_is_filled_from_kafka(system: System) -> None:
    ids = read_and_stop(system)
    execute(system.store, "TRUNCATE outbox, context_versions, task_contexts, inbox, tasks, offsets CASCADE")
    start_bridge(system, "successor")
    wait_for_accepted(system, len(ids))
    assert_each_taken_once(system.store, ids, restores=1)


def read_and_stop(system: System) -> list[str]:
    """Have some tasks taken in, and the group's offsets committed by an orderly stop."""
    bridge = start_bridge(system)
    ids = produce(system, "before", 60)
    wait_for_accepted(system, len(ids))
    assert bridge.stop() == 0
    return ids


def set_offsets(topics: KafkaTopics, offset: int) -> None:
    """As `kafka-consumer-groups --reset-offsets` does: without any metadata of ours."""
    consumer = KafkaConsumer(
        bootstrap_servers=topics.bootstrap_servers, group_id=topics.group_id, enable_auto_commit=False
    )
    try:
        places = [TopicPartition(topics.tasks, partition) for partition in (0, 1)]
        consumer.assign(places)
        consumer.commit({place: OffsetAndMetadata(offset, "", -1) for place in places})
    finally:
        consumer.close()
