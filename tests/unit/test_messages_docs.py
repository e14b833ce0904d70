"""docs/messages.md says what is true: every reason is listed, every example fits its schema."""

from __future__ import annotations

import json
import re

from orchestrator import schemas
from tests.support.documents import blocks
from tests.support.processes import ROOT

DOC = "docs/messages.md"
IN_CODE = re.compile(
    r"(?:Unkeepable|Invalid)\(\s*\"([a-z_0-9]+)\"|reason, detail = \"([a-z_]+)\"|SELECT '(unknown_[a-z]+)',"
)
SOURCES = (
    "bridge/decode.py",
    "bridge/intake.py",
    "bridge/strict_json.py",
    "orchestrator/store/intake.py",
    "orchestrator/store/sweep.py",
)


def test_every_reason_of_a_dead_letter_is_listed() -> None:
    written = {
        next(filter(None, found))
        for source in SOURCES
        for found in IN_CODE.findall((ROOT / source).read_text(encoding="utf-8"))
    }
    table = (ROOT / DOC).read_text(encoding="utf-8").split("| reason | the record |")[1]
    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", table, re.MULTILINE)) == written


def test_the_examples_are_messages() -> None:
    task, event, update, letter = (json.loads(block.text) for block in blocks(DOC, "json"))
    assert schemas.problem("task", task) is None
    assert schemas.problem("event", event) is None
    assert schemas.problem("task-update", update) is None
    assert schemas.problem("dead-letter", letter) is None
