"""events.yaml: what it may say, and how mistakes in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agents import EventTypeRegistry
from orchestrator.errors import EventTypesError
from tests.support.processes import ROOT


def load(folder: Path, text: str) -> EventTypeRegistry:
    path = folder / "events.yaml"
    path.write_text(text, encoding="utf-8")
    return EventTypeRegistry.load(path)


def test_the_sample_types_are_read() -> None:
    types = EventTypeRegistry.load(ROOT / "examples" / "events.yaml")
    approved = types.get("supplier.approved")
    assert approved is not None
    assert approved.fills == {"purchase_approval": "/approval"}
    assert [one.name for one in types.all()] == ["supplier.approved", "supplier.contact_changed"]


def test_without_a_file_no_type_is_listed() -> None:
    types = EventTypeRegistry.load(None)
    assert types.all() == ()
    assert types.get("any") is None
    assert types.get(None) is None


def test_a_name_alone_is_an_entry(tmp_path: Path) -> None:
    (one,) = load(tmp_path, "events:\n- name: paid\n").all()
    assert one.fills is None
    assert one.schema == {"type": "object"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("events:\n- description: x\n", "event type number 1: name is missing"),
        ("events:\n- {name: a, schema: {type: objekt}}\n", "is no JSON Schema"),
        ("events:\n- {name: a, filld: {}}\n", "did you mean 'fills'"),
        ("events:\n- {name: a}\n- {name: a}\n", "the name appears twice"),
        ("events:\n- {name: 'a b'}\n", "name"),
        ("types: []\n", "must be the one key `events:`"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(EventTypesError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(EventTypesError, match="no such file") as caught:
        EventTypeRegistry.load(tmp_path / "nowhere.yaml")
    assert "ORCHESTRATOR_EVENTS" in (caught.value.hint or "")
