"""Tools are made from the registry: any agent's name and schema fits, and the way back is exact."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.domain.agent import AgentSpec
from orchestrator.llm.tools import CONTROL_TOOLS, Toolbox


def agent(name: str, **parts: object) -> AgentSpec:
    return AgentSpec(name, str(parts.pop("description", f"Does {name}.")), "http://a.test/", **parts)  # type: ignore[arg-type]  # the parts are named in each test


def entry_of(description: str) -> dict[str, Any]:
    """What a tool's description says as data."""
    assert description.count("<data>") == description.count("</data>") == 1
    entry: dict[str, Any] = json.loads(description.partition("<data>")[2].removesuffix("</data>"))
    return entry


def test_an_agent_becomes_a_tool_with_its_schema_and_what_it_provides_and_needs() -> None:
    schema = {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]}
    spec = agent(
        "credit_score",
        input_schema=schema,
        provides={"credit_score": "/score", "risk": "/risk"},
        requires={"number": "/registration_number"},
    )
    function = Toolbox.of([spec]).definitions()[0]["function"]
    assert function["name"] == "credit_score"
    assert entry_of(function["description"]) == {
        "description": "Does credit_score.",
        "provides": ["credit_score", "risk"],
        "needs": ["number (from registration_number)"],
    }
    assert function["parameters"]["properties"]["input"] == schema
    assert function["parameters"]["required"] == ["reason", "task", "input"]


def test_the_control_tools_stand_behind_the_agents_and_their_schemas_are_valid() -> None:
    definitions = Toolbox.of([agent("a")]).definitions()
    assert [one["function"]["name"] for one in definitions] == ["a", *CONTROL_TOOLS]
    for one in definitions:
        Draft202012Validator.check_schema(one["function"]["parameters"])


@pytest.mark.parametrize("name", ["crm.look-up", "Bonität prüfen", "finish", "record", "x" * 100, "授信", "…", ""])
def test_names_that_are_no_tool_names_are_mapped_and_found_again(name: str) -> None:
    box = Toolbox.of([agent("other"), agent(name)])
    (tool,) = [tool for tool, spec in box.agents.items() if spec.name == name]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool)
    assert tool not in CONTROL_TOOLS
    assert Toolbox.of([agent(name)]).agents.keys() == {tool}, "the same name each time"
    assert entry_of(box.definitions()[1]["function"]["description"])["agent"] == name


def test_names_that_look_alike_once_mapped_stay_apart() -> None:
    names = ["crm lookup", "crm.lookup", "crm/lookup"]
    box = Toolbox.of([agent(name) for name in names])
    assert [spec.name for spec in box.agents.values()] == names
    # An agent that has the very name another one would be mapped to.
    squatter = next(iter(Toolbox.of([agent("finish")]).agents))
    both = Toolbox.of([agent("finish"), agent(squatter)])
    assert both.agents[squatter].name == squatter
    assert sorted(spec.name for spec in both.agents.values()) == sorted(["finish", squatter])


def test_long_descriptions_are_cut_and_keep_what_the_agent_provides() -> None:
    spec = agent("a", description="word\n\x00 " * 2000, provides={"score": "/score"})
    description = Toolbox.of([spec]).definitions()[0]["function"]["description"]
    assert len(description) <= 1_024
    assert entry_of(description)["provides"] == ["score"]
    assert entry_of(description)["description"].startswith("word \x00 word")
    assert entry_of(description)["description"].endswith("…")
    assert "\n" not in description
    assert "\x00" not in description


def test_references_inside_a_schema_still_lead_where_they_led() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"iban": {"type": "string", "pattern": "^DE"}},
        "properties": {
            "iban": {"$ref": "#/$defs/iban"},
            "other": {"$ref": "#/properties/count"},
            "count": {"type": "integer"},
            "task": {"type": "string"},
        },
    }
    parameters = Toolbox.of([agent("a", input_schema=schema)]).definitions()[0]["function"]["parameters"]
    validator = Draft202012Validator(parameters)
    good = {"reason": "r", "task": "t", "input": {"iban": "DE1", "other": 1, "task": "own"}}
    assert validator.is_valid(good)
    assert not validator.is_valid(good | {"input": {"iban": "FR1"}})
    assert not validator.is_valid(good | {"input": {"other": "x"}})
