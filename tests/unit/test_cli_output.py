"""What is written: safe for a terminal, exact for a program."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from orchestrator.cli.failures import Failure
from orchestrator.cli.output import Output, ago, duration, iso, json_text, plain, shortened


def test_text_from_outside_cannot_repaint_the_terminal() -> None:
    assert plain("ok\x1b[2Jgone\x07\r\u202ereversed\ud800") == "ok\\u001b[2Jgone\\u0007\\u000d\\u202ereversed\\ud800"


def test_line_breaks_and_ordinary_letters_stay() -> None:
    assert plain("Größe\n\tПривет\r\n漢字") == "Größe\n\tПривет\n漢字"


def test_a_line_is_never_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Output().line("[bold]not bold[/bold] :smile: \x1b[31m", ("[red]", "red"))
    assert capsys.readouterr().out == "[bold]not bold[/bold] :smile: \\u001b[31m[red]\n"


def test_nothing_is_cut_or_coloured_where_no_terminal_reads(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["name", "text"], [(("a", "red"), "x" * 500)])
    out = capsys.readouterr().out
    assert "x" * 500 in out
    assert "\x1b" not in out


def test_a_document_is_json_with_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 11, 2, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    Output(as_json=True).document({"at": moment, "text": "ü\ud800"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"at": "2026-11-02T10:00:00.000005Z", "text": "ü\ud800"}


def test_notes_are_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).note("hint")
    Output().note("hint")
    assert capsys.readouterr().err == "hint\n"


def test_an_error_says_what_happened_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    Output().failure(Failure("task_not_found", "no task 'T\x1b[0m'", "List them."))
    captured = capsys.readouterr()
    assert captured.err == "Error: no task 'T\\u001b[0m'\n  → List them.\n"
    assert captured.out == ""


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).failure(Failure("task_not_found", "no task", None, "T-1"))
    assert json.loads(capsys.readouterr().err) == {
        "error": {"code": "task_not_found", "message": "no task", "hint": None, "task_id": "T-1"}
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (1.26, "1.3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3000, "50 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
    ],
)
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_past_and_future() -> None:
    now = datetime(2026, 11, 2, tzinfo=UTC)
    assert ago(now - timedelta(seconds=12), now) == "12 s ago"
    assert ago(now + timedelta(seconds=12), now) == "in 12 s"


def test_times_are_utc() -> None:
    assert iso(datetime(2026, 11, 2, 1, tzinfo=timezone(timedelta(hours=1)))) == "2026-11-02T00:00:00.000000Z"


def test_values_are_shortened_to_one_line() -> None:
    assert shortened("one\n  two") == "one two"
    assert shortened({"a": 1}) == '{"a": 1}'
    assert shortened("x" * 100, 10) == "x" * 9 + "…"


def test_json_keeps_letters_readable() -> None:
    assert json_text({"name": "Größe"}) == '{"name": "Größe"}'
