"""What a planner claims, proved against what is on record: a model's word alone never fills a field. Pure.

``record`` fills a field from a reply that is already there: by a pointer into it, or with a value and the passage that
it stands in. Whatever told the model to say so, the value must stand in a reply of the task's present course, and a
field that the registry gives a source (an agent's ``provides``, an event type's ``fills``) is filled by that source
only: the letter of one agent cannot say what another measures, nor that a person has approved.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.context import Change, Origin, has_value
from orchestrator.domain.decision import FieldRecord
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.event_type import fields_of
from orchestrator.domain.journal import HistoryEntry
from orchestrator.domain.pointer import PointerError, resolve
from orchestrator.errors import BadAnswer
from orchestrator.flow.ports import PlanRequest

_QUOTED = 200
"""Characters of the model's own words that a complaint repeats."""


def check_records(records: Sequence[FieldRecord], request: PlanRequest) -> None:
    """Make sure that each record may fill its field, and that the reply it names bears it out.

    Raises:
        BadAnswer: saying what does not hold.
    """
    if not records:
        raise BadAnswer("record names no field")
    replies = _replies(request.history)
    for record, change in zip(records, recorded_changes(records, request.history, datetime.min), strict=True):
        if has_value(request.context.known_data.get(change.field)):
            raise BadAnswer(f"record {change.field!r}: it has a value already; record fills only what is not known")
        if problem := request.context.problem_of(change.field, change.value):
            raise BadAnswer(f"record {change.field!r}: the value does not fit the field: {problem}")
        agents = [agent.name for agent in request.agents if change.field in agent.provides]
        events = [kind.name for kind in request.event_types if change.field in fields_of(kind)]
        told = replies[record.delegation].agent
        if (agents or events) and told not in agents:
            sources = ", ".join([*agents, *(f"the event {name}" for name in events)])
            raise BadAnswer(f"record {change.field!r}: {told} is no source of it; it comes from {sources} only")


def recorded_changes(
    records: Sequence[FieldRecord], history: Sequence[HistoryEntry], at: datetime
) -> tuple[Change, ...]:
    """The context changes that ``record`` asks for, each checked against the reply it names.

    Raises:
        BadAnswer: a reference, pointer or quote that the recorded reply does not bear out.
    """
    replies = _replies(history)
    return tuple(_recorded_change(record, replies, at) for record in records)


def _replies(history: Sequence[HistoryEntry]) -> dict[str, Delegation]:
    """Every reply of the task's present course, by reference."""
    return {
        delegation.ref: delegation
        for entry in history
        if not entry.step.superseded
        for delegation in entry.delegations
        if delegation.state is DelegationState.SUCCEEDED
    }


def _recorded_change(record: FieldRecord, replies: Mapping[str, Delegation], at: datetime) -> Change:
    delegation = replies.get(record.delegation)
    if delegation is None:
        there = ", ".join(replies) or "none"
        raise BadAnswer(
            f"record {record.field!r}: no reply has the reference {record.delegation[:_QUOTED]!r}; there are: {there}"
        )
    if not 1 <= len(record.field) <= 200 or not record.field.isprintable():
        raise BadAnswer("record needs a field name of 1 to 200 characters, all of them visible")
    if record.pointer is not None:
        try:
            value = resolve(delegation.reply, record.pointer)
        except PointerError as error:
            raise BadAnswer(f"record {record.field!r}: in reply {record.delegation} is {error}") from error
        if not has_value(value):
            raise BadAnswer(
                f"record {record.field!r}: the value at {record.pointer[:_QUOTED]!r} of {record.delegation} is empty"
            )
    else:
        value = _quoted_value(record, delegation)
    origin = Origin(
        *delegation.told_by,
        at,
        step=delegation.step,
        delegation=delegation.key,
        pointer=record.pointer,
        quote=record.quote if record.pointer is None else None,
    )
    return Change(record.field, value, origin)


def _quoted_value(record: FieldRecord, delegation: Delegation) -> Any:
    """The extracted value, if the quoted passage stands in the reply and holds the value word for word."""
    quote = (record.quote or "").strip()
    text = _as_text(record.value)
    if not quote or text is None:
        raise BadAnswer(f"record {record.field!r} needs a pointer, or a plain value with the passage quoted")
    passages = [_squeeze(passage) for passage in _texts(delegation.reply)]
    if not any(_squeeze(quote) in passage for passage in passages):
        raise BadAnswer(f"record {record.field!r}: the passage quoted does not stand in reply {record.delegation}")
    if not _holds(_squeeze(quote), _squeeze(text)):
        raise BadAnswer(f"record {record.field!r}: the value {text[:_QUOTED]!r} does not stand in the passage quoted")
    return record.value


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _holds(quote: str, value: str) -> bool:
    """Whether ``value`` stands in ``quote`` as a whole: ``12`` is not in ``4123``, ``12.5``, ``1,200`` or ``-12``."""
    start = quote.find(value)
    while start >= 0:
        before, after = quote[:start], quote[start + len(value) :]
        if not _goes_on(value[::-1], before[::-1], backwards=True) and not _goes_on(value, after):
            return True
        start = quote.find(value, start + 1)
    return False


def _goes_on(value: str, rest: str, *, backwards: bool = False) -> bool:
    """Whether what follows ``value`` belongs to the same word or number."""
    if not rest:
        return False
    if _joins(rest[0]):
        return True
    if not value[-1].isalnum():
        return False
    if rest[0].isalnum():
        return True
    if value[-1].isdigit():
        if rest[0] in ".,'’" and rest[1:2].isdigit():
            return True
        # A minus sign, as against the hyphen of a range or a reference.
        return backwards and rest[0] in "-−" and not rest[1:2].isalnum()
    return False


def _joins(character: str) -> bool:
    """Accents and invisible characters: part of the word that they stand in."""
    return unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf"}


def _texts(value: Any) -> list[str]:
    """Every text and number in a JSON value, keys left out."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    text = _as_text(value)
    return [] if text is None else [text]
