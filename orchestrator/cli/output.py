"""Writing: one JSON document for programs, or text and tables for people, in colour on a terminal only.

Text from outside (descriptions, reasons, replies) goes through `plain`: it must not repaint the reader's terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.cli.failures import Failure

if TYPE_CHECKING:
    from rich.console import Console

Part = str | tuple[str, str]
"""Text, or text with a style such as ``bold`` or ``red``."""

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

_SURROGATE = re.compile("[\ud800-\udfff]")

_MUCH = 10_000
"""Columns where there is no terminal: nothing is cut or wrapped for the program that reads."""


class Output:
    """Where a command writes. ``as_json`` is set by ``--json``."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    @cached_property
    def console(self) -> Console:
        """Standard output for people."""
        from rich.console import Console

        class PipedConsole(Console):
            def on_broken_pipe(self) -> None:
                """Leave it to the caller, where rich would exit by itself."""
                raise BrokenPipeError

        width = None if sys.stdout.isatty() else _MUCH
        return PipedConsole(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)

    def document(self, value: Any) -> None:
        """One JSON document; on one line where it is one of many."""
        _write_json(sys.stdout, value, indent=2)

    def document_line(self, value: Any) -> None:
        """A JSON document on a line of its own, written at once."""
        _write_json(sys.stdout, value)
        sys.stdout.flush()

    def line(self, *parts: Part) -> None:
        """A line of text."""
        from rich.text import Text

        self.console.print(Text.assemble(*map(_styled, parts)), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Part]]) -> None:
        """Rows under headings."""
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text.assemble(_styled(cell)) for cell in row))
        self.console.print(table)

    def note(self, text: str) -> None:
        """A remark beside the result, for people: on standard error, never with ``--json``."""
        if not self.as_json:
            sys.stderr.write(plain(text) + "\n")
            sys.stderr.flush()

    def failure(self, failure: Failure) -> None:
        """An error, on standard error: what happened and what to do; JSON with ``--json``."""
        if self.as_json:
            _write_json(sys.stderr, failure.to_json())
            return
        sys.stderr.write(f"Error: {plain(failure.message)}\n")
        if failure.hint:
            sys.stderr.write(f"  → {plain(failure.hint)}\n")

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """A line at the bottom that says what goes on now; only on a terminal. Yields a function that changes it."""
        if self.as_json or not sys.stdout.isatty():
            yield lambda _: None
            return
        from rich.text import Text

        with self.console.status("") as spinner:
            yield lambda text: spinner.update(Text(plain(text)))


def _styled(part: Part) -> tuple[str, str]:
    return (plain(part), "") if isinstance(part, str) else (plain(part[0]), part[1])


def plain(text: str) -> str:
    """The text with control characters, which could repaint a terminal, shown as escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text.replace("\r\n", "\n"))


def json_text(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """JSON for programs; times as ISO 8601 in UTC. Always encodable: lone surrogates are escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, default=_json_value)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _write_json(stream: TextIO, value: Any, indent: int | None = None) -> None:
    can_all = (stream.encoding or "").lower().replace("-", "").startswith("utf")
    stream.write(json_text(value, indent, ascii_only=not can_all) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def iso(moment: datetime) -> str:
    """A time as ISO 8601 in UTC, to the microsecond: ``2026-11-02T10:00:00.123456Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, in words as short as a table needs: ``12 s ago``, ``3 h ago``; ``in 5 s`` for what is to come."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """A length of time in its two biggest units: ``0.3 s``, ``12 s``, ``3 min``, ``2 h 5 min``, ``4 d``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    days, hours = divmod(hours, 24)
    if days == 0:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{days} d {hours} h" if hours else f"{days} d"


def shortened(value: Any, length: int = 80) -> str:
    """A value on one line: text as it is, everything else as JSON, cut with ``…`` where it is longer."""
    text = value if isinstance(value, str) else json_text(value)
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
