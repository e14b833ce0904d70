"""What only a broker with a log of its own can show: killed and started again, it knows records, groups and topics."""

from __future__ import annotations

import json
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from bridge.position import GroupOffset, mark, seen_of
from orchestrator.domain.value import replace
from tests.kafka.apache import ApacheKafka
from tests.support.intake_seen import accepted, assert_each_taken_once, unpublished
from tests.support.processes import wait_for
from tests.support.stack import KafkaTopics
from tests.support.system import System

KNOWN = {"company_name": "Lumen Optik AG"}


def produce(system: System, name: str, count: int) -> list[str]:
    """Tasks that a worker ends in one step; confirmed by the broker."""
    ids = [f"{name}-{number}" for number in range(count)]
    for task_id in ids:
        system.produce_task(task_id, required_fields=["legal_name"], event_data=KNOWN)
    system.producer.flush()
    return ids


def records_of(servers: str, topic: str, count: int) -> list[Any]:
    """The topic's records from its beginning, when there are so many with different update ids."""
    consumer = KafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False)
    found: list[Any] = []

    def enough() -> bool:
        for batch in consumer.poll(200).values():
            found.extend(batch)
        return len({json.loads(record.value)["update_id"] for record in found}) >= count

    try:
        wait_for(enough, 40.0, f"{count} updates in {topic}")
    finally:
        consumer.close()
    return found


def test_a_broker_killed_and_started_again_loses_nothing_and_repeats_nothing(
    system: System, apache_kafka: ApacheKafka
) -> None:
    """Two bridges on six partitions, a worker at work; records before, during and after; one bridge dies too."""
    admin = KafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    admin.create_partitions({system.settings.topic("tasks"): 6})
    admin.close()
    system.start("worker", "beat")
    first = system.start_one("bridge", as_name="first", BRIDGE_BATCH="5")
    second = system.start_one("bridge", as_name="second", BRIDGE_BATCH="5")
    for bridge in (first, second):
        system.processes.wait_for_log(bridge, "bridge.reading")

    ids = produce(system, "before", 60)
    wait_for(lambda: accepted(system.store) >= 10, what="the bridges read")
    apache_kafka.kill()
    wait_for(lambda: "kafka" in first.log_text().lower(), what="it is noticed")
    apache_kafka.start()
    system.producer.close()
    system.producer = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap_servers, linger_ms=5)
    ids += produce(system, "between", 60)
    wait_for(lambda: accepted(system.store) >= 100, 90.0, "the bridges are back")
    first.kill()
    ids += produce(system, "after", 60)

    system.wait_for_all(ids)
    assert second.running
    assert second.restarts == 0
    assert_each_taken_once(system.store, ids)
    wait_for(lambda: unpublished(system.store) == 0, 60.0, "all updates are published")
    updates = [
        json.loads(r.value) for r in records_of(apache_kafka.bootstrap_servers, system.settings.topic("updates"), 360)
    ]
    ended = {(update["task_id"], update["update_id"]) for update in updates if update["state"] == "completed"}
    assert sorted(task_id for task_id, _ in ended) == sorted(ids), "each is told to be completed once"


def test_updates_carry_headers_and_bad_records_become_dead_letters(system: System, kafka_topics: KafkaTopics) -> None:
    system.start("bridge")
    value = {"task_description": "Look it up", "message_id": "order-17"}
    system.producer.send(kafka_topics.tasks, json.dumps(value).encode(), key=b"shop-7", headers=[("source", b"shop")])
    system.producer.send(kafka_topics.tasks, b"not json", key=b"bad", headers=[("who", b"somebody")])
    system.producer.flush()

    (record,) = records_of(kafka_topics.bootstrap_servers, kafka_topics.updates, 1)
    update = json.loads(record.value)
    headers = {name: text.decode() for name, text in record.headers}
    assert headers["task_id"] == update["task_id"]
    assert headers["update_id"] == update["update_id"]
    assert headers["schema_version"]
    assert update["source"] == {"key": "shop-7", "headers": {"source": "shop"}, "message_id": "order-17"}
    (letter,) = system.read("dead-letters", 1)
    assert letter["reason"] == "not_json"


def test_a_topic_deleted_and_made_again_is_read_from_its_beginning(
    system: System, kafka_topics: KafkaTopics, apache_kafka: ApacheKafka
) -> None:
    """And the broker is restarted between the two: it tells topics of one name apart by their ids."""
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.reading")
    ids = produce(system, "before", 50)
    wait_for(lambda: accepted(system.store) == 50, 60.0, "all are taken in")
    admin = KafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    admin.delete_topics([kafka_topics.tasks])
    wait_for(lambda: kafka_topics.tasks not in admin.list_topics(), what="the topic is gone")
    admin.close()
    apache_kafka.stop()
    apache_kafka.start()
    admin = KafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    if kafka_topics.tasks not in admin.list_topics():  # else the bridge has made it
        admin.create_topics([NewTopic(kafka_topics.tasks, num_partitions=2, replication_factor=1)])
    admin.close()
    system.producer.close()
    system.producer = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap_servers, linger_ms=5)
    ids += produce(system, "after", 20)
    wait_for(lambda: accepted(system.store) == 70, 90.0, "the new topic's records are taken in")
    assert bridge.running
    assert bridge.restarts == 0
    assert_each_taken_once(system.store, ids)


def test_it_keeps_how_far_postgresql_was_and_a_bridge_that_finds_less_notices(
    system: System, kafka_topics: KafkaTopics
) -> None:
    """The embedded broker keeps nothing beside an offset."""
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.reading")
    ids = produce(system, "seen", 6)
    wait_for(lambda: accepted(system.store) == len(ids), what="all are taken in")
    first = wait_for(lambda: marks_of(kafka_topics), what="the group's offsets carry it")
    assert first is not None
    system.store.compare(None)
    wait_for(lambda: furthest(kafka_topics) > furthest_of(first), 30.0, "it goes on while nothing is taken in")
    assert bridge.stop() == 0

    ahead = {
        place: GroupOffset(one.offset, mark(topic_of(one), replace(seen, position=seen.position + 2**40)))
        for place, one in marks_of(kafka_topics).items()
        if (seen := seen_of(one)) is not None
    }
    commit(kafka_topics, ahead)
    successor = system.start_one("bridge", as_name="successor")
    system.processes.wait_for_log(successor, "store.restored")
    system.processes.wait_for_log(successor, "bridge.reading")
    assert_each_taken_once(system.store, ids, restores=1)
    assert system.store.task(ids[0]).doubted_at is not None


def member(topics: KafkaTopics) -> KafkaConsumer:
    """Asks and commits in the bridges' group, without joining it."""
    servers = topics.bootstrap_servers
    return KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, group_id=topics.group_id)


def marks_of(topics: KafkaTopics) -> dict[TopicPartition, GroupOffset]:
    """The group's offsets that say how far PostgreSQL was."""
    consumer = KafkaConsumer(
        bootstrap_servers=topics.bootstrap_servers, enable_auto_commit=False, group_id=topics.group_id
    )
    try:
        places = [TopicPartition(topics.tasks, number) for number in (0, 1)]
        committed = {place: consumer.committed(place, metadata=True) for place in places}
    finally:
        consumer.close()
    found = {place: GroupOffset(one.offset, one.metadata) for place, one in committed.items() if one is not None}
    return {place: one for place, one in found.items() if seen_of(one) is not None}


def commit(topics: KafkaTopics, offsets: dict[TopicPartition, GroupOffset]) -> None:
    consumer = KafkaConsumer(
        bootstrap_servers=topics.bootstrap_servers, enable_auto_commit=False, group_id=topics.group_id
    )
    try:
        consumer.assign(list(offsets))
        consumer.commit({place: OffsetAndMetadata(one.offset, one.metadata, -1) for place, one in offsets.items()})
    finally:
        consumer.close()


def furthest_of(marks: dict[TopicPartition, GroupOffset]) -> int:
    return max((seen.position for one in marks.values() if (seen := seen_of(one)) is not None), default=0)


def furthest(topics: KafkaTopics) -> int:
    return furthest_of(marks_of(topics))


def topic_of(one: GroupOffset) -> str:
    return (one.metadata or "").split("topic=")[1].split()[0]
