"""The guides are followed to the letter: what they tell to save is saved, what they tell to type is typed."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from orchestrator.devstack.ports import free_port
from tests.support.documents import blocks, commands, save_files, type_in
from tests.support.processes import wait_for
from tests.support.system import System


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_new_agent_by_the_guide_alone(system: System) -> None:
    document = "docs/adding-an-agent.md"
    port = str(free_port())
    files = save_files(document, system.folder, {"8123": port})
    assert [file.name for file in files] == ["vat_check.py", "agents.yaml"]
    system.env["ORCHESTRATOR_AGENTS"] = str(system.folder / "agents.yaml")
    typed = list(commands(document))
    assert typed[0] == "python vat_check.py"
    system.processes.start("vat_check", [sys.executable, "vat_check.py"], cwd=system.folder)
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), what="the new agent answers")
    system.start("bridge", "worker", "beat")
    outputs = {command: type_in(command, system.folder, system.env) for command in typed[1:]}

    assert any("vat_check" in output for command, output in outputs.items() if "agent list" in command)
    shown = outputs["orchestrator task show vat-1"]
    assert "valid" in shown
    assert "agent vat_check, step 1" in shown
    assert system.data("vat-1") == {"vat_number": "DE123456789", "vat_status": "valid", "vat_country": "DE"}


def test_a_new_event_type_by_the_guide_alone(system: System) -> None:
    document = "docs/adding-an-event-type.md"
    save_files(document, system.folder, {})
    system.env["ORCHESTRATOR_EVENTS"] = str(system.folder / "events.yaml")
    system.start("bridge", "worker", "beat")
    for command in commands(document):
        output = type_in(command, system.folder, system.env)
        if "task submit" in command:
            system.wait_for_state("order-7", "waiting")
        if "task watch" in command:
            assert "completed" in output
    assert system.data("order-7") == {"payment_id": "P-1", "paid_amount": "12.50 EUR"}

    # The same by hand, and one that does not fit.
    system.produce_task("order-8", required_fields=["payment_id"])
    (message,) = [json.loads(block.text) for block in blocks(document, "json")]
    system.produce("events", {**message, "task_id": "order-8", "event_data": {"payment": {}}}, key="order-8")
    system.produce("events", {**message, "task_id": "order-8"}, key="order-8")
    system.wait_for_state("order-8", "completed")
    letters = wait_for(lambda: system.store.dead_letters(), what="a dead letter")
    assert [letter.reason for letter in letters] == ["event_schema"]


def test_explaining_a_task_by_the_guide(system: System) -> None:
    document = "docs/explain.md"
    system.start("bridge", "worker", "beat")
    typed = list(commands(document))
    outputs = [type_in(command, system.folder, system.env) for command in typed]
    (shown,) = blocks(document, "text")
    assert without_times(outputs[1]) == without_times(shown.text)
    assert "registration_number" in outputs[2]
    assert '<data name="history">' in outputs[2]
    explained = json.loads(outputs[3])
    assert [step["happened"] for step in explained["steps"]] == [
        "company_register was asked",
        "credit_score was asked",
    ]
    assert all(step["question"]["exact"] for step in explained["steps"])


def test_simulating_and_exporting_by_the_guide(system: System) -> None:
    document = "docs/simulate.md"
    system.start("bridge", "worker", "beat")
    outputs = [type_in(command, system.folder, system.env) for command in commands(document)]
    assert "simulate-1  completed  decided again: the same" in outputs[1]
    assert "1 task: 1 same" in outputs[2]
    assert "1 passed" in outputs[4]


def test_judging_by_the_guide_needs_no_server(tmp_path: Path) -> None:
    document = "docs/eval.md"
    save_files(document, tmp_path, {})
    outputs = [type_in(command, tmp_path, {}) for command in commands(document)]
    assert "rules:  18 of 24 right" in outputs[0]
    assert outputs[1] == "" and "cases:" in (tmp_path / "my-cases.yaml").read_text()
    assert "1 of 1 right" in outputs[2]
    judged = json.loads(outputs[4])
    assert [case["score"] for case in judged["variants"][0]["cases"]] == [1.0, 1.0, 0.0]
    assert judged["variants"][0]["score"] == 0.5


def without_times(text: str) -> str:
    return re.sub(r"\d+(\.\d+)? s\b", "… s", text)


def test_an_undo_by_the_guide_alone(system: System) -> None:
    document = "docs/undo.md"
    system.start("bridge", "worker", "beat")
    outputs: dict[str, str] = {}
    for command in commands(document):
        outputs[command] = type_in(command, system.folder, system.env)
    shown = outputs["orchestrator task show juniper-1"]
    assert "contract_draft undone" in shown
    assert "task restart juniper-1" in shown
    told = json.loads(outputs["orchestrator task show juniper-1 --json"])
    assert [line["agent"] for line in told["undo"]["undone"]] == ["contract_draft"]
    assert told["context"]["context"]["collected_data"].get("contract_id") is None
    assert system.wait_for_state("juniper-1", "completed").undo is None


@pytest.mark.timeout(400)  # some thirty commands, each a process of its own
def test_by_hand_by_the_guide_alone(system: System) -> None:
    document = "docs/by-hand.md"
    system.start("bridge", "worker", "beat")
    outputs: dict[str, str] = {}
    for command in commands(document):
        if "task pause by-hand-3" in command:
            system.wait_for_state("by-hand-3", "waiting")
        outputs[command] = type_in(command, system.folder, system.env)
    assert system.data("by-hand-2")["address"]
    assert system.wait_for_state("by-hand-3", "completed").paused is False
    audited = outputs["orchestrator task show by-hand-3 --audit"]
    assert "pause by" in audited
    assert "the buyer asked for time" in audited
    assert "resume by" in audited
    (tried,) = [json.loads(output) for command, output in outputs.items() if "mended" in command]
    assert [one["task_id"] for one in tried["tasks"]] == ["by-hand-1"]
    assert tried["done"] == 1
    wait_for(lambda: [one.state for one in system.store.cancellations("by-hand-6")] == ["canceled"], 30)
    assert system.store.history("by-hand-4")[-1].delegations[0].arguments["to"] == "sales@supplier.example"
    assert system.data("by-hand-5")["notification_id"] == "told by telephone"
    assert system.store.context("by-hand-5").origins["notification_id"].kind == "person"


def test_a_pause_and_a_resume_by_celery(system: System) -> None:
    system.start("bridge", "worker", "beat")
    system.produce_task("celery-1", required_fields=["purchase_approval"])
    system.wait_for_state("celery-1", "waiting")
    for verb, paused in (("pause", True), ("resume", False)):
        keywords = json.dumps({"task_id": "celery-1"})
        type_in(f"celery -A orchestrator call orchestrator.{verb} --kwargs '{keywords}'", system.folder, system.env)
        wait_for(partial(is_paused, system, "celery-1", paused), what=verb)
    assert [entry.who for entry in system.store.audit_of("celery-1")] == ["celery", "celery"]


def is_paused(system: System, task_id: str, paused: bool) -> bool:
    return system.store.task(task_id).paused is paused
