"""Records in the light of what PostgreSQL has forgotten of their partitions: refused, or taken in with doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from orchestrator.domain.message import Record
from orchestrator.errors import OffsetsForgotten
from orchestrator.flow.ports import Intake, Received, Taken
from orchestrator.store.engine import jsonb, text

_KNOWN = text("""
    SELECT r.topic, r.partition, o.next_offset, b.below
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int)
    LEFT JOIN offsets o ON o.topic = r.topic AND o.partition = r.partition
    LEFT JOIN read_before b ON b.topic = r.topic AND b.partition = r.partition
""")
_DOUBT = text("""
    UPDATE tasks SET doubted_at = coalesce((SELECT max(noticed_at) FROM restores), now())
    WHERE task_id = ANY(:ids)
""")
_READ_AGAIN = text("""
    DELETE FROM read_before b USING offsets o
    WHERE o.topic = b.topic AND o.partition = b.partition AND o.next_offset >= b.below AND b.topic = ANY(:topics)
""")

Place = tuple[str, int]


def refuse_forgotten(
    connection: Connection, records: Sequence[Record], confirmed: Mapping[Place, int]
) -> Mapping[Place, int]:
    """Where records were taken in before that PostgreSQL does not know any more: up to which offset, by partition.

    Raises:
        OffsetsForgotten: it knows less of one of these partitions than it has confirmed.
    """
    places = sorted({(record.topic, record.partition) for record in records})
    rows = connection.execute(_KNOWN, {"rows": jsonb([{"topic": t, "partition": p} for t, p in places])}).all()
    forgotten = frozenset(
        (row.topic, row.partition)
        for row in rows
        if is_behind(row.next_offset, confirmed.get((row.topic, row.partition)))
    )
    if forgotten:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(forgotten))
        raise OffsetsForgotten(f"PostgreSQL knows less of {names} than it has confirmed", places=forgotten)
    return {(row.topic, row.partition): row.below for row in rows if row.below is not None}


def is_behind(stored: int | None, confirmed: int | None) -> bool:
    """Whether what is stored of a partition is less than what was confirmed."""
    return confirmed is not None and (stored is None or stored < confirmed)


def doubt_read_before(
    connection: Connection, batch: Sequence[Received], taken: Sequence[Taken], read_before: Mapping[Place, int]
) -> None:
    """Doubt new tasks whose records had been taken in before: they may have got anywhere since.

    What is read again wholly by this batch, whose offsets are kept by now, is not asked of later ones: a topic made
    anew, of which the broker tells no id, begins at 0 once more.
    """
    if not read_before:
        return
    ids = [
        item.task_id
        for received, item in zip(batch, taken, strict=True)
        if item.outcome is Intake.ACCEPTED
        and received.record.offset < read_before.get((received.record.topic, received.record.partition), 0)
    ]
    if ids:
        connection.execute(_DOUBT, {"ids": ids})
    records = [received.record for received in batch]
    ended = {one.topic for one in records if one.offset + 1 >= read_before.get((one.topic, one.partition), math.inf)}
    if ended:
        connection.execute(_READ_AGAIN, {"topics": sorted(ended)})
