"""What a person says and sees of a PostgreSQL that was restored, by the command line."""

from __future__ import annotations

from typing import Any

from tests.support.agents import ScriptedAgent, reply
from tests.support.system import System


def restores_of(system: System) -> dict[str, Any]:
    """What `doctor` says of it."""
    found = system.orchestrator("doctor", "--json", code=None).json()["findings"]
    return next(one for one in found if one["subject"] == "restores")


def test_a_person_says_that_it_is_older_sees_what_waits_and_settles_it(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    url = scripted_agent.script("/pay", reply({"pay": "P-1"}), idempotent=False)
    system.use_agents({"name": "pay", "description": "Pays.", "url": url, "provides": ["pay"], "side_effects": True})
    system.start("bridge")
    ids = ["one", "two", "three"]
    for task_id in ids:
        system.produce_task(task_id, required_fields=["pay"])
    system.wait_for_all(ids, "received")
    assert restores_of(system)["verdict"] == "ok"

    told = system.orchestrator("db", "restored", "--why", "a snapshot of the disk", "--who", "ann", "--json")
    assert told.json() == {"tasks": 3}
    system.start("worker", "beat")
    for task_id in ids:
        assert system.wait_for_state(task_id, "waiting").waits_for == "person"
    found = restores_of(system)
    assert found["verdict"] == "wrong"
    assert "a snapshot of the disk (noticed by ann; 3 tasks had not ended)" in found["what"]
    assert "3 wait for a person" in found["what"]
    shown = system.orchestrator("task", "show", "one").out
    assert "doubted: at " in shown
    assert "a snapshot of the disk" in shown
    assert "orchestrator task trust one" in shown
    document = system.orchestrator("task", "show", "one", "--json").json()
    assert document["doubt"]["who"] == "ann"
    assert document["task"]["doubted_at"] is not None

    system.orchestrator("task", "resolve", "one", "--succeeded", "--reply", '{"pay": "P-0"}', "--why", "seen there")
    system.wait_for_state("one", "completed")
    listed = system.orchestrator("task", "trust", "--all", "--dry-run", "--json").json()
    assert sorted(one["task_id"] for one in listed["tasks"]) == ["three", "two"]
    system.orchestrator("task", "trust", "two", "--why", "asked them")
    system.wait_for_state("two", "completed")
    many = system.orchestrator("task", "trust", "--agent", "pay", "--why", "nothing was lost", "--yes", "--json").json()
    assert (many["done"], many["failed"]) == (1, 0)
    system.wait_for_state("three", "completed")
    assert len(scripted_agent.ledger().posts("/pay")) == 2
    assert restores_of(system)["verdict"] == "ok"
    refused = system.orchestrator("task", "trust", "two", "--json", code=None)
    assert refused.error()["code"] == "not_allowed"
    audit = system.orchestrator("task", "show", "two", "--audit", "--json").json()["audit"]
    assert [(one["what"], one["why"]) for one in audit] == [("trust", "asked them")]
