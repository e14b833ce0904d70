"""What a finding is, and the run of all checks: each group in a thread of its own, told in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from orchestrator.cli import parts
from orchestrator.cli.failures import FAILED, masked
from orchestrator.cli.output import Output
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings

Verdict = Literal["ok", "wrong", "unknown"]

_STYLES = {"ok": "green", "wrong": "red", "unknown": "yellow"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Args:
        subject: what was looked at, such as ``PostgreSQL``.
        verdict: ``unknown`` where it cannot be seen from here, which is no fault.
        what: what was found.
        todo: what to do about it.
    """

    subject: str
    verdict: Verdict
    what: str
    todo: str | None = None


Check = Callable[[Settings], Iterator[Finding]]


def ok(subject: str, what: str) -> Finding:
    """All is well."""
    return Finding(subject, "ok", what)


def wrong(subject: str, what: str, todo: str | None = None) -> Finding:
    """Something must be done."""
    return Finding(subject, "wrong", what, todo)


def unknown(subject: str, what: str, todo: str | None = None) -> Finding:
    """It cannot be seen from here."""
    return Finding(subject, "unknown", what, todo)


def of_error(subject: str, error: OrchestratorError) -> Finding:
    """One of our own errors as a finding."""
    return wrong(subject, str(error), error.hint)


def findings(checks: Sequence[tuple[str, Check]], settings: Settings) -> Iterator[Finding]:
    """Run the checks at the same time; their findings in the order of ``checks``."""

    def run(named: tuple[str, Check]) -> list[Finding]:
        subject, check = named
        found: list[Finding] = []
        try:
            found.extend(check(settings))
        except OrchestratorError as error:
            found.append(of_error(subject, error))
        except Exception as error:  # noqa: BLE001 - a doctor that dies of one patient helps nobody
            found.append(wrong(subject, f"could not be checked: {type(error).__name__}: {error}"))
        return found

    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        for found in pool.map(run, checks):
            yield from found


def examine(out: Output, *, ask_model: bool) -> int:
    """Run every check and tell of it; the exit code."""
    from orchestrator.cli.doctor.files import check_agents, check_events, check_model, check_settings
    from orchestrator.cli.doctor.processes import check_bridge, check_flow, check_workers
    from orchestrator.cli.doctor.servers import check_kafka, check_postgres, check_redis, check_restores

    told: list[Finding] = []

    def tell(finding: Finding) -> None:
        told.append(finding)
        if not out.as_json:
            _write(out, finding)

    try:
        settings = parts.settings()
    except OrchestratorError as error:
        tell(of_error("settings", error))
    else:
        checks: list[tuple[str, Check]] = [
            ("settings", check_settings),
            ("PostgreSQL", check_postgres),
            ("restores", check_restores),
            ("Redis", check_redis),
            ("Kafka", check_kafka),
            ("model", lambda found: check_model(found, ask=ask_model)),
            ("agents", check_agents),
            ("event types", check_events),
            ("bridge", check_bridge),
            ("workers", check_workers),
            ("tasks", check_flow),
        ]
        with out.status() as status:
            status("looking at servers, agents and processes")
            for finding in findings(checks, settings):
                tell(finding)
    bad = [finding for finding in told if finding.verdict == "wrong"]
    if out.as_json:
        out.document({"healthy": not bad, "findings": [_to_json(finding) for finding in told]})
    else:
        out.line()
        out.line(("all is well", "green") if not bad else (f"{len(bad)} of {len(told)} things are wrong", "red"))
    return FAILED if bad else 0


def _write(out: Output, finding: Finding) -> None:
    verdict = (f"{finding.verdict:<8}", _STYLES[finding.verdict])
    out.line(verdict, (f"{finding.subject}: ", "bold"), masked(finding.what))
    if finding.todo and finding.verdict != "ok":
        out.line(f"          → {masked(finding.todo)}")


def _to_json(finding: Finding) -> dict[str, str | None]:
    return {
        "subject": finding.subject,
        "verdict": finding.verdict,
        "what": masked(finding.what),
        "todo": None if finding.todo is None else masked(finding.todo),
    }
