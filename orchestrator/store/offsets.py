"""A person's hand on the offsets from which the bridges read on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from orchestrator.store.audit import audit
from orchestrator.store.engine import Transactions, jsonb, text

_SET = text("""
    INSERT INTO offsets (topic, partition, next_offset, by_hand)
    SELECT r.topic, r.partition, r.next_offset, true
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(topic text, partition int, next_offset bigint)
    ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset, updated_at = now(),
        by_hand = true
""")


class OffsetsPart(Transactions):
    """Sets offsets; the bridges themselves keep them in the commit of their records."""

    def set_offsets(self, offsets: Sequence[tuple[str, int, int]], *, who: str, why: str) -> None:
        """Set (topic, partition, next offset); audited."""
        rows = [{"topic": topic, "partition": place, "next_offset": next_} for topic, place, next_ in offsets]

        def work(connection: Connection) -> None:
            connection.execute(_SET, {"rows": jsonb(rows)})
            audit(connection, who=who, what="rewind", why=why, task_id=None, details={"offsets": rows})

        self.transact(work)
