"""Where reading a partition begins. Pure.

Three things may each be older than the others: PostgreSQL (restored from a backup), the group's offset in Kafka
(a failed commit, expired), and the topic itself (made anew, with its offsets from 0 again). Reading too early is
harmless, since the inbox knows every record it took; reading too late loses records. So in doubt: earlier.

The group's offsets carry a mark of ours as their metadata, naming the topic's id, and how far PostgreSQL was: so Kafka
remembers it for bridges to come. An offset without a mark was set by a person's hand, and is obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.server import Seen

_MARK = "agent-orchestrator"


@dataclass(frozen=True, slots=True)
class GroupOffset:
    """What the group has committed: the next offset, and the metadata beside it (None: the broker keeps none)."""

    offset: int
    metadata: str | None


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin (None: at the oldest record there is, as where this offset is gone), and why, for the log."""

    offset: int | None
    why: str
    below: int | None = None
    """PostgreSQL has forgotten records that it had taken in, up to this offset."""
    topic_is_new: bool = False


def mark(topic_id: str | None, seen: Seen | None = None) -> str:
    """The metadata of offsets that we commit; at most some 100 bytes.

    Args:
        topic_id: names the topic.
        seen: how far PostgreSQL was: one that is not as far some day is older.
    """
    return f"{_MARK} topic={topic_id or ''}" + ("" if seen is None else f" at={seen}")


def seen_of(group: GroupOffset | None) -> Seen | None:
    """How far PostgreSQL was when the group's offset was committed; None where its mark does not say."""
    parts = _parts(group)
    return None if parts is None else Seen.from_text(parts.get("at"))


def is_ours(group: GroupOffset | None) -> bool:
    """Whether the broker keeps our mark beside the group's offset."""
    return _parts(group) is not None


def _parts(group: GroupOffset | None) -> dict[str, str] | None:
    """What our mark says; None where it is none of ours."""
    if group is None or group.metadata is None or not group.metadata.startswith(_MARK):
        return None
    return dict(part.split("=", 1) for part in group.metadata.split() if "=" in part)


def goes_back(start: Start, group: GroupOffset | None) -> bool:
    """Whether reading begins before the group's offset."""
    return start.offset is not None and group is not None and start.offset < group.offset


def where_to_begin(stored: int | None, group: GroupOffset | None, topic_id: str | None) -> Start:
    """Decide for one partition.

    Args:
        stored: the next offset as PostgreSQL knows it.
        group: the group's offset.
        topic_id: the topic's id now; None where the broker tells none.
    """
    if group is None:
        if stored is None:
            return Start(None, "first start")
        return Start(None, "Kafka knows no offset of this group: the topic may have been made anew")
    if group.metadata is not None:
        parts = _parts(group)
        if parts is None:
            return Start(group.offset, "the group's offset was set by hand")
        if topic_id and parts.get("topic") not in (topic_id, "", None):
            return Start(None, "the topic was made anew", topic_is_new=True)
    if stored is None:
        return Start(0, "PostgreSQL knows nothing of this partition: it may have been restored", group.offset)
    if stored < group.offset:
        return Start(stored, "PostgreSQL is behind the group: it may have been restored", group.offset)
    return Start(group.offset, "the group's offset")
