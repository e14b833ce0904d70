"""What happened to a task as the lines of `task watch`, and the colours of states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.output import Part, duration, shortened
from orchestrator.cli.task.news import News

STYLES = {
    "completed": "green",
    "succeeded": "green",
    "finished": "green",
    "failed": "red",
    "unknown": "red",
    "canceled": "yellow",
    "waiting": "yellow",
    "compensated": "yellow",
    "processing": "cyan",
    "in_flight": "cyan",
    "open": "cyan",
}
"""Colour of a state of task, step or delegation."""


def state_part(state: str) -> Part:
    """A state in its colour."""
    return (state, STYLES.get(state, ""))


def news_line(news: News) -> list[Part]:
    """One thing that happened as one line, time first."""
    clock: Part = (news.at.astimezone().strftime("%H:%M:%S") + "  ", "dim")
    return [clock, *_NEWS[news.event](news.data)]


def _state_line(data: Mapping[str, Any]) -> list[Part]:
    line: list[Part] = ["task ", state_part(str(data["state"]))]
    if data.get("waits_for"):
        line.append(f" for {data['waits_for']}")
    if data.get("reason"):
        line.append(f": {data['reason']}")
    return line


def _decided_line(data: Mapping[str, Any]) -> list[Part]:
    choice = ", ".join(data["agents"]) if data["agents"] else str(data["kind"]).replace("_", " ")
    return [(f"step {data['step']}", "bold"), " decided: ", (choice, "bold"), f" — {data['reason']}"]


def _delegation_line(data: Mapping[str, Any]) -> list[Part]:
    line: list[Part] = [f"  {data['ref']} {data['agent']} ", state_part(str(data["state"]))]
    if data["attempts"] > 1:
        line.append(f", attempt {data['attempts']}")
    if data["seconds"] is not None:
        line.append(f" in {duration(data['seconds'])}")
    if data["error"]:
        line.append(f": {data['error']}")
    return line


def _step_line(data: Mapping[str, Any]) -> list[Part]:
    line: list[Part] = [(f"step {data['step']}", "bold"), " ", state_part(str(data["state"]))]
    if data["seconds"] is not None:
        line.append(f" in {duration(data['seconds'])}")
    if data["error"]:
        line.append(f": {data['error']}")
    return line


def _field_line(data: Mapping[str, Any]) -> list[Part]:
    origin = data["origin"]
    source = f"  ({origin['kind']} {origin['name']})" if origin else ""
    return ["  ", (str(data["field"]), "bold"), f" = {shortened(data['value'])}", (source, "dim")]


def _progress_line(data: Mapping[str, Any]) -> list[Part]:
    return [(f"  {data['delegations_settled']} of {data['delegations']} delegations settled", "dim")]


_NEWS = {
    "state": _state_line,
    "decided": _decided_line,
    "delegation": _delegation_line,
    "step": _step_line,
    "field": _field_line,
    "progress": _progress_line,
}
