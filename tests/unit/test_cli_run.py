"""How a run of the command ends: exit codes, errors for people and for programs, closed pipes, what is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import failures, main, parts
from orchestrator.cli.demo.cast import choose_cast
from orchestrator.cli.failures import EXIT_CODES, Misuse, failure_of
from orchestrator.errors import (
    ConfigurationError,
    KafkaUnavailable,
    NotAllowed,
    OrchestratorError,
    SchemaOutOfDate,
    StoreUnavailable,
    TaskNotFound,
)
from orchestrator.settings import get_settings

SECRET = "s3cret-value"


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder without .env, and an environment without DATABASE_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL_FILE", raising=False)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (TaskNotFound("no task"), 1),
        (NotAllowed("it runs"), 1),
        (OrchestratorError("something"), 1),
        (ConfigurationError("a setting"), 2),
        (SchemaOutOfDate("tables"), 2),
        (Misuse("an option"), 2),
        (StoreUnavailable("away"), 3),
        (KafkaUnavailable("away"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, exit_code: int) -> None:
    assert failure_of(error).exit_code == exit_code
    assert exit_code in EXIT_CODES


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["task", "nonsense"],
        ["task", "show"],
        ["task", "list", "--state", "happy"],
        ["task", "list", "--limit", "0"],
        ["task", "submit"],
        ["task", "submit", "text", "--data", "no-pair"],
        ["task", "submit", "text", "--data-json", "[1]"],
        ["task", "submit", "text", "--file", "message.json"],
        ["task", "submit", "--file", "not-there.json"],
        ["task", "submit", "text", "--id", "x" * 201],
        ["task", "submit", "text", "--id", "new\nline"],
        ["task", "submit", "  "],
        ["task", "submit", "text", "--priority", "10"],
        ["task", "submit", "text", "--deadline", "tomorrow"],
        ["task", "event", "--type", "x"],
        ["task", "rerun", "T-1"],
        ["task", "rerun", "T-1", "--step", "1", "--set", "no-pair"],
        ["dead-letter", "show", "seven"],
        ["dead-letter", "discard", "7"],
        ["schema", "show", "nonsense"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("no_settings")
def test_a_wrong_command_line_ends_with_2_and_says_what_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    error, hint = told.err.splitlines()
    assert error.startswith("Error: ")
    assert hint.startswith("  → ")
    assert main.run([*arguments, "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    document = json.loads(told.err)
    assert document["error"]["code"] == "usage"
    assert f"Error: {document['error']['message']}" == error
    assert set(document["error"]) == {"code", "message", "hint", "task_id"}


@pytest.mark.usefixtures("no_settings")
def test_what_stands_behind_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["task", "show", "--", "--json", "x"]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.usefixtures("no_settings")
def test_a_missing_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["task", "list"]) == 2
    assert "DATABASE_URL is not set" in capsys.readouterr().err
    assert main.run(["task", "list", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "configuration"


@pytest.mark.usefixtures("no_settings")
def test_the_doctor_tells_of_wrong_settings_as_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False
    assert [(finding["subject"], finding["verdict"]) for finding in report["findings"]] == [("settings", "wrong")]
    assert "DATABASE_URL" in report["findings"][0]["what"]


@pytest.mark.usefixtures("no_settings")
def test_an_error_never_shows_a_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@db/app")
    parts.settings()
    error = StoreUnavailable(f"cannot reach postgresql://app:{SECRET}@db/app", hint=f"try {SECRET}")
    assert SECRET not in str(failure_of(error).to_json())
    defect = failure_of(KeyError(SECRET))
    assert SECRET not in defect.message
    assert defect.code == "defect"
    assert capsys.readouterr().err == ""


def test_a_defect_is_told_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("orchestrator.schemas.schema_text", lambda _: broken())
    assert main.run(["schema", "show", "task"]) == failures.FAILED
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "Error: unexpected ZeroDivisionError: oops" in told


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: str) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.task.submit.read_bytes", interrupted)
    assert main.run(["task", "submit", "--file", "-"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["schema", "show", "task"], ["schema", "list"], ["--help"]], ids=" ".join)
def test_a_closed_pipe_ends_it_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert ended.stderr == b""
    assert ended.returncode == 141


def test_output_that_the_encoding_does_not_know_is_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", "task", "submit", "Größe", "--data", "größe"],
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert rb"Error: --data 'gr\xf6\xdfe' is not name=value" in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["task", "--help"], ["task", "submit", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    probe = (
        "import sys; from orchestrator.cli.main import run; code = run(sys.argv[1:]);"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage: orchestrator" in ended.stdout
    heavy = {"celery", "kombu", "langchain", "langchain_core", "sqlalchemy", "kafka", "redis", "requests", "pydantic"}
    assert not heavy & set(ended.stderr.split())


def test_both_ways_to_call_it_are_the_same() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"orchestrator": f"{main.__name__}:{main.main.__name__}"}
    told = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert told == f"orchestrator, version {project['version']}\n"


def test_the_development_stack_takes_agents_and_event_types_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORCHESTRATOR_AGENTS", "ORCHESTRATOR_EVENTS"):
        monkeypatch.delenv(name, raising=False)
    assert choose_cast().plays_scenario
    monkeypatch.setenv("ORCHESTRATOR_EVENTS", "mine.yaml")
    cast = choose_cast()
    assert cast.env["ORCHESTRATOR_EVENTS"] == str(Path("mine.yaml").absolute())
    assert not cast.plays_scenario
