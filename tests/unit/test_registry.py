"""agents.yaml: what it may say, and how mistakes in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agents import Registry
from orchestrator.agents.entry import CONTROL_TOOLS
from orchestrator.errors import RegistryError
from orchestrator.llm import tools
from tests.support.processes import ROOT

PLAIN = "- {name: score, description: Scores., url: 'http://127.0.0.1:1/score'}"


def load(folder: Path, *entries: str) -> Registry:
    path = folder / "agents.yaml"
    path.write_text("agents:\n" + "\n".join(entries), encoding="utf-8")
    return Registry.load(path)


def entry(**parts: str) -> str:
    """The plain entry with these keys changed or added, each as YAML text."""
    keys = {"name": "score", "description": "Scores.", "url": "'http://127.0.0.1:1/score'", **parts}
    return "- {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


def test_the_sample_registry_is_read() -> None:
    registry = Registry.load(ROOT / "examples" / "agents.yaml")
    assert len(registry.all()) == 5
    screening = registry.get("sanctions_screening")
    assert screening is not None
    assert screening.provides == {"sanctions_status": "/result/status", "sanctions_hits": "/result/hits"}
    draft = registry.get("contract_draft")
    assert draft is not None
    assert draft.requires["approved_by"] == "/purchase_approval/approved_by"
    assert draft.lookup is not None
    assert draft.lookup.endswith("/{key}")
    assert len(registry.digest) == 64


def test_a_plain_entry_has_careful_defaults(tmp_path: Path) -> None:
    (agent,) = load(tmp_path, PLAIN).all()
    assert agent.side_effects
    assert not agent.idempotent
    assert not agent.may_repeat
    assert agent.enabled
    assert agent.input_schema == {"type": "object"}


def test_disabled_and_disallowed_agents_are_left_out(tmp_path: Path) -> None:
    registry = load(tmp_path, PLAIN, entry(name="other"), entry(name="spare", enabled="false"))
    assert [agent.name for agent in registry.enabled()] == ["score", "other"]
    assert [agent.name for agent in registry.enabled(["other", "spare", "unknown"])] == ["other"]
    assert registry.get("spare") is not None


def test_addresses_take_settings_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_HOST", "scores.example")
    (agent,) = load(tmp_path, entry(url="'http://${SCORE_HOST}:${SCORE_PORT:-8123}/x'")).all()
    assert agent.url == "http://scores.example:8123/x"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"url": "'ftp://x/y'"}, "must be an http or https address"),
        ({"url": "'http://user:pw@x/y'"}, "credentials do not belong into an address"),
        ({"url": "'http://${NOBODY_SET_THIS}/y'"}, "NOBODY_SET_THIS"),
        ({"url": "'http:///y'"}, "with a host"),
        ({"name": "'two words'"}, "name"),
        ({"name": "finish"}, "tool of the planner"),
        ({"protocol": "a2a"}, "not supported; use http"),
        ({"requires_approval": "maybe"}, "requires_approval"),
        ({"requires_approval": "{whom: x}"}, "requires_approval"),
        ({"requires_approval": "{escalate_to: head}"}, "go together"),
        ({"compensate": "{agent: x}"}, "compensate.url is missing"),
        ({"compensate": "{url: 'http://x/y', inputs: {}}"}, "did you mean 'input'"),
        ({"compensate": "{url: 'http://x/y', input: {id: /replies/id}}"}, "must point into /arguments or /reply"),
        ({"compensate": "{url: 'http://x/y', input: {id: /key/id}}"}, "must point into /arguments or /reply"),
        ({"compensate": "{url: 'http://x/y', input: [id]}"}, "must be a mapping of names to pointers"),
        ({"compensate": "{url: 'http://x/y', lookup: {url: 'http://x'}}"}, "must contain {key} once"),
        ({"compensate": "{url: 'http://x/y'}", "side_effects": "false"}, "has nothing to undo"),
        (
            {
                "compensate": "{url: 'http://x/y', input: {id: /reply/contract}}",
                "output_schema": "{properties: {contract_id: {}}, additionalProperties: false}",
            },
            "output_schema knows no 'contract'",
        ),
        ({"cancel": "'yes'"}, "cancel"),
        ({"cancel": "{url: 'http://x/y'}"}, "must contain {key} once"),
        ({"cancel": "location", "reply": "event"}, "needs cancel: {url: …}"),
        ({"timout": "{}"}, "did you mean 'timeout'"),
        ({"timeout": "{conect: 3}"}, "did you mean 'connect'"),
        ({"timeout": "{connect: 90}"}, "longer than total"),
        ({"timeout": "{total: 0}"}, "greater than 0"),
        ({"retry": "{max_attempts: 0}"}, "retry.max_attempts"),
        ({"input_schema": "{type: objekt}"}, "is no JSON Schema"),
        ({"input_schema": "{type: array}"}, "must describe an object"),
        ({"output_schema": "{properties: 1}"}, "is no JSON Schema"),
        ({"provides": "{a: 1}"}, "provides"),
        ({"provides": "just_one"}, "must be a list of names or a mapping"),
        ({"lookup": "{url: 'http://x/y'}"}, "must contain {key} once"),
        ({"auth": "{type: bearer}"}, "auth.env is missing"),
        ({"auth": "{type: bearer, env: X, header: Y}"}, "header goes with type: header only"),
        ({"auth": "{type: header, env: X, header: Content-Length}"}, "Content-Length says where a request goes"),
        ({"auth": "{type: magic, env: X}"}, "auth.type"),
        ({"max_reply_bytes": "1"}, "max_reply_bytes"),
    ],
)
def test_a_mistake_is_told_with_agent_and_key(tmp_path: Path, parts: dict[str, str], said: str) -> None:
    with pytest.raises(RegistryError, match="agent ") as caught:
        load(tmp_path, entry(**parts))
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_call_is_canceled_at_its_location_or_by_its_key(tmp_path: Path) -> None:
    job, keyed, never = load(
        tmp_path,
        entry(cancel="location"),
        entry(name="keyed", cancel="{url: 'http://x/calls/{key}/cancel'}"),
        entry(name="never"),
    ).all()
    assert job.cancel is not None and job.cancel.url is None
    assert keyed.cancel is not None and keyed.cancel.url == "http://x/calls/{key}/cancel"
    assert never.cancel is None


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        load(tmp_path, entry(url="x", timout="{}"), "- {name: other, url: 'http://x'}", PLAIN)
    text = str(caught.value)
    assert "has 4 problems" in text
    assert "agent 'other': description is missing" in text
    assert "agent 'score': the name appears twice" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents: [", "no YAML"),
        ("agents: {a: b}", "must be a list"),
        ("agents: [1]", "must be a list"),
        ("agent: []", "must be the one key `agents:`"),
        ("agents:\n- name: a\n  name: b\n", "'name' appears twice in one place (line 3)"),
    ],
)
def test_a_file_of_another_form_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "agents.yaml"
    path.write_text(text)
    with pytest.raises(RegistryError) as caught:
        Registry.load(path)
    assert said in str(caught.value)


def test_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no such file") as caught:
        Registry.load(tmp_path / "nowhere.yaml")
    assert "ORCHESTRATOR_AGENTS" in (caught.value.hint or "")


def test_missing_secrets_are_told_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load(
        tmp_path,
        entry(auth="{type: bearer, env: SCORE_TOKEN}"),
        entry(name="basic", auth="{type: basic, env: SCORE_LOGIN}"),
        entry(name="spare", enabled="false", auth="{type: bearer, env: NEVER_SET}"),
    )
    monkeypatch.setenv("SCORE_LOGIN", "no-colon")
    with pytest.raises(RegistryError) as caught:
        registry.check_secrets()
    assert "SCORE_TOKEN, which is not set" in str(caught.value)
    assert "SCORE_LOGIN must be user:password" in str(caught.value)
    assert "NEVER_SET" not in str(caught.value)
    monkeypatch.setenv("SCORE_TOKEN", "t")
    monkeypatch.setenv("SCORE_LOGIN", "a:b")
    registry.check_secrets()


def test_the_digest_tells_a_changed_file(tmp_path: Path) -> None:
    before = load(tmp_path, PLAIN).digest
    assert load(tmp_path, PLAIN).digest == before
    assert load(tmp_path, entry(description="Scores better.")).digest != before


def test_the_planners_tools_are_all_reserved() -> None:
    assert set(tools.CONTROL_TOOLS) == CONTROL_TOOLS
