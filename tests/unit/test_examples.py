"""The files of examples/ fit one another: schemas are schemas, what is needed is given, scenarios can be solved."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
AGENTS: list[dict[str, Any]] = yaml.safe_load((EXAMPLES / "agents.yaml").read_text())["agents"]
EVENTS: list[dict[str, Any]] = yaml.safe_load((EXAMPLES / "events.yaml").read_text())["events"]
SCENARIOS = sorted((EXAMPLES / "scenarios").glob("*.json"))


def pointers(names: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """A list of fields or a mapping to fields or pointers, as a mapping to pointers."""
    pairs = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    return {name: place if place.startswith("/") else f"/{place}" for name, place in pairs}


def schema_at(schema: dict[str, Any], pointer: str) -> dict[str, Any]:
    """The part of a schema that describes the place a pointer names; it must be a required one."""
    for token in pointer[1:].split("/"):
        assert token in schema["required"], f"{token} of {pointer} may be missing"
        schema = schema["properties"][token]
    return schema


def records(topic: str) -> list[dict[str, Any]]:
    """The records of all scenarios for one topic."""
    found = [record for path in SCENARIOS for record in json.loads(path.read_text()) if record["topic"] == topic]
    assert found
    return found


def reachable(known: set[str], with_events: bool) -> set[str]:
    """All fields that agents (and events) can fill, starting from those known."""
    known = known | ({field for event in EVENTS for field in event["fills"]} if with_events else set())
    while True:
        more = {
            field
            for agent in AGENTS
            if all(pointer.split("/")[1] in known for pointer in pointers(agent["requires"]).values())
            for field in pointers(agent["provides"])
        }
        if more <= known:
            return known
        known = known | more


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent["name"]))
def test_an_agent_gets_the_inputs_it_needs_and_gives_what_it_names(agent: dict[str, Any]) -> None:
    for schema in (agent["input_schema"], agent["output_schema"]):
        jsonschema.Draft202012Validator.check_schema(schema)
    inputs = pointers(agent["requires"])
    assert set(inputs) == set(agent["input_schema"]["properties"])
    assert set(agent["input_schema"]["required"]) <= set(inputs)
    for pointer in pointers(agent["provides"]).values():
        assert schema_at(agent["output_schema"], pointer)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent["name"]))
def test_side_effects_come_with_keys_and_look_up(agent: dict[str, Any]) -> None:
    assert agent["side_effects"] == agent.get("idempotent", False) == ("lookup" in agent)
    assert agent["timeout"]["connect"] <= agent["timeout"]["read"] <= agent["timeout"]["total"]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event["name"]))
def test_an_event_type_fills_fields_from_places_that_its_schema_requires(event: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(event["schema"])
    for pointer in event["fills"].values():
        assert schema_at(event["schema"], pointer)


def test_every_task_can_be_solved_and_one_only_with_an_event() -> None:
    tasks = [record["value"] for record in records("tasks")]
    for task in tasks:
        assert set(task["required_fields"]) <= reachable(set(task["event_data"]), with_events=True), task["task_id"]
    waiting = {
        task["task_id"]
        for task in tasks
        if not set(task["required_fields"]) <= reachable(set(task["event_data"]), with_events=False)
    }
    assert waiting == {record["value"]["task_id"] for record in records("events")}


def test_events_fit_their_types_and_belong_to_a_task() -> None:
    types = {event["name"]: event for event in EVENTS}
    tasks = {record["value"]["task_id"] for record in records("tasks")}
    for record in records("events"):
        jsonschema.validate(record["value"]["event_data"], types[record["value"]["event_type"]]["schema"])
        assert record["value"]["task_id"] in tasks


def test_records_are_keyed_by_task_id() -> None:
    for record in records("tasks") + records("events"):
        assert record["key"] == record["value"]["task_id"]
    ids = [record["key"] for record in records("tasks")]
    assert len(ids) == len(set(ids))


def test_agents_import_the_standard_library_only_and_their_own_package_relatively() -> None:
    for path in (EXAMPLES / "agents").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names, path.name
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in sys.stdlib_module_names, path.name


def test_the_readme_names_every_file() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for path in [*SCENARIOS, *(EXAMPLES / "agents").glob("[!_]*.py"), *EXAMPLES.glob("*.yaml")]:
        assert f"`{path.relative_to(EXAMPLES)}`" in readme
