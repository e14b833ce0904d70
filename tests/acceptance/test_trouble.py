"""When something fails: bad records, an agent that is down, a retry by hand and by Celery, a rerun, a cancel."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.agents import ScriptedAgent, reply
from tests.support.processes import clean_environment, wait_for
from tests.support.system import CELERY, System


def bad_values() -> list[tuple[str, bytes | None]]:
    """Every kind of bad record, with a name."""
    good = {"task_id": "x", "task_description": "d", "required_fields": ["legal_name"]}
    return [
        ("not json", b"hello"),
        ("half json", b'{"task_id": "x", '),
        ("invalid utf-8", b'{"task_description": "\xff\xfe"}'),
        ("deep", b'{"event_data": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5000 + b"}"),
        ("deep list", b"[" * 100_000),
        ("wrong type", b"[1, 2]"),
        ("a number", b"12"),
        ("wrong field type", json.dumps({**good, "required_fields": "legal_name"}).encode()),
        ("wrong priority", json.dumps({**good, "priority": "high"}).encode()),
        ("no description", json.dumps({"required_fields": []}).encode()),
        ("nul", json.dumps({**good, "task_description": "a\x00b"}).encode()),
        ("nul deep inside", json.dumps({**good, "event_data": {"a": ["\x00"]}}).encode()),
        ("lone surrogate", b'{"task_description": "\\ud800", "required_fields": []}'),
        ("duplicate keys", b'{"task_description": "a", "task_description": "b", "required_fields": []}'),
        (
            "huge number",
            b'{"task_description": "a", "required_fields": [], "event_data": {"n": ' + b"9" * 20_000 + b"}}",
        ),
        ("infinity", b'{"task_description": "a", "required_fields": [], "event_data": {"n": 1e999}}'),
        ("nan", b'{"task_description": "a", "required_fields": [], "event_data": {"n": NaN}}'),
        ("control id", json.dumps({**good, "task_id": "a\nb"}).encode()),
        ("long id", json.dumps({**good, "task_id": "a" * 201}).encode()),
        ("empty", b""),
        ("tombstone", None),
    ]


def test_bad_records_become_dead_letters_and_good_ones_finish(system: System) -> None:
    """Two hundred of each, mixed; a large one among them; no restart."""
    bridge = system.start_one("bridge")
    system.start("worker", "beat")
    kinds = bad_values()
    records: list[tuple[str, bytes | Mapping[str, Any] | None]] = [("", kinds[n % len(kinds)][1]) for n in range(199)]
    records.append(("", b'{"task_description": "' + b"x" * 1_020_000 + b'", "required_fields": []}'))
    good = [f"good-{number}" for number in range(200)]
    message = {
        "task_description": "Look it up",
        "required_fields": ["legal_name"],
        "event_data": {"company_name": "Lumen Optik AG"},
    }
    records += [(task_id, {"task_id": task_id, **message}) for task_id in good]
    random.Random(7).shuffle(records)
    for task_id, value in records:
        system.produce("tasks", value, key=task_id or ("gone" if value is None else None))
    system.producer.flush()

    system.wait_for_all(good)
    letters = wait_for(
        lambda: found if len(found := system.store.dead_letters(limit=1000)) >= 200 else None, what="200 dead letters"
    )
    assert letters is not None
    assert len(letters) == 200
    assert all(letter.reason and letter.detail for letter in letters)
    assert len({letter.reason for letter in letters}) >= 7
    assert bridge.running
    assert bridge.restarts == 0

    published = system.read("dead-letters", 200)
    assert len({letter["dead_letter_id"] for letter in published}) == 200
    listed = system.orchestrator("dead-letter", "list", "--limit", "500", "--json").json()
    assert len(listed["dead_letters"] if isinstance(listed, dict) else listed) == 200


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": agent.url(f"/{name}"),
        "provides": [name],
        "retry": {"max_attempts": 2, "base_delay": 0.1, "max_delay": 0.2},
        "timeout": {"connect": 1, "read": 2, "total": 5},
        **parts,
    }


@pytest.mark.parametrize("by", ["command", "celery"])
def test_a_step_whose_agent_is_down_fails_with_a_reason_and_a_retry_repeats_nothing(
    system: System, scripted_agent: ScriptedAgent, by: str
) -> None:
    first_url = scripted_agent.script("/first", reply({"first": "one"}))
    system.use_agents(
        entry(scripted_agent, "first"), entry(scripted_agent, "second", requires=["first"], url=f"{first_url}-away")
    )
    # The second agent is a process of its own: a port that nobody listens on.
    down = ScriptedAgent()
    down.start()
    second_url = down.script("/second", reply({"second": "two"}))
    down.stop()
    system.use_agents(
        entry(scripted_agent, "first"), entry(scripted_agent, "second", requires=["first"], url=second_url)
    )
    system.start("bridge", "worker", "beat")
    system.produce_task("retried-1", required_fields=["first", "second"])
    task = system.wait_for_state("retried-1", "failed")
    assert task.reason_code == "agent_down"
    assert "second" in (task.reason or "")
    shown = system.orchestrator("task", "show", "retried-1").out
    assert "agent_down" in shown
    assert "task retry retried-1" in shown

    down.start()
    down.script("/second", reply({"second": "two"}))
    try:
        if by == "command":
            system.orchestrator("task", "retry", "retried-1", "--why", "it is back")
        else:
            call_with_celery(system, "orchestrator.retry", task_id="retried-1")
        system.wait_for_state("retried-1", "completed")
        assert system.data("retried-1") == {"first": "one", "second": "two"}
        assert len(scripted_agent.ledger().posts("/first")) == 1
        assert len(down.ledger().posts("/second")) == 1
        assert [entry.step.number for entry in system.store.history("retried-1")] == [1, 2]
    finally:
        down.stop()
        down.close()


def call_with_celery(system: System, name: str, **keywords: Any) -> None:
    subprocess.run(
        [*CELERY, "call", name, "--kwargs", json.dumps(keywords)],
        env={**clean_environment(), **system.env},
        cwd=system.folder,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_a_rerun_goes_on_from_an_earlier_step_with_a_corrected_context(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    scripted_agent.script("/first", reply({"first": "one"}))
    scripted_agent.script("/second", reply({"second": "two"}))
    system.use_agents(
        entry(scripted_agent, "first", requires=["name"]),
        entry(scripted_agent, "second", requires=["first", "name"]),
    )
    system.start("bridge", "worker", "beat")
    system.produce_task("again-1", required_fields=["first", "second"], event_data={"name": "wrong"})
    system.wait_for_state("again-1", "completed")
    system.orchestrator("task", "rerun", "again-1", "--step", "2", "--set", "name=right", "--yes")
    wait_for(lambda: len(scripted_agent.ledger().posts("/second")) == 2, what="the second agent is called again")
    system.wait_for_state("again-1", "completed")
    calls = scripted_agent.ledger().posts("/second")
    assert [call.body["input"]["name"] for call in calls] == ["wrong", "right"]
    assert calls[0].key != calls[1].key
    assert len(scripted_agent.ledger().posts("/first")) == 1
    assert [entry.step.number for entry in system.store.history("again-1")] == [1, 2, 3]
    assert system.data("again-1")["name"] == "right"


def test_a_cancel_ends_the_task_at_its_next_boundary(system: System, scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/first", reply({"first": "one"}, gate="go"))
    system.use_agents(entry(scripted_agent, "first"), entry(scripted_agent, "second", requires=["first"]))
    system.start("bridge", "worker", "beat")
    system.produce_task("ended-1", required_fields=["first", "second"])
    scripted_agent.wait_for_requests("/first")
    system.orchestrator("task", "cancel", "ended-1", "--why", "not wanted any more")
    scripted_agent.open_gate("go")
    system.wait_for_state("ended-1", "canceled")
    assert scripted_agent.ledger().posts("/second") == []
