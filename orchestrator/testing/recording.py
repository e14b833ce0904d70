"""A task's journal as a value of JSON, and back: everything that its course depends on, nothing that could call out.

Addresses of jobs and tokens of replies are left out, secrets are masked. The form has a number: what a later version
cannot read is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec

from orchestrator import __version__
from orchestrator.domain.asked import AS_WRITTEN, offers_of
from orchestrator.domain.context import Change
from orchestrator.domain.delegation import Delegation
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.task import PartialFailure, Task
from orchestrator.domain.value import Value, asdict, field, replace
from orchestrator.errors import ConfigurationError
from orchestrator.flow.past import Past
from orchestrator.flow.replay import Readers, replay
from orchestrator.llm.retold import decided_by_rules, question_digests, retold
from orchestrator.logs import mask

FORMAT = 1


class _Version(Value, frozen=True):
    number: int
    at: datetime
    changes: tuple[Change, ...]


class _Recording(Value, frozen=True):
    """The form of a recording."""

    task: Task
    versions: tuple[_Version, ...]
    history: tuple[HistoryEntry, ...]
    offers: Mapping[str, Any]
    """Offers, agents and event types, by digest."""
    offered: tuple[str, ...]
    """Which of them are offers."""
    partial_failure: PartialFailure
    """The installation's own policy."""
    questions: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Step → the parts of its question."""
    field_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_READERS = Readers(decided_by_rules, retold, question_digests)


def recording_of(past: Past, policy: PartialFailure) -> dict[str, Any]:
    """A task written down, secrets masked.

    Args:
        past: the task.
        policy: what a failed call means for a step, where its message does not say.
    """
    entries = {
        key: {name: value for name, value in entry.items() if name != AS_WRITTEN}
        for offer in past.offers.values()
        for key, entry in offer.entries().items()
    }
    form = _Recording(
        task=past.task,
        versions=tuple(_Version(number, at, tuple(changes)) for number, at, changes in past.versions),
        history=tuple(
            replace(entry, delegations=tuple(_without_places(one) for one in entry.delegations))
            for entry in past.history
        ),
        offers=entries,
        offered=tuple(past.offers),
        partial_failure=policy,
        field_schemas=past.context_at(0).field_schemas,
    )
    document = mask.within(_written(form))
    # The questions are taken from what is written: a masked value stands in both.
    masked, _, _ = _read({"format": FORMAT, **document})
    questions = {
        str(entry.step.number): question_digests(question.request)
        for entry in masked.course
        if entry.step.asked is not None and (question := masked.question(entry)).exact
    }
    return {"format": FORMAT, "orchestrator": __version__, **document, "questions": questions}


def differences(recording: Mapping[str, Any], *, questions: bool = True) -> Sequence[str]:
    """What would be otherwise today.

    Raises:
        ConfigurationError: this version cannot read the recording.
    """
    past, policy, asked = _read(recording)
    return replay(past, _READERS, policy, asked if questions else None)


def not_checked(recording: Mapping[str, Any]) -> Sequence[int]:
    """Steps whose question is not on record: their decisions are taken as they are."""
    past, _, asked = _read(recording)
    return [entry.step.number for entry in past.course if entry.step.decision and entry.step.number not in asked]


def _read(recording: Mapping[str, Any]) -> tuple[Past, PartialFailure, Mapping[int, Mapping[str, str]]]:
    given = {name: value for name, value in recording.items() if name not in {"format", "orchestrator"}}
    if recording.get("format") != FORMAT:
        raise ConfigurationError(
            f"this recording has the format {recording.get('format')!r}; this version reads {FORMAT}",
            hint="Export the task anew with `orchestrator task export`.",
        )
    try:
        form = msgspec.convert(given, _Recording, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"this recording (of version {recording.get('orchestrator')}) cannot be read: {error}",
            hint="Export the task anew with `orchestrator task export`.",
        ) from None
    past = Past(
        form.task,
        form.history,
        [(one.number, one.at, one.changes) for one in form.versions],
        offers_of(form.offered, form.offers),
        form.field_schemas,
    )
    return past, form.partial_failure, form.questions


def _written(part: Any) -> Any:
    """A part of the form as JSON; fields that are as by default are left out."""
    match part:
        case Value():
            usual = _defaults(type(part))
            told = {name: value for name, value in asdict(part).items() if name not in usual or value != usual[name]}
            return {name: _written(value) for name, value in told.items()}
        case Mapping():
            return {name: _written(value) for name, value in part.items()}
        case list() | tuple():
            return [_written(value) for value in part]
        case _:
            return msgspec.to_builtins(part)


@cache
def _defaults(kind: type[Value]) -> Mapping[str, Any]:
    return {
        one.name: one.default if one.default_factory is msgspec.NODEFAULT else one.default_factory()
        for one in msgspec.structs.fields(kind)
        if not one.required
    }


def _without_places(delegation: Delegation) -> Delegation:
    return replace(delegation, remote_url=None, reply_token=None, told=None)
