"""What the command line does with Kafka alone: producing messages, and looking at the bridges' group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.structs import OffsetAndMetadata

from orchestrator.kafka.connection import open_consumer
from orchestrator.kafka.health import BridgeGroup, bridge_group
from orchestrator.kafka.producer import produce
from orchestrator.settings import Settings, read_settings
from tests.support.command import Command
from tests.support.stack import KafkaTopics, wait_for


@pytest.fixture
def env(kafka_topics: KafkaTopics) -> dict[str, str]:
    """Settings that lead to Kafka only: producing needs nothing else."""
    return {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_topics.bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": kafka_topics.prefix,
        "KAFKA_GROUP_ID": kafka_topics.group_id,
        "KAFKA_SESSION_TIMEOUT": "2",
    }


@pytest.fixture
def orchestrator(env: dict[str, str], tmp_path: Path) -> Command:
    return Command(env, tmp_path)


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    return read_settings(env, dotenv=None)


@pytest.fixture
def reader(kafka_topics: KafkaTopics) -> Iterator[KafkaConsumer]:
    """Reads the topics of tasks and events from their beginning, in no group."""
    consumer = KafkaConsumer(
        kafka_topics.tasks,
        kafka_topics.events,
        bootstrap_servers=kafka_topics.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    yield consumer
    consumer.close()


def next_record(reader: KafkaConsumer) -> Any:
    polled = wait_for(lambda: reader.poll(200), what="a record")
    [record] = [one for records in polled.values() for one in records]
    return record


def test_submit_produces_the_message_keyed_by_its_task(
    orchestrator: Command, reader: KafkaConsumer, kafka_topics: KafkaTopics
) -> None:
    ran = orchestrator(
        *("task", "submit", "Onboard Größe AG", "--id", "größe-1", "--require", "score", "--require", "contract"),
        *("--data", "company_name=Größe AG", "--data", "limit=50000", "--data-json", '{"limit": 1, "tags": ["a"]}'),
        *("--priority", "9", "--message-id", "m-1", "--tenant", "acme", "--deadline", "2031-01-31T18:00:00"),
        *("--max-steps", "7", "--allowed-agent", "scorer", "--json"),
    )
    record = next_record(reader)
    assert record.topic == kafka_topics.tasks
    assert record.key.decode() == "größe-1"
    assert json.loads(record.value) == {
        "task_id": "größe-1",
        "task_description": "Onboard Größe AG",
        "required_fields": ["score", "contract"],
        "event_data": {"company_name": "Größe AG", "limit": 50000, "tags": ["a"]},
        "message_id": "m-1",
        "priority": 9,
        "tenant": "acme",
        "deadline": "2031-01-31T18:00:00+00:00",
        "budget": {"steps": 7},
        "allowed_agents": ["scorer"],
    }
    assert ran.json() == {"task_id": "größe-1", "topic": kafka_topics.tasks, "message": json.loads(record.value)}


def test_submit_makes_an_id_and_tells_it(orchestrator: Command, reader: KafkaConsumer) -> None:
    ran = orchestrator("task", "submit", "Score Acme")
    record = next_record(reader)
    task_id = json.loads(record.value)["task_id"]
    assert record.key.decode() == task_id
    assert task_id in ran.out
    assert f"orchestrator task watch {task_id}" in ran.err


def test_submit_takes_a_whole_message_and_keeps_what_it_does_not_know(
    orchestrator: Command, reader: KafkaConsumer
) -> None:
    message = {"task_description": "Score Acme", "task_id": "T-1", "cost_center": "4711"}
    orchestrator("task", "submit", "--file", "-", input=json.dumps(message).encode())
    assert json.loads(next_record(reader).value) == message


def test_a_message_that_the_bridge_would_refuse_is_not_sent(orchestrator: Command) -> None:
    broken = b'{"task_description": "Score Acme", "required_fields": "score"}'
    error = orchestrator("task", "submit", "--file", "-", "--json", input=broken, code=2).error()
    assert "/required_fields" in error["message"]
    assert "orchestrator schema show task" in error["hint"]
    for text in (b"", b"[]", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000):
        orchestrator("task", "submit", "--file", "-", input=text, code=2)


def test_event_produces_to_the_events(orchestrator: Command, reader: KafkaConsumer, kafka_topics: KafkaTopics) -> None:
    orchestrator(
        *("task", "event", "T-1", "--type", "supplier.approved"),
        *("--data", 'approval={"approved_by": "M. Braun"}', "--data", "note=fine"),
    )
    record = next_record(reader)
    assert (record.topic, record.key) == (kafka_topics.events, b"T-1")
    assert json.loads(record.value) == {
        "task_id": "T-1",
        "event_type": "supplier.approved",
        "event_data": {"approval": {"approved_by": "M. Braun"}, "note": "fine"},
    }


def test_kafka_away_ends_with_3(orchestrator: Command) -> None:
    ran = orchestrator("task", "submit", "Score Acme", "--json", code=3, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert ran.error()["code"] == "kafka_unavailable"
    assert "127.0.0.1:1" in ran.error()["message"]
    assert ran.error()["hint"]
    assert ran.out == ""


def test_the_bridges_group_shows_its_members_and_how_far_behind_they_are(
    settings: Settings, kafka_topics: KafkaTopics
) -> None:
    assert bridge_group(settings) == BridgeGroup(members=0, behind=None)
    for _ in range(3):
        produce(settings, kafka_topics.tasks, b"one key", b"{}")
    consumer = open_consumer(settings)
    try:
        consumer.subscribe([kafka_topics.tasks])
        wait_for(lambda: consumer.poll(200) or consumer.assignment(), what="the consumer has joined")
        consumer.commit({place: OffsetAndMetadata(0, "", -1) for place in consumer.assignment()})
        assert bridge_group(settings) == BridgeGroup(members=1, behind=3)
    finally:
        consumer.close()
