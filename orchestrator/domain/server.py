"""Whether a PostgreSQL is older than what was seen of it before: pure rules.

Three things tell. Its *identity*: which cluster, database and tables these are; a dump restored makes others. Its
*timeline*: a replica that takes over and a recovery from an archive begin a new one. Its *position*: how far its log
is on disk, which never goes back on one timeline, over no crash; whoever has seen more than there is now knows of more
than is in it.

The database keeps identity and timeline in a row of its own, with an *incarnation*: a name drawn anew each time that an
older state is noticed. A position is compared within one incarnation only; so of many who notice, one marks.
"""

from __future__ import annotations

import re

from orchestrator.domain.value import Value

_SEEN = re.compile(r"([0-9a-f]{8})/([0-9A-F]{8})/([0-9A-F]{1,16})")


class Identity(Value, frozen=True):
    """Which server, database and tables; None what this role, or this server, does not tell."""

    system: str | None
    """``system_identifier`` of the cluster."""
    timeline: str | None
    """Eight hexadecimal digits."""
    database: int
    """Its oid."""
    table: int
    """The oid of the table that this is kept in."""


class Seen(Value, frozen=True):
    """How far a server was, when somebody looked."""

    incarnation: str
    timeline: str
    position: int
    """Bytes of its log that were on disk."""

    def __str__(self) -> str:
        """At most 34 characters, without blanks."""
        return f"{self.incarnation}/{self.timeline}/{self.position:X}"

    @classmethod
    def from_text(cls, text: str | None) -> Seen | None:
        """The inverse of ``str``; None for anything else."""
        found = _SEEN.fullmatch(text or "")
        return None if found is None else cls(found[1], found[2], int(found[3], 16))


class Server(Value, frozen=True):
    """A server as it is now, with what its database has kept of itself."""

    incarnation: str
    kept: Identity
    now: Identity
    position: int | None
    """None: not told."""
    before: frozenset[str] = frozenset()
    """Incarnations that have ended."""

    @property
    def seen(self) -> Seen | None:
        """What to remember; None where it does not tell its position."""
        if self.now.timeline is None or self.position is None:
            return None
        return Seen(self.incarnation, self.now.timeline, self.position)


def why_older(server: Server, seen: Seen | None, *, replicas_complete: bool = False) -> str | None:
    """Why this server may have forgotten something; None: nothing says so.

    Args:
        server: what it says of itself, asked for after ``seen`` was seen.
        seen: the furthest that was seen of it.
        replicas_complete: a replica that takes over has all that was confirmed: a later timeline is no reason.
    """
    kept, now = server.kept, server.now
    if kept.system and now.system and kept.system != now.system:
        return "this is another server than before: a dump or a copy of the database"
    if (kept.database, kept.table) != (now.database, now.table):
        return "the tables were made anew: a dump was restored"
    if kept.timeline and now.timeline and kept.timeline != now.timeline:
        if now.timeline < kept.timeline:
            return f"the server went back from timeline {int(kept.timeline, 16)} to {int(now.timeline, 16)}"
        if not replicas_complete:
            return (
                f"a replica took over, or the server was recovered from its archive: timeline {int(now.timeline, 16)} "
                f"follows {int(kept.timeline, 16)}"
            )
    if seen is None:
        return None
    if seen.incarnation != server.incarnation:
        if seen.incarnation in server.before:
            return None
        return "it does not know any more what was noted in it"
    if seen.timeline == now.timeline and server.position is not None and server.position < seen.position:
        return f"its log ends {seen.position - server.position} bytes before where it was on disk already"
    return None


def further(one: Seen | None, other: Seen | None) -> Seen | None:
    """What of two to remember: the later of one incarnation and timeline, else ``other``, which is the newer."""
    if one is None or other is None:
        return other or one
    same = (one.incarnation, one.timeline) == (other.incarnation, other.timeline)
    return one if same and one.position > other.position else other
