"""The table at the end."""

from __future__ import annotations

from tests.chaos.audit import Verdict
from tests.chaos.calm import OF_AGENTS, OF_WORK

_MUST_BE_ZERO = (
    ("lost", "lost"),
    ("accepted twice", "taken_twice"),
    ("finished twice", "finished_twice"),
    ("effects doubled", "effects_doubled"),
    ("undone too little or too much", "undos_wrong"),
    ("contexts wrong", "contexts_wrong"),
    ("failed", "failed"),
    ("accounts of their own sort", "accounts_wrong"),
    ("versions that do not rebuild", "versions_wrong"),
    ("updates missing or out of order", "updates_wrong"),
    ("dead letters missing or too many", "dead_letters_wrong"),
)
_COUNTS = (
    ("steps", "steps"),
    ("of these with parallel calls", "parallel"),
    ("effects at agents", "effects"),
    ("commits fenced", "commits_fenced"),
    ("doorbells refused", "doorbells_refused"),
    ("repeated calls absorbed by keys", "calls_absorbed"),
    ("look-ups", "looked_up"),
    ("replies stored late", "late_replies"),
    ("bad records set aside", "dead_letters"),
)


def table(verdict: Verdict) -> str:
    """What a person reads."""
    lines = [
        _line("tasks in", verdict.tasks_in),
        _line("finished", verdict.finished),
        _line("of these undone", verdict.undone),
        _line("of these canceled", verdict.canceled),
        _line("of these parked as unknown", verdict.parked_unknown),
        "",
        *(_line(name, getattr(verdict, part), must=0) for name, part in _MUST_BE_ZERO),
        "",
        *(_line(name, getattr(verdict, part)) for name, part in _COUNTS),
        *(_line(name, count) for name, count in verdict.sorts.items()),
        _line("longest stall of a task", f"{verdict.longest_stall:.1f} s"),
        _line("quiet after the last fault", _seconds(verdict.seconds_to_quiet)),
        _line("recovered after the last fault", _seconds(verdict.seconds_to_normal)),
        *(f"    {side} may take {most}" for side, most in verdict.normal_within.items()),
        f"  seen after the last fault ({verdict.moving_at_first} tasks and calls on their way then; "
        f"{verdict.load:g} processes for each processor), until",
        *(f"    {at:5.1f} s  {reason}{_whose(reason)}" for reason, at in verdict.waited_for.items()),
        "",
        "faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.faults.items())),
    ]
    if verdict.own_ends:
        lines.append("ended by themselves: " + ", ".join(f"{name} {count}" for name, count in verdict.own_ends.items()))
    if verdict.errors_logged:
        lines.append("errors logged: " + ", ".join(f"{name} {count}" for name, count in verdict.errors_logged.items()))
    lines += ["", *(f"WRONG: {complaint}" for complaint in verdict.complaints)]
    lines.append("The promise holds." if verdict.holds else "THE PROMISE IS BROKEN.")
    return "\n".join(lines)


def _line(name: str, value: object, must: object = None) -> str:
    mark = "" if must is None else "  ok" if value == must else "  WRONG"
    return f"  {name:<34}{value!s:>10}{mark}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _whose(reason: str) -> str:
    if reason in OF_AGENTS:
        return " (as the agent asks)"
    return "" if reason in OF_WORK else "  <- recovery"
