"""An undo, and calls that are canceled, as people read them; and the record of what people did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cli.output import Output, Part, shortened
from orchestrator.domain.by_hand import AuditEntry

_ASKED = {"on_failure": "because it failed (on_failure: undo)", "cancel": "with its cancel", "undo": "afterwards"}


def write_undo(out: Output, report: Mapping[str, Any]) -> None:
    """The section of `task show`; ``report`` is that of `orchestrator.domain.undo.undo_report`."""
    out.line()
    by = f" by {report['who']}" if report["who"] else ""
    why = f": {report['why']}" if report["why"] else ""
    out.line(("Undo", "bold"), (f"  asked for {_ASKED.get(str(report['asked_by']), 'by hand')}{by}{why}", "dim"))
    for line in report["open"]:
        out.line("  ", *_named(line), ("to be undone", "cyan"))
    for line in report["undone"]:
        by_hand = f": {line['by_hand']}" if "by_hand" in line else ""
        out.line("  ", *_named(line), ("undone", "green"), by_hand)
    for line in report["not_undone"]:
        out.line("  ", *_named(line), ("not undone", "red"), f" [{line['reason_code']}] {line['reason']}")


_CANCELED = {
    "telling": ("the agent is being told", "cyan"),
    "asking": ("the agent was told, and is asked what became of it", "cyan"),
    "canceled": ("canceled", "green"),
    "done": ("was over before", "green"),
    "refused": ("not canceled by its agent", "yellow"),
    "unknown": ("its agent does not know it", "yellow"),
    "gave_up": ("its agent did not say what became of it", "yellow"),
    "not_offered": ("nothing was sent", "dim"),
    "withdrawn": ("wanted again, by a retry", "dim"),
}


def write_cancellations(out: Output, lines: Sequence[Mapping[str, Any]]) -> None:
    """The section of `task show`; ``lines`` are those of `orchestrator.domain.cancellation.cancellations_report`."""
    out.line()
    out.line(("Calls not wanted any more", "bold"))
    for line in lines:
        words, colour = _CANCELED.get(line["state"], (line["state"], "dim"))
        tries = f", tried {line['attempts']} times" if line["attempts"] > 1 else ""
        detail = f": {line['detail']}" if line["detail"] and line["detail"] != words else ""
        out.line("  ", *_named(line), (words, colour), f"{detail}{tries}", (f"  ({line['because']})", "dim"))


def write_audit(out: Output, entries: Sequence[AuditEntry]) -> None:
    """What people did to a task, oldest first."""
    out.line()
    out.line(("By hand", "bold"))
    for one in entries:
        details = ", ".join(f"{name} {shortened(value, 60)}" for name, value in one.details.items())
        why = f": {one.why}" if one.why else ""
        out.line(
            f"  {one.at.astimezone():%Y-%m-%d %H:%M:%S} ",
            (one.what, "bold"),
            f" by {one.who}{why}",
            (f"  {details}", "dim"),
        )
    if not entries:
        out.line("  nothing yet")


def _named(line: Mapping[str, Any]) -> list[Part]:
    return [f"{line['delegation']} ", (str(line["agent"]), "bold"), " "]
