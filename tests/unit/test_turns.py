"""The pure rules of whose turn it is."""

from __future__ import annotations

import pytest

from orchestrator.domain.turns import LAST_PLACE, PLACES, TurnRules, Window, place_of, urgency_of
from orchestrator.errors import ConfigurationError
from orchestrator.settings import read_settings

DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


def test_urgent_places_come_first_and_lanes_within_them() -> None:
    places = [place_of(urgency, lane) for urgency in range(9, -1, -1) for lane in (0, 1)]
    assert places == list(range(PLACES))
    assert urgency_of(7, 5) == 9


def test_an_empty_window_has_room_everywhere() -> None:
    window = Window(3)
    assert window.last_with_room() == LAST_PLACE
    assert window.most_urgent == -1


def test_a_window_counts_what_is_served_before() -> None:
    window = Window(3)
    for _ in range(3):
        window.fill(place_of(4, 1))
    assert window.room(place_of(4, 1)) == window.room(place_of(0, 0)) == 0
    assert window.room(place_of(4, 0)) == 3
    assert window.last_with_room() == place_of(4, 0)
    assert window.most_urgent == 4
    for _ in range(3):
        window.fill(0)
    assert window.last_with_room() is None
    assert window.copy().waiting == 6


def test_caps_by_name_and_for_all_others() -> None:
    rules = TurnRules(cap=2, caps={"big": 5})
    assert [rules.cap_of(tenant) for tenant in ("big", "other", None)] == [5, 2, None]
    assert not TurnRules().has_caps


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ("*=200, acme=500", (200, {"acme": 500})),
        ("a=b=3", (None, {"a=b": 3})),
        ("", (None, {})),
    ],
)
def test_caps_from_the_setting(value: str, rules: tuple[int | None, dict[str, int]]) -> None:
    found = read_settings({**DATABASE, "ORCHESTRATOR_TENANT_TASKS": value}, dotenv=None).turn_rules
    assert (found.cap, dict(found.caps)) == rules


@pytest.mark.parametrize("value", ["acme", "=3", "acme=0", "acme=many", "a=1,a=2"])
def test_caps_that_are_none(value: str) -> None:
    with pytest.raises(ConfigurationError, match="ORCHESTRATOR_TENANT_TASKS"):
        read_settings({**DATABASE, "ORCHESTRATOR_TENANT_TASKS": value}, dotenv=None)
