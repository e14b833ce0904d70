"""The prompt's versions: what was published stays as it was, and the whole of a prompt is as it was last read."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.context import Context, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.value import replace
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.prompt import build_prompt
from orchestrator.llm.prompts import NEWEST, VERSIONS, instructions, usable

GOLDEN = Path(__file__).parent / "golden"
REWRITE = "python -m tests.unit.test_prompt_versions"

PUBLISHED = {
    "1": "971fa8d4449bcda3",
    "2": "0c7c400388d398d6",
}
"""Digests: a change of wording is a new version, never a change of one that tasks in flight may have begun with."""


def request() -> PlanRequest:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    origin = Origin("agent", "register", at, step=1)
    context = Context(
        2, ("legal_name", "score"), {"legal_name": "Müller GmbH", "note": "a < b"}, {"legal_name": origin}
    )
    decision = Decision(DecisionKind.CALL, "legal_name is missing", Usage("m"), calls=(AgentCall("register", {}),))
    delegation = Delegation(
        "T-1", 1, 0, "register", {"company": "Müller"}, "", "k", DelegationState.SUCCEEDED, reply={"legal_name": "M"}
    )
    entry = HistoryEntry(Step("T-1", 1, StepState.FINISHED, decision, 1, 1), (delegation,))
    kind = EventType("approved", "Approved.", fills={"approval": "/approval"})
    return PlanRequest("T-1", 2, "Prüfe Müller", context, [], [kind], [entry], complaints=["call a tool"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_never_changes(version: str) -> None:
    assert hashlib.sha256(instructions(version).encode()).hexdigest()[:16] == PUBLISHED[version]


def test_the_version_before_the_newest_is_still_there() -> None:
    assert len(VERSIONS) >= 2
    assert (usable(VERSIONS[-2]), usable("no such"), usable(None)) == (VERSIONS[-2], NEWEST, NEWEST)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_prompt_is_as_it_was_last_read(version: str) -> None:
    """Whoever changes the prompt looks at what the model will see, then runs the module to write it down."""
    golden = GOLDEN / f"prompt_v{version}.txt"
    assert rendered(version) == golden.read_text(encoding="utf-8"), f"the prompt has changed: run `{REWRITE}`"


def rendered(version: str) -> str:
    prompt = build_prompt(replace(request(), prompt_version=version))
    assert prompt.version == version
    return f"{prompt.system}\n=====\n{prompt.user}\n"


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.15, 0.05])
def test_trimming_never_drops_a_required_field(scale: float) -> None:
    required = tuple(f"field_{number}" for number in range(300))
    data: dict[str, Any] = {f"other_{number}": "x" * 2_000 for number in range(300)}
    data |= {name: f"{name} is " + "y" * 2_000 for name in required[:150]}
    big = replace(request(), context=Context(2, required, data), description="d" * 50_000)
    user = build_prompt(big, scale).user
    for name in required:
        assert f'"{name}"' in user
    for name in required[:150]:
        assert f"{name} is y" in user, "a value keeps its beginning"


def test_a_smaller_scale_gives_a_smaller_prompt() -> None:
    data: dict[str, Any] = {f"other_{number}": "x" * 2_000 for number in range(300)}
    big = replace(request(), context=Context(2, ("a",), data), description="d" * 50_000)
    sizes = [len(build_prompt(big, scale).user) for scale in (1.0, 0.4, 0.15, 0.05)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 5


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in VERSIONS:
        (GOLDEN / f"prompt_v{one}.txt").write_text(rendered(one), encoding="utf-8")
    sys.stdout.write("written\n")
