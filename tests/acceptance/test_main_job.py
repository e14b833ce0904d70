"""The main job through Kafka: bridge, worker, beat and Flower as processes, real servers, real HTTP agents."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

from tests.support.processes import wait_for
from tests.support.system import System

SUPPLIER = {
    "required_fields": ["legal_name", "credit_score", "contract_id", "notification_id"],
    "event_data": {
        "company_name": "Northwind Bearings GmbH",
        "contact_email": "sales@northwind.example",
        "purchase_approval": {"approved_by": "M. Okafor"},
    },
}


def test_a_task_from_kafka_is_finished_by_agents_and_told_of(system: System) -> None:
    system.start("bridge", "worker", "beat")
    system.produce_task("supplier-1", **SUPPLIER)
    system.wait_for_state("supplier-1", "completed")

    data = system.data("supplier-1")
    assert data["legal_name"] == "Northwind Bearings GmbH"
    assert 0 <= data["credit_score"] <= 100
    assert data["contract_id"].startswith("CT-")

    row = system.store.context_row("supplier-1")
    assert set(row) == {"id", "task_id", "context", "created_at", "updated_at"}
    assert set(row["context"]) == {"required_fields", "current_state", "collected_data"}
    assert row["context"]["current_state"] == "completed"

    history = system.store.history("supplier-1")
    assert [entry.step.number for entry in history] == list(range(1, len(history) + 1))
    assert all(entry.step.decision is not None and entry.step.decision.reason for entry in history)

    updates = [update for update in system.read("task-updates", 2) if update["task_id"] == "supplier-1"]
    assert updates[0]["state"] == "received"
    wait_for(lambda: system.read("task-updates", len(history) + 1)[-1]["state"] == "completed", what="the last update")


def test_the_message_of_the_first_description_works_as_it_stands(system: System) -> None:
    """Fields that no agent gives: the event brings them, and the task is finished by what it holds."""
    system.start("bridge", "worker", "beat")
    message = {
        "task_id": "unique-task-id",
        "task_description": "Process customer order",
        "required_fields": ["customer_id", "order_items"],
        "event_data": {"customer_id": "C-1"},
    }
    system.produce("tasks", message)
    system.produce_event("unique-task-id", order_items=[{"sku": "A-1", "count": 2}])
    system.wait_for_state("unique-task-id", "completed")
    assert system.data("unique-task-id")["order_items"] == [{"sku": "A-1", "count": 2}]


def test_an_event_wakes_the_task_that_waits_for_it(system: System) -> None:
    system.start("bridge", "worker", "beat")
    event_data = {key: value for key, value in SUPPLIER["event_data"].items() if key != "purchase_approval"}  # type: ignore[attr-defined]  # a mapping
    system.produce_task("supplier-2", required_fields=["contract_id"], event_data=event_data)
    task = system.wait_for_state("supplier-2", "waiting")
    wait_for(lambda: (system.task("supplier-2") or task).waits_for == "event", what="it waits for the event")
    system.produce_event("supplier-2", "supplier.approved", approval={"approved_by": "R. Castellanos"})
    system.wait_for_state("supplier-2", "completed")
    origin = system.store.context("supplier-2").origins["purchase_approval"]
    assert (origin.kind, origin.name) == ("event", "supplier.approved")


def test_an_event_that_came_before_its_task_counts(system: System) -> None:
    system.start("bridge", "worker", "beat")
    system.produce_event("early-1", answer=42)
    wait_for(lambda: system.store.next_offsets([(f"{system.env['KAFKA_TOPIC_PREFIX']}events", p) for p in (0, 1)]),
             what="the event is taken in")  # fmt: skip
    system.produce_task("early-1", required_fields=["answer"])
    system.wait_for_state("early-1", "completed")
    assert system.data("early-1")["answer"] == 42


def test_workers_are_added_while_they_work_and_each_step_is_in_flower(system: System) -> None:
    system.start("bridge", "worker", "beat", "flower")
    ids = [f"many-{number}" for number in range(200)]
    names = [f"Company {number} Ltd" for number in range(200)]
    for task_id, name in zip(ids, names, strict=True):
        system.produce_task(
            task_id, required_fields=["legal_name", "sanctions_status"], event_data={"company_name": name}
        )
    system.start_worker(2)
    system.wait_for_all(ids)
    for task_id, name in zip(ids, names, strict=True):
        assert system.data(task_id)["legal_name"] == name
    assert all(len(system.store.history(task_id)) == 2 for task_id in ids)

    shown = wait_for(lambda: in_flower(system, ids[7]), what="the steps of a task in Flower")
    assert {row["name"] for row in shown} == {"orchestrator.step"}
    assert {row["state"] for row in shown} == {"SUCCESS"}
    assert any("completed" in row["result"] for row in shown)


def in_flower(system: System, task_id: str) -> list[dict[str, Any]]:
    """The rows that Flower's task page shows for a search, as its own page asks for them."""
    columns = ["name", "uuid", "state", "args", "kwargs", "result", "received", "started", "runtime", "worker"]
    query = {
        "draw": "1",
        "start": "0",
        "length": "50",
        "search[value]": task_id,
        "order[0][column]": "0",
        "order[0][dir]": "asc",
        **{f"columns[{number}][data]": name for number, name in enumerate(columns)},
    }
    url = f"{system.flower_url}/tasks/datatable?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["data"]
    exact = [row for row in rows if f"'{task_id}'" in row["kwargs"]]
    return exact if len(exact) >= 2 and all(row["state"] == "SUCCESS" for row in exact) else []
