"""Where reading a partition begins. Pure.

Three things may each be older than the others: PostgreSQL (restored from a backup), the group's offset in Kafka
(a failed commit, expired), and the topic itself (made anew, with its offsets from 0 again). Reading too early is
harmless, since the inbox knows every record it took; reading too late loses records. So in doubt: earlier.

The group's offsets carry a mark of ours as their metadata, naming the topic's id. An offset without it was set by a
person's hand, and is obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass

_MARK = "agent-orchestrator"


@dataclass(frozen=True, slots=True)
class GroupOffset:
    """What the group has committed: the next offset, and the metadata beside it (None: the broker keeps none)."""

    offset: int
    metadata: str | None


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin (None: at the oldest record there is), and why, for the log."""

    offset: int | None
    why: str


def mark(topic_id: str | None) -> str:
    """The metadata of offsets that we commit; at most some 60 bytes."""
    return f"{_MARK} topic={topic_id or ''}"


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
        if not group.metadata.startswith(_MARK):
            return Start(group.offset, "the group's offset was set by hand")
        if topic_id and group.metadata not in (mark(topic_id), mark(None)):
            return Start(None, "the topic was made anew")
    if stored is None:
        return Start(None, "PostgreSQL knows nothing of this partition: it may have been restored")
    if stored < group.offset:
        return Start(stored, "PostgreSQL is behind the group: it may have been restored")
    return Start(group.offset, "the group's offset")
