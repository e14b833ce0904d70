"""Mistakes that people make in agents.yaml and events.yaml: each is an error with a place, none a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.agents import EventTypeRegistry, Registry
from orchestrator.agents.entry import AgentEntry
from orchestrator.domain.agent import AgentSpec, AgentTimeout
from orchestrator.domain.json_schema import schema_problem
from orchestrator.errors import ConfigurationError, EventTypesError, RegistryError

URL = "http://127.0.0.1:1/score"


def load(folder: Path, keys: str) -> AgentSpec:
    """The agent of a file with one entry, whose further keys are this YAML text."""
    path = folder / "agents.yaml"
    path.write_text(f"agents:\n- {{name: score, description: Scores., url: '{URL}', {keys}}}\n", encoding="utf-8")
    (agent,) = Registry.load(path).all()
    return agent


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("provides: [{score: /score}]", "a list must hold names only"),
        ("provides: [[a]]", "a list must hold names only"),
        ("requires: [1]", "a list must hold names only"),
        ("lookup: {url: 'http://{key}.example/x'}", "{key} belongs into the path"),
        ("lookup: {url: 'http://x/{key}/{key}'}", "must contain {key} once"),
        ("health: 'http://${HOST/x'", "a ${ that is no ${NAME}"),
        ("health: 'http://x:99999/'", "Port out of range"),
        ("health: 'http://[::1'", "Invalid IPv6"),
        ("timeout: {read: 20, total: 5}", "read (20 s) is longer than total (5 s)"),
        ("timeout: {connect: .inf}", "does not have"),
        ("limits: {rate: .nan}", "does not have"),
        ("input_schema: {properties: {1: {}}}", "the key 1 is no text; put it in quotes"),
        ("input_schema: {properties: {on: {}}}", "the key True is no text"),
        ("output_schema: {const: !!binary aGk=}", "that JSON does not have"),
        ("output_schema: {pattern: '('}", "is no JSON Schema"),
        ("output_schema: {$ref: '#/$defs/score'}", "'#/$defs/score' leads nowhere"),
        ("output_schema: {properties: {a: {items: {$ref: '#score'}}}}", "'#score' leads nowhere"),
        ("output_schema: {allOf: [{}], $ref: '#/allOf/first'}", "leads nowhere"),
        ("output_schema: {$ref: 'https://schemas.example/score.json'}", "other files are not read"),
        ("output_schema: {$ref: 'http://['}", "leads nowhere"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_guessed(tmp_path: Path, keys: str, said: str) -> None:
    with pytest.raises(RegistryError) as caught:
        load(tmp_path, keys)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        "{$defs: {a: {type: integer}}, properties: {a: {$ref: '#/$defs/a'}}}",
        "{$id: 'https://schemas.example/s', $defs: {a: {type: integer}}, properties: {a: {$ref: 's#/$defs/a'}}}",
        "{$defs: {a: {$anchor: whole, type: integer}}, properties: {a: {$ref: '#whole'}}}",
        "{$ref: 'https://json-schema.org/draft/2020-12/schema'}",
        "{const: {$ref: 'https://no.schema/only-a-value'}}",
        "{properties: {$ref: {type: string}}}",
    ],
)
def test_references_that_lead_somewhere_are_used(tmp_path: Path, schema: str) -> None:
    agent = load(tmp_path, f"output_schema: {schema}")
    assert agent.output_schema is not None
    schema_problem(agent.output_schema, {"a": 1})


def test_dates_stay_texts_as_json_has_them(tmp_path: Path) -> None:
    agent = load(tmp_path, "output_schema: {enum: [2024-01-31, 2024-13-45]}")
    assert agent.output_schema == {"enum": ["2024-01-31", "2024-13-45"]}


def test_entries_may_share_parts_by_yaml_anchors(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text(
        f"agents:\n- {{name: a, description: A., url: '{URL}', timeout: &slow {{connect: 1, read: 20, total: 90}}}}\n"
        f"- {{name: b, description: B., url: '{URL}', timeout: {{<<: *slow, total: 30}}}}\n"
    )
    first, second = Registry.load(tmp_path / "agents.yaml").all()
    assert first.timeout == AgentTimeout(1, 20, 90)
    assert second.timeout == AgentTimeout(1, 20, 30)


def test_a_short_total_shortens_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "timeout: {total: 2}").timeout == AgentTimeout(2, 2, 2)


def test_a_look_up_address_keeps_all_but_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOK_UP", "http://x/replies?of={key}")
    assert load(tmp_path, "lookup: {url: 'http://x/api-key-store/{key}'}").lookup == "http://x/api-key-store/{key}"
    assert load(tmp_path, "lookup: {url: '${LOOK_UP}'}").lookup == "http://x/replies?of={key}"


def test_a_setting_whose_file_cannot_be_read_is_one_problem_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(RegistryError) as caught:
        load(tmp_path, "health: 'http://${HOST}/', timout: 1")
    assert "2 problems" in str(caught.value)
    assert "HOST_FILE" in str(caught.value)


@pytest.mark.parametrize("secret", ["schlüssel", " padded", "padded ", "tab\tbed"])
def test_a_secret_that_no_header_can_carry_is_told_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    load(tmp_path, "auth: {type: bearer, env: SCORE_TOKEN}")
    monkeypatch.setenv("SCORE_TOKEN", secret)
    with pytest.raises(RegistryError, match="characters that no header may have") as caught:
        Registry.load(tmp_path / "agents.yaml").check_secrets()
    assert secret not in str(caught.value)


def test_an_address_with_a_password_from_a_setting_does_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "user:s3cr3t@x")
    with pytest.raises(RegistryError, match="credentials do not belong") as caught:
        load(tmp_path, "health: 'http://${HOST}/'")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("keys", ["schema: {$ref: '#/nowhere'}", "fills: [{a: /b}]", "schema: {const: .nan}"])
def test_event_types_are_held_to_the_same(tmp_path: Path, keys: str) -> None:
    path = tmp_path / "events.yaml"
    path.write_text(f"events:\n- {{name: paid, {keys}}}\n")
    with pytest.raises(EventTypesError):
        EventTypeRegistry.load(path)


ANY_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
KEYS = [*AgentEntry.model_fields, "schema", "fills", "unknown"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANY_VALUE, max_size=8))
def test_no_entry_at_all_ends_in_a_traceback(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "any.yaml"
    sound = {"name": "score", "description": "Scores.", "url": URL}
    for top, registry in (("agents", Registry), ("events", EventTypeRegistry)):
        path.write_text(yaml.safe_dump({top: [sound | entry if top == "agents" else entry]}), encoding="utf-8")
        try:
            registry.load(path)
        except ConfigurationError as error:
            assert str(error).startswith(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text())
def test_no_text_at_all_ends_in_a_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        Registry.load(path)
    except RegistryError as error:
        assert str(error).startswith(str(path))
