"""What is found once for an agent, or for those on offer, and kept while they are the same."""

from __future__ import annotations

import pytest

from orchestrator.domain import asked
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.asked import offer_of
from orchestrator.domain.value import replace
from orchestrator.llm import rules
from orchestrator.llm.rules import fields_needed


def agent(name: str, **pointers: dict[str, str]) -> AgentSpec:
    return AgentSpec(
        name,
        "Finds something.",
        "http://127.0.0.1:1/",
        provides=pointers.get("provides", {}),
        requires=pointers.get("requires", {}),
    )


def test_the_same_agents_are_the_same_offer() -> None:
    first, second = agent("first"), agent("second")
    offer = offer_of([first, second], ())
    assert offer_of((first, second), []) is offer
    assert offer_of([second, first], ()).digest != offer.digest
    assert offer_of([first], ()).digest != offer.digest


def test_equal_agents_are_an_equal_offer_and_changed_ones_another() -> None:
    offer = offer_of([agent("one")], ())
    assert offer_of([agent("one")], ()) is not offer
    assert offer_of([agent("one")], ()).digest == offer.digest
    assert offer_of([agent("one", provides={"a": "/a"})], ()).digest != offer.digest


def test_what_an_agent_needs_is_its_own_after_a_change() -> None:
    before = agent("one", requires={"a": "/a"})
    assert fields_needed(before) == ("a",)
    assert fields_needed(replace(before, requires={"b": "/b/0"})) == ("b",)
    assert fields_needed(before) == ("a",)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked._offers, "most", 3)
    monkeypatch.setattr(rules._needs_seen, "most", 3)
    agents = [agent(f"agent {number}", requires={"a": f"/field_{number}"}) for number in range(10)]
    for number, one in enumerate(agents):
        assert offer_of([one], ()).agents == (one,)
        assert fields_needed(one) == (f"field_{number}",)
    assert len(asked._offers) <= 3
    assert len(rules._needs_seen) <= 3
