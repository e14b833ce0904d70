"""Log lines: one event a line, readable by people or machines, no secret in any part of them."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator

import pytest

from orchestrator import logs
from orchestrator.settings import read_settings

KEY = "sk-very-secret-9f8e7d"
PASSWORD = "p@ss/wörd 1"
SETTINGS = {
    "DATABASE_URL": "postgresql://app:p%40ss%2Fw%C3%B6rd%201@db:5432/x",
    "OPENAI_API_KEY": KEY,
}

log = logging.getLogger("orchestrator.test")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., io.StringIO]]:
    """`configure` with a stream of ours; the process's logging is as before when the test ends."""
    root = logging.getLogger()
    touched = [root, *(logging.getLogger(name) for name in (*logs._QUIET, "orchestrator.llm"))]
    handlers, levels = list(root.handlers), [one.level for one in touched]
    monkeypatch.setattr(logs, "mask", logs.Mask())

    def configure(**settings: str) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(read_settings({**SETTINGS, **settings}, None), stream)
        return stream

    yield configure
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for one, level in zip(touched, levels, strict=True):
        one.setLevel(level)


def test_a_text_line_has_time_level_event_and_fields(lines: Callable[..., io.StringIO]) -> None:
    stream = lines()
    log.info("step.decided", extra={"task_id": "T 1", "step": 3, "agents": ["a"], "reason": "so"})
    line = stream.getvalue()
    assert line.endswith('Z INFO    step.decided task_id="T 1" step=3 agents=["a"] reason=so\n')
    assert line[:4].isdigit()


def test_a_json_line_is_one_object_whose_own_names_cannot_be_taken(lines: Callable[..., io.StringIO]) -> None:
    stream = lines(ORCHESTRATOR_LOG_FORMAT="json")
    log.warning("step.failed", extra={"task_id": "T-1", "level": "x", "exception": "y", "odd": {1: object}})
    (line,) = stream.getvalue().splitlines()
    read = json.loads(line)
    assert {k: read[k] for k in ("level", "logger", "event", "task_id", "level_", "exception_")} == {
        "level": "WARNING",
        "logger": "orchestrator.test",
        "event": "step.failed",
        "task_id": "T-1",
        "level_": "x",
        "exception_": "y",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_masked_in_every_part_of_a_record(form: str, lines: Callable[..., io.StringIO]) -> None:
    stream = lines(ORCHESTRATOR_LOG_FORMAT=form)
    logs.mask.add('quo"ted\\secret')
    try:
        raise ValueError(f"connecting with {PASSWORD}")
    except ValueError:
        log.exception(
            "failed with %s",
            KEY,
            extra={"url": SETTINGS["DATABASE_URL"], "nested": {KEY: [{"x": PASSWORD}]}, "o": Opaque()},
            stack_info=True,
        )
    log.info(f'{KEY} in the message, and quo"ted\\secret')
    written = stream.getvalue()
    for secret in (KEY, PASSWORD, "p%40ss", "quo", "w\\u00f6rd"):
        assert secret not in written
    assert written.count("**********") >= 6
    assert "Traceback" in written


class Opaque:
    def __str__(self) -> str:
        return f"client with {KEY}"


def test_handlers_of_others_see_the_masked_record(
    lines: Callable[..., io.StringIO], caplog: pytest.LogCaptureFixture
) -> None:
    lines()
    other = io.StringIO()
    handler = logging.StreamHandler(other)
    logging.getLogger().addHandler(handler)
    log.error("with %s", KEY)
    assert KEY not in other.getvalue()


def test_text_from_outside_cannot_forge_a_line_or_repaint_the_terminal(lines: Callable[..., io.StringIO]) -> None:
    stream = lines()
    forged = "x\n2026-01-01T00:00:00.000Z INFO    task.completed task_id=T-9\r\x1b[2J\u2028"
    log.info("task.accepted", extra={"description": forged, "short": "a\tb=c"})
    logging.getLogger("other.library").warning(forged)
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith('task.accepted short="a\\tb=c"')
    assert [line for line in rest if not line.startswith("    | ")] == [rest[3]]
    assert "[other.library] x" in rest[3]
    assert "\x1b" not in stream.getvalue()


def test_a_second_call_replaces_the_first_and_levels_follow_the_settings(lines: Callable[..., io.StringIO]) -> None:
    old = lines()
    new = lines(ORCHESTRATOR_LOG_LEVEL="WARNING", ORCHESTRATOR_VERBOSE="1")
    log.info("too.quiet")
    log.warning("heard")
    logging.getLogger("orchestrator.llm.planner").info("llm.prompt")
    assert old.getvalue() == ""
    assert [line.split()[2] for line in new.getvalue().splitlines()] == ["heard", "llm.prompt"]


def test_noisy_libraries_are_heard_from_warning_up(lines: Callable[..., io.StringIO]) -> None:
    stream = lines()
    logging.getLogger("kafka.conn").info("chatter")
    logging.getLogger("kafka.conn").warning("trouble")
    assert "chatter" not in stream.getvalue()
    assert "[kafka.conn] trouble" in stream.getvalue()


def test_a_line_with_the_wrong_arguments_is_still_written(lines: Callable[..., io.StringIO]) -> None:
    stream = lines()
    # Handed to our handler only: pytest's own refuses such a record.
    record = log.makeRecord(log.name, logging.INFO, __file__, 1, "only %s", ("one", "two"), None)
    logging.getLogger().handlers[-1].handle(record)
    assert "only %s ('one', 'two')" in stream.getvalue()


def test_warnings_become_lines(lines: Callable[..., io.StringIO]) -> None:
    stream = lines(ORCHESTRATOR_LOG_FORMAT="json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old ways", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old ways" in json.loads(stream.getvalue())["event"]


def test_short_values_are_no_secrets() -> None:
    mask = logs.Mask()
    assert mask("nothing to hide") == "nothing to hide"
    mask.add("abc", "", "longer-secret", "longer")
    assert mask("abc longer-secret longer") == "abc ********** **********"
