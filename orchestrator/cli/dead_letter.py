"""`orchestrator dead-letter …`: records that were set aside, with the reason and their original bytes."""

from __future__ import annotations

import base64
import sys
from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Group, pass_output, who_and_why
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output, ago, shortened
from orchestrator.cli.values import read_bytes
from orchestrator.domain.message import Record
from orchestrator.errors import NotAllowed
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.ports import DeadLetter


@click.group("dead-letter", cls=Group)
def dead_letter() -> None:
    """Look at records set aside; put them back or discard them."""


@dead_letter.command("list", examples=["dead-letter list", "dead-letter list --reason not_json --limit 10"])
@click.option("--reason", help="Only those set aside for this reason.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@pass_output
def list_letters(out: Output, reason: str | None, limit: int) -> None:
    """List dead letters, newest first."""
    with parts.store() as store:
        letters = store.dead_letters(reason=reason, limit=limit)
    if out.as_json:
        out.document({"dead_letters": [_letter_json(letter, with_bytes=False) for letter in letters]})
        return
    if not letters:
        out.note("No dead letters.")
        return
    rows = [
        (
            (str(letter.id), "bold"),
            letter.reason,
            _place(letter.record),
            letter.task_id or "",
            ago(letter.created_at),
            "replayed" if letter.replayed_at else "",
            shortened(letter.detail, 80),
        )
        for letter in letters
    ]
    out.table(["id", "reason", "record", "task", "when", "", "what was wrong"], rows)


@dead_letter.command(examples=["dead-letter show 7", "dead-letter show 7 --raw > record.json"])
@click.argument("letter_id", metavar="ID", type=click.IntRange(1))
@click.option(
    "--raw", is_flag=True, help="Write the record's value to standard output, byte for byte, and nothing else."
)
@pass_output
def show(out: Output, letter_id: int, raw: bool) -> None:
    """Show a dead letter with its bytes.

    Why it was set aside, where it came from, key, headers and value: as text where it is text, else as a hex dump
    (base64 with --json). To mend one: write the value to a file with --raw, edit it, and replay it with --file.
    """
    with parts.store() as store:
        letter = store.dead_letter(letter_id)
    if raw:
        if out.as_json:
            raise Misuse("--raw writes bytes, --json a document: choose one")
        sys.stdout.flush()
        sys.stdout.buffer.write(_record_of(letter).value or b"")
        sys.stdout.buffer.flush()
    elif out.as_json:
        out.document(_letter_json(letter, with_bytes=True))
    else:
        _write_letter(out, letter)


@dead_letter.command(
    examples=[
        "dead-letter replay 7 --why 'the agent is in agents.yaml now'",
        "dead-letter replay 7 --file fixed.json",
    ]
)
@click.argument("letter_id", metavar="ID", type=click.IntRange(1))
@click.option(
    "--file", "path", metavar="FILE", help="Send these bytes instead of the original value; `-`: standard input."
)
@click.option("--again", is_flag=True, help="Also where it was replayed before.")
@who_and_why
@pass_output
def replay(out: Output, letter_id: int, path: str | None, again: bool, who: str, why: str) -> None:
    """Put a record back into its topic.

    It goes with its key and headers and is taken in like a new record: what is still wrong with it makes a new
    dead letter.
    """
    with parts.store() as store:
        letter = store.dead_letter(letter_id)
        record = _record_of(letter)
        if letter.replayed_at is not None and not again:
            raise NotAllowed(
                f"dead letter {letter_id} was replayed {ago(letter.replayed_at)}",
                hint="Say --again where it is meant to be sent a second time.",
                task_id=letter.task_id,
            )
        value = record.value if path is None else read_bytes(path)
        parts.produce(record.topic, record.key, value, record.headers)
        reach(FaultPoint.DEAD_LETTER_PRODUCED, letter.task_id or "")
        store.mark_replayed(letter_id, who=who, why=why)
    edited = path is not None
    if out.as_json:
        out.document({"id": letter_id, "topic": record.topic, "edited": edited, "task_id": letter.task_id})
        return
    out.line(
        ("sent", "green"), f" the {'edited ' if edited else ''}record of dead letter {letter_id} to {record.topic}"
    )
    out.note(
        "  → whether it was taken this time: orchestrator task list --limit 5, orchestrator dead-letter list --limit 5"
    )


@dead_letter.command(examples=["dead-letter discard 7 --why 'test data of the producer'"])
@click.argument("letter_id", metavar="ID", type=click.IntRange(1))
@click.option("--who", default=None, help="Who does it, for the audit; default: you.")
@click.option("--why", required=True, help="Why, for the audit.")
@pass_output
def discard(out: Output, letter_id: int, who: str | None, why: str) -> None:
    """Remove a dead letter for good.

    Its bytes go; who and why are kept.
    """
    from orchestrator.cli.command import whoami

    with parts.store() as store:
        store.discard(letter_id, who=who or whoami(), why=why)
    if out.as_json:
        out.document({"id": letter_id, "discarded": True})
    else:
        out.line(("discarded", "yellow"), f" dead letter {letter_id}")


def as_text(raw: bytes | None) -> dict[str, Any]:
    """Bytes for a JSON document: ``text`` where they are UTF-8, else ``base64``; null where there were none."""
    if raw is None:
        return {"text": None}
    try:
        return {"text": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def readable(raw: bytes, length: int = 4_000) -> str:
    """Bytes for a reader: the text where they are UTF-8, else a hex dump; cut where it is longer than ``length``."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = _hex_dump(raw[: length // 4])
    if len(text) <= length:
        return text
    return f"{text[:length]}\n… cut; it has {len(raw)} bytes, --raw writes them all"


def _hex_dump(raw: bytes) -> str:
    rows = []
    for start in range(0, len(raw), 16):
        row = raw[start : start + 16]
        seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"{start:06x}  {row.hex(' '):<47}  {seen}")
    return "\n".join(rows)


def _write_letter(out: Output, letter: DeadLetter) -> None:
    out.line((f"dead letter {letter.id}", "bold"), "  ", (letter.reason, "red"))
    out.line(f"  {letter.detail}")
    if letter.task_id:
        out.line(f"  task: {letter.task_id}")
    out.line(f"  set aside: {letter.created_at.astimezone():%Y-%m-%d %H:%M:%S} ({ago(letter.created_at)})")
    if letter.replayed_at:
        out.line(f"  replayed: {letter.replayed_at.astimezone():%Y-%m-%d %H:%M:%S}")
    record = letter.record
    if record is None:
        out.line("  without a record: a task was set aside, not a message")
        return
    out.line(f"  record: {_place(record)}")
    out.line(f"  key: {'none' if record.key is None else readable(record.key, 500)}")
    for name, value in record.headers:
        out.line(f"  header {name}: {readable(value, 500)}")
    out.line(f"  value, {len(record.value or b'')} bytes:")
    out.line(readable(record.value or b""))
    out.note(f"  → put back: orchestrator dead-letter replay {letter.id} [--file edited.json]")


def _letter_json(letter: DeadLetter, *, with_bytes: bool) -> dict[str, Any]:
    record = letter.record
    document: dict[str, Any] = {
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "task_id": letter.task_id,
        "created_at": letter.created_at,
        "replayed_at": letter.replayed_at,
        "record": None,
    }
    if record is not None:
        document["record"] = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
        }
        if with_bytes:
            document["record"] |= {
                "key": as_text(record.key),
                "headers": [{"name": name, **as_text(value)} for name, value in record.headers],
                "value": as_text(record.value),
            }
    return document


def _place(record: Record | None) -> str:
    return "" if record is None else f"{record.topic}/{record.partition}@{record.offset}"


def _record_of(letter: DeadLetter) -> Record:
    if letter.record is None:
        raise NotAllowed(
            f"dead letter {letter.id} has no record: a task was set aside, not a message",
            hint=f"See `orchestrator task show {letter.task_id}`." if letter.task_id else None,
            task_id=letter.task_id,
        )
    return letter.record
