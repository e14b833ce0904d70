"""Scores in words and as JSON. Only words and colours, no I/O but through `Output`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.cli.output import Output, Part, duration, shortened
from orchestrator.domain.decision import Decision
from orchestrator.errors import OrchestratorError
from orchestrator.flow.divergence import NoChoice
from orchestrator.flow.judge import Case, Judged, Report, choice_outline, differing

_CHARS = 300


def write_reports(out: Output, names: Sequence[str], reports: Sequence[Report], cases: Sequence[Case]) -> None:
    """What went wrong, what differs, and the scores side by side."""
    for name, report in zip(names, reports, strict=True):
        wrong = [one for one in report.judged if not one.right]
        out.line((name, "bold"), f"  {report.right} of {len(cases)} right")
        for one in wrong:
            _write_wrong(out, one)
        out.line()
    if len(reports) == 2:
        _write_differences(out, names, differing(*reports))
    _write_table(out, names, reports)


def _write_wrong(out: Output, one: Judged) -> None:
    out.line("  ", (one.case.name, "yellow"))
    out.line(f"    expected  {shortened(one.case.expected_words(), _CHARS)}")
    out.line(f"    chosen    {shortened(choice_outline(one.tryout.choice), _CHARS)}")
    out.line(f"    why       {shortened(_why(one), _CHARS)}")
    for complaint in one.tryout.complaints:
        out.line(f"    sent back {shortened(complaint, _CHARS)}")


def _write_differences(out: Output, names: Sequence[str], pairs: Sequence[tuple[Judged, Judged]]) -> None:
    out.line((f"{len(pairs)} cases in which they differ" if len(pairs) != 1 else "1 case in which they differ", "bold"))
    for pair in pairs:
        out.line("  ", (pair[0].case.name, "yellow"))
        for name, one in zip(names, pair, strict=True):
            mark: Part = ("right", "green") if one.right else (f"{one.score:.2f} ", "red")
            out.line("    ", mark, f"  {name}: {shortened(choice_outline(one.tryout.choice), _CHARS)}")
    out.line()


def _write_table(out: Output, names: Sequence[str], reports: Sequence[Report]) -> None:
    rows: list[Sequence[Part]] = [
        ["score", *(f"{one.score:.3f}" for one in reports)],
        ["cases right", *(f"{one.right} of {one.cases}" for one in reports)],
        ["answers that could not be used", *(str(one.bad_answers) for one in reports)],
        ["tokens in", *(f"{one.tokens_in:,}" for one in reports)],
        ["tokens out", *(f"{one.tokens_out:,}" for one in reports)],
        ["cost", *("-" if one.cost is None else f"{one.cost:.4f}" for one in reports)],
        ["time of a case, median", *(duration(one.seconds[0]) for one in reports)],
        ["time of a case, longest", *(duration(one.seconds[1]) for one in reports)],
    ]
    out.table(["", *names], rows)


def _why(one: Judged) -> str:
    choice = one.tryout.choice
    return choice.reason if isinstance(choice, Decision) else choice.why


# -- for programs -----------------------------------------------------------------------------------------------------


def reports_json(
    names: Sequence[str],
    reports: Sequence[Report],
    cases: Sequence[Case],
    min_score: float | None,
    stopped: OrchestratorError | None,
) -> dict[str, Any]:
    """The document of ``eval --json``; ``stopped`` says why not all cases were asked, where something stopped it."""
    differ = [pair[0].case.name for pair in differing(*reports)] if len(reports) == 2 else []
    return {
        "cases": len(cases),
        "min_score": min_score,
        "passed": stopped is None and all(one.score >= (min_score or 0) for one in reports),
        "stopped": None if stopped is None else {"code": stopped.code, "message": str(stopped)},
        "differ": differ,
        "variants": [_report_json(name, report) for name, report in zip(names, reports, strict=True)],
    }


def _report_json(name: str, report: Report) -> dict[str, Any]:
    median, longest = report.seconds
    return {
        "name": name,
        "score": round(report.score, 6),
        "right": report.right,
        "asked": len(report.judged),
        "bad_answers": report.bad_answers,
        "tokens_in": report.tokens_in,
        "tokens_out": report.tokens_out,
        "cost": report.cost,
        "seconds": {"median": median, "longest": longest},
        "cases": [_judged_json(one) for one in report.judged],
    }


def _judged_json(one: Judged) -> dict[str, Any]:
    choice, usage = one.tryout.choice, one.tryout.usage
    chosen = {"kind": None, "code": choice.code} if isinstance(choice, NoChoice) else choice.to_json()
    return {
        "name": one.case.name,
        "score": round(one.score, 6),
        "right": one.right,
        "expected": one.case.expected_words(),
        "chosen": choice_outline(choice),
        "choice": chosen,
        "reason": _why(one),
        "complaints": list(one.tryout.complaints),
        "model": usage.model,
        "prompt_version": usage.prompt_version,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "cost": usage.cost,
        "seconds": round(usage.seconds, 3),
        "weight": one.case.weight,
    }
