"""An undo as people read it: what was undone, what is under way, what is left for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.output import Output, Part

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
        out.line("  ", *_named(line), ("undone", "green"))
    for line in report["not_undone"]:
        out.line("  ", *_named(line), ("not undone", "red"), f" [{line['reason_code']}] {line['reason']}")


def _named(line: Mapping[str, Any]) -> list[Part]:
    return [f"{line['delegation']} ", (str(line["agent"]), "bold"), " "]
