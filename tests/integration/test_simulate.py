"""Tasks that really ran, by a model over HTTP on a real PostgreSQL, decided again and written down as tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator.domain.event_type import EventType
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.llm import make_planner
from orchestrator.settings import read_settings
from tests.support.agents import reply
from tests.support.command import CommandHere
from tests.support.documents import blocks
from tests.support.llm import LlmServer, fails, says, tool
from tests.support.processes import ROOT, clean_environment
from tests.support.step_world import World

SECRET = "sk-test-simulate-1"
PRICES = 'models: {"openai:then": {prompt: 10, answer: 100}, "openai:now": {prompt: 1, answer: 2}}'

ASK_BOTH = says(
    tool("register", reason="Both can be asked at once.", task="Look it up", input={"company": "Acme"}),
    tool("letter", reason="Both can be asked at once.", task="Get the letter", input={}),
)
RECORD = says(
    tool(
        "record",
        reason="The letter says it.",
        fields=[{"field": "limit", "delegation": "1.1", "value": 5000, "quote": "a limit of 5000 EUR"}],
    )
)
WAIT = says(tool("wait_for_event", event_type="approved", reason="Only an event brings the approval."))
PERSON = says(tool("ask_human", question="Which terms?", field="terms", reason="Nobody else knows."))
SCORE = says(tool("score", reason="The score is missing.", task="Score it", input={"number": "HRB 1"}))


@pytest.fixture
def env(llm_server: LlmServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "prices.yaml").write_text(PRICES)
    return {
        "DATABASE_URL": database_url,
        "OPENAI_API_KEY": SECRET,
        "OPENAI_BASE_URL": llm_server.api_url,
        "ORCHESTRATOR_MODEL": "openai:then",
        "ORCHESTRATOR_PRICES": str(tmp_path / "prices.yaml"),
    }


@pytest.fixture
def orchestrator(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandHere:
    return CommandHere(env, tmp_path, monkeypatch, capsys)


@pytest.fixture
def course(world: World, env: dict[str, str], llm_server: LlmServer) -> Iterator[World]:
    """Two calls side by side, a value from a text, an event, a person, a score: all of it decided by a model."""
    planner: Any = make_planner(read_settings(env, None))
    world.planner = planner
    world.event_types["approved"] = EventType("approved", "Approved.", fills={"approval": "/by"})
    number = {"provides": {"number": "/number"}, "requires": {"company": "/company"}}
    world.add_agent("register", reply({"number": "HRB 1"}), **number)
    world.add_agent("letter", reply({"text": f"We grant a limit of 5000 EUR. ({SECRET})"}), provides={})
    world.add_agent("score", reply({"score": 71}), requires={"number": "/number"})
    required = ("number", "limit", "approval", "terms", "score")
    world.take(TaskMessage("t-1", "Score Acme", required, {"company": "Acme"}))
    llm_server.script(ASK_BOTH, RECORD, WAIT, PERSON, SCORE)
    assert world.run(1).outcome == "next"
    assert world.run(2).outcome == "next"
    assert world.run(3).outcome == "waiting"
    world.take(EventMessage("t-1", {"by": "ann"}, "approved"))
    assert world.run(4).outcome == "waiting"
    world.store.answer("t-1", None, "30 days", who="bob", why="agreed")
    assert world.run(5).outcome == "completed"
    llm_server.reset()
    yield world
    planner.close()


def rows(world: World) -> dict[str, Any]:
    """Everything that PostgreSQL holds, by table."""
    with world.store.engine.begin() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars()
        sums = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t"
        return {name: tuple(connection.execute(text(sums.format(name))).one()) for name in sorted(tables)}


def test_decided_again_by_the_same_words_it_is_the_same_and_touches_nothing(
    course: World, orchestrator: CommandHere, llm_server: LlmServer, tmp_path: Path
) -> None:
    before, called = rows(course), len(course.agent.ledger().requests)
    llm_server.script(fails(500), ASK_BOTH, RECORD, WAIT, PERSON, SCORE)
    prompt = tmp_path / "mine.md"
    prompt.write_text("You plan. Call tools.")
    found = orchestrator("task", "simulate", "t-1", "--model", "openai:now", "--prompt", str(prompt), "--json").json()
    (task,) = found["tasks"]
    assert (found["same"], task["verdict"], task["ending"]["state"]) == (1, "same", "completed")
    assert [step["answered_by"] for step in task["steps"]] == [[]] * 5
    assert all(step["prompt_version"].startswith("mine.md@") for step in task["steps"])
    costs = task["costs"]
    assert costs["then"]["decisions"] == costs["now"]["decisions"] == 5
    assert 0 < costs["now"]["cost"] < costs["then"]["cost"]
    asked = llm_server.requests()
    assert [one["body"]["model"] for one in asked] == ["now"] * 6
    assert {one["body"]["messages"][0]["content"] for one in asked} == {"You plan. Call tools."}
    assert '"by": "bob"' in asked[-1]["body"]["messages"][1]["content"]
    assert rows(course) == before
    assert len(course.agent.ledger().requests) == called


def test_the_first_difference_is_told_and_how_far_the_record_goes(
    course: World, orchestrator: CommandHere, llm_server: LlmServer, tmp_path: Path
) -> None:
    alone = says(tool("register", reason="First things first.", task="Look it up", input={"company": "Acme"}))
    again = says(tool("letter", reason="The letter may say it.", task="Get it", input={"about": "the limit"}))
    llm_server.script(alone, SCORE, PERSON, WAIT, again)
    told = orchestrator("task", "simulate", "t-1", "--model", "openai:now", code=1).out
    (shown,) = blocks("docs/simulate.md", "text")
    assert without_numbers(told) == without_numbers(shown.text)
    assert "Unknown from here on: step 5: no reply of letter to these arguments is on record." in told

    llm_server.script(ASK_BOTH, says(tool("fail", reason="It will not do.", code="hopeless")))
    many = orchestrator(
        *("task", "simulate", "--state", "completed", "--model", "openai:now", "--yes", "--at-once", "1"), code=1
    ).out
    assert "goes another way  t-1  step 2: then takes limit from earlier replies, now gives up" in many
    assert "(now failed (hopeless))" in many
    assert "1 task: 1 other" in many


def without_numbers(told: str) -> str:
    """Tokens, costs and seconds differ from run to run."""
    lines = [["#" if part[0].isdigit() else part for part in line.split()] for line in told.splitlines()]
    return "\n".join(map(" ".join, lines)).strip()


def test_a_task_is_written_down_as_a_test_that_runs_anywhere_and_can_fail(
    course: World, orchestrator: CommandHere, tmp_path: Path
) -> None:
    orchestrator("task", "export", "t-1", "--out", "test_t_1.py")
    written = (tmp_path / "test_t_1.py").read_text()
    assert SECRET not in written
    assert "**********" in written
    assert course.agent.url("") not in written
    assert_pytest(tmp_path, passes=True)
    (tmp_path / "test_t_1.py").write_text(written.replace("'value': 5000", "'value': 9000"))
    assert "the value '9000' does not stand in the passage quoted" in assert_pytest(tmp_path, passes=False)
    assert orchestrator("task", "export", "t-1", "--out", "test_t_1.py", code=2).err.count("is there already")
    assert orchestrator("task", "export", "t-9", "--json", code=1).error()["code"] == "task_not_found"


def assert_pytest(folder: Path, *, passes: bool) -> str:
    """Run plain pytest in a folder of its own, with no setting and no server."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_t_1.py"],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == (0 if passes else 1), ended.stdout + ended.stderr
    return ended.stdout


def test_a_task_that_has_not_ended_is_neither_decided_again_nor_written_down(
    world: World, orchestrator: CommandHere
) -> None:
    world.submit("a")
    for verb in ("simulate", "export"):
        model = ("--model", "rules:") if verb == "simulate" else ()
        error = orchestrator("task", verb, "t-1", *model, "--json", code=1).error()
        assert error["code"] == "not_allowed"
        assert "received" in error["message"]
    refused = orchestrator("task", "simulate", "t-1", "--model", "rules:", "--prompt", "x.md", code=2)
    assert "the prompt 'x.md' cannot be read" in refused.err
