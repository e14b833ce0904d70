"""Checking what a planner wants to wait for or to ask, and completing it from the event type's entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.domain.context import Context, has_value
from orchestrator.domain.event_type import RESERVED, EventType
from orchestrator.domain.question import OnTimeout, asking_problem
from orchestrator.domain.wait import MAX_WAIT_SECONDS, match_problem
from orchestrator.errors import BadAnswer
from orchestrator.flow.ports import PlanRequest


def checked_wait(details: Mapping[str, Any], request: PlanRequest) -> dict[str, Any]:
    """The details of a wait for an event, completed by what its type's entry says of waits.

    Raises:
        BadAnswer: saying what does not fit.
    """
    name = details.get("event_type")
    types = {event_type.name: event_type for event_type in request.event_types}
    if name in RESERVED or (name is not None and types and name not in types):
        raise BadAnswer(f"there is no event type {name!r} to wait for; there are: {', '.join(types) or 'none'}")
    listed = types.get(name) if name is not None else None
    found = {**details, **_timeout(details, listed)}
    match = {**(_declared(listed, request.context) if listed else {}), **(details.get("match") or {})}
    if problem := match_problem(match, listed):
        raise BadAnswer(problem)
    if match:
        found["match"] = match
    _check_times(found)
    return found


def checked_question(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a question to a person.

    Raises:
        BadAnswer: saying what does not fit.
    """
    names = ("question", "choices", "schema", "field", "fields", "who")
    if problem := asking_problem(*(details.get(name) for name in names)):
        raise BadAnswer(f"ask_human: {problem}")
    _check_times(details)
    after, to = details.get("escalate_after_seconds"), details.get("escalate_to")
    if (after is None) != (to is None):
        raise BadAnswer("ask_human: escalate_to and escalate_after_seconds go together")
    if to is not None and (not isinstance(to, str) or not 1 <= len(to) <= 200):
        raise BadAnswer("ask_human: escalate_to must be a text of at most 200 characters")
    timeout = details.get("timeout_seconds")
    if after is not None and timeout is not None and float(after) >= float(timeout):
        raise BadAnswer("ask_human: escalate_after_seconds must be less than timeout_seconds")
    return dict(details)


def _timeout(details: Mapping[str, Any], listed: EventType | None) -> dict[str, Any]:
    """The entry's time-out, where the planner named none."""
    if listed is None or listed.timeout_seconds is None or details.get("timeout_seconds") is not None:
        return {}
    entry = {
        "timeout_seconds": listed.timeout_seconds,
        "on_timeout": listed.on_timeout,
        "timeout_code": listed.timeout_code,
    }
    return {name: value for name, value in entry.items() if value is not None and details.get(name) is None}


def _declared(listed: EventType, context: Context) -> dict[str, Any]:
    """What the entry's ``match`` asks for, as far as the fields that it names are known."""
    known = {pointer: context.collected_data.get(name) for pointer, name in listed.match.items()}
    return {
        pointer: value for pointer, value in known.items() if has_value(value) and not isinstance(value, Mapping | list)
    }


def _check_times(details: Mapping[str, Any]) -> None:
    for name in ("timeout_seconds", "escalate_after_seconds"):
        seconds = details.get(name)
        if seconds is None:
            continue
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
            raise BadAnswer(f"{name} must be a number")
        if not 0 < seconds <= MAX_WAIT_SECONDS:
            raise BadAnswer(f"{name} must lie between 0 and {MAX_WAIT_SECONDS:.0f}")
    then = details.get("on_timeout")
    if then is not None and then not in set(OnTimeout):
        raise BadAnswer(f"on_timeout must be one of {', '.join(OnTimeout)}")
    if then is not None and details.get("timeout_seconds") is None:
        raise BadAnswer("on_timeout goes with timeout_seconds")
