"""The bridge as a process: what it makes of single records, when it ends and with which exit code."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.devstack.ports import free_port
from orchestrator.devstack.process import ManagedProcess
from orchestrator.domain.task import Task
from orchestrator.kafka.connection import CONNECT_TIMEOUT
from tests.support.intake_seen import accepted, assert_each_taken_once, scalar, unpublished
from tests.support.processes import wait_for
from tests.support.system import System

QUICKLY = 5.0
"""Seconds in which a bridge that is told to stop has ended."""

BAD_IN_A_ROW = "20"


def produce_and_wait(system: System, task_id: str, key: str) -> Task:
    """Produce a task behind all that was produced with the key before, and wait until it is taken in."""
    system.produce("tasks", {"task_id": task_id, "task_description": "The one behind the others"}, key=key)
    return system.wait_for_state(task_id, "received")


def ended(process: ManagedProcess, timeout: float = 30.0) -> int:
    """Wait for a process's end; its exit code."""
    wait_for(lambda: not process.running, timeout, f"{process.name} ends")
    assert process.exit_code is not None
    return process.exit_code


# -- single records


def test_a_task_without_an_id_tells_whose_it_is(system: System) -> None:
    system.start("bridge")
    value = {"task_description": "Look it up", "message_id": "order-17"}
    system.producer.send(
        f"{system.env['KAFKA_TOPIC_PREFIX']}tasks",
        json.dumps(value).encode(),
        key=b"shop-7",
        headers=[("source", b"shop"), ("raw", b"\xff\x00")],
    )
    (update,) = system.read("task-updates", 1)
    assert update["state"] == "received"
    assert update["source"] == {
        "key": "shop-7",
        "headers": {"source": "shop", "raw": "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"},
        "message_id": "order-17",
    }
    assert_each_taken_once(system.store, [update["task_id"]])


def test_a_task_with_an_id_echoes_nothing(system: System) -> None:
    system.start("bridge")
    system.produce_task("mine-1")
    (update,) = system.read("task-updates", 1)
    assert update["task_id"] == "mine-1"
    assert "source" not in update


def test_what_comes_twice_changes_nothing(system: System) -> None:
    """The same content, with other spelling; the same message_id; another message_id on the same task."""
    system.start("bridge")
    message = {"task_id": "twice-1", "task_description": "Once", "required_fields": ["a", "b"], "message_id": "m-1"}
    system.produce("tasks", message, key="twice")
    system.wait_for_state("twice-1", "received")
    before = scalar(system.store, "SELECT to_jsonb(t) FROM tasks t WHERE task_id = 'twice-1'")

    system.produce("tasks", message, key="twice")
    system.produce("tasks", json.dumps(dict(reversed(message.items())), indent=3).encode(), key="twice")
    system.produce("tasks", {**message, "message_id": "m-2"}, key="twice")
    system.produce("tasks", {**message, "task_description": "Other words under a known message_id"}, key="twice")
    produce_and_wait(system, "behind", key="twice")

    assert_each_taken_once(system.store, ["twice-1", "behind"])
    assert scalar(system.store, "SELECT to_jsonb(t) FROM tasks t WHERE task_id = 'twice-1'") == before
    assert {update["task_id"] for update in system.read("task-updates", 2)} == {"twice-1", "behind"}


def test_a_known_task_id_with_other_content_becomes_a_dead_letter(system: System) -> None:
    system.start("bridge")
    system.produce_task("conflict-1", event_data={"amount": 1})
    system.wait_for_state("conflict-1", "received")
    other = json.dumps({"task_id": "conflict-1", "task_description": "Do conflict-1", "event_data": {"amount": 2}})
    system.produce("tasks", other.encode(), key="conflict-1")
    (letter,) = system.read("dead-letters", 1)

    assert letter["reason"] == "task_conflict"
    assert letter["task_id"] == "conflict-1"
    assert base64.b64decode(letter["record"]["value_base64"]) == other.encode()
    assert base64.b64decode(letter["record"]["key_base64"]) == b"conflict-1"
    assert system.data("conflict-1") == {"amount": 1}
    assert [entry.reason for entry in system.store.dead_letters()] == ["task_conflict"]


def test_of_one_id_twice_in_one_batch_the_first_wins(system: System) -> None:
    system.produce_task("same-1", event_data={"amount": 1})
    system.produce_task("same-1", event_data={"amount": 2})
    system.producer.flush()
    system.start("bridge")
    (letter,) = system.read("dead-letters", 1)
    assert letter["reason"] == "task_conflict"
    assert system.data("same-1") == {"amount": 1}


# -- a flood of bad records


def test_a_flood_of_bad_records_ends_the_bridge_and_nothing_behind_them_is_read(system: System) -> None:
    for number in range(30):
        system.produce("tasks", b"bad %d" % number, key="flood")
    system.produce("tasks", {"task_id": "behind", "task_description": "Behind the flood"}, key="flood")
    system.producer.flush()

    bridge = system.start_one("bridge", BRIDGE_BAD_IN_A_ROW=BAD_IN_A_ROW)
    assert ended(bridge) == 3
    said = bridge.log_text()
    assert "20 bad records in a row" in said
    assert "not_json" in said
    assert "dead-letter list" in said
    assert "Traceback" not in said
    assert len(system.store.dead_letters(limit=100)) == 20
    assert system.task("behind") is None

    system.start("bridge", BRIDGE_BAD_IN_A_ROW=BAD_IN_A_ROW)
    system.wait_for_state("behind", "received")
    letters = system.store.dead_letters(limit=100)
    kept = {letter.record.value for letter in letters if letter.record is not None}
    assert kept == {b"bad %d" % number for number in range(30)}
    assert len(letters) == 30


def test_bad_records_with_good_ones_between_them_are_no_flood(system: System) -> None:
    ids = [f"good-{number}" for number in range(3)]
    for task_id in ids:
        for number in range(15):
            system.produce("tasks", b"bad %d before " % number + task_id.encode(), key="mixed")
        system.produce("tasks", {"task_id": task_id, "task_description": "Good"}, key="mixed")
    bridge = system.start_one("bridge", BRIDGE_BAD_IN_A_ROW=BAD_IN_A_ROW)
    system.wait_for_state(ids[-1], "received")
    assert accepted(system.store) == len(ids)
    assert len(system.store.dead_letters(limit=100)) == 45
    assert bridge.running


# -- how it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_and_another_goes_on(system: System, number: signal.Signals) -> None:
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.reading")
    ids = [f"stop-{number}" for number in range(300)]
    for task_id in ids:
        system.produce_task(task_id)
    wait_for(lambda: accepted(system.store) > 0, what="some are taken in")
    asked = time.monotonic()
    bridge.signal(number)
    assert ended(bridge) == 0
    assert time.monotonic() - asked < QUICKLY
    assert "bridge.stopped" in bridge.log_text()
    assert "Traceback" not in bridge.log_text()

    system.start("bridge")
    wait_for(lambda: accepted(system.store) == len(ids), what="the rest is taken in")
    wait_for(lambda: unpublished(system.store) == 0, what="all updates are published")
    assert_each_taken_once(system.store, ids)


def test_it_waits_for_kafka_and_stops_meanwhile(system: System) -> None:
    bridge = system.start_one("bridge", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    system.processes.wait_for_log(bridge, "bridge.kafka_away")
    assert bridge.running
    asked = time.monotonic()
    bridge.signal(signal.SIGTERM)
    assert ended(bridge) == 0
    # At worst it has just begun another attempt.
    assert time.monotonic() - asked < CONNECT_TIMEOUT + QUICKLY


# -- settings


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"BRIDGE_BATCH": "many"}, "BRIDGE_BATCH"),
        ({"BRIDGE_BAD_IN_A_ROW": "0"}, "BRIDGE_BAD_IN_A_ROW"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://127.0.0.1/x"}, "DATABASE_URL"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "nonsense"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA": "missing.pem"}, "KAFKA_SSL_CA"),
        ({"ORCHESTRATOR_EVENTS": "missing.yaml"}, "missing.yaml"),
    ],
)
def test_wrong_settings_are_named(system: System, env: Mapping[str, Any], said: str) -> None:
    bridge = system.start_one("bridge", **env)
    assert ended(bridge) == 2
    assert said in bridge.log_text()
    assert "Traceback" not in bridge.log_text()


def test_a_database_without_tables_is_told(system: System, empty_database_url: str) -> None:
    bridge = system.start_one("bridge", DATABASE_URL=empty_database_url)
    assert ended(bridge) == 2
    assert "orchestrator db upgrade" in bridge.log_text()
