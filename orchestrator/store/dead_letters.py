"""Dead letters: what was set aside, put back or removed by hand."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping

from orchestrator.domain.message import Record
from orchestrator.errors import DeadLetterNotFound
from orchestrator.flow.ports import DeadLetter
from orchestrator.store.audit import audit
from orchestrator.store.engine import Transactions, text
from orchestrator.store.published import headers_of

_LIST = text("""
    SELECT * FROM dead_letters WHERE (CAST(:reason AS text) IS NULL OR reason = :reason) ORDER BY id DESC LIMIT :limit
""")
_ONE = text("SELECT * FROM dead_letters WHERE id = :id")
_REPLAYED = text("UPDATE dead_letters SET replayed_at = now() WHERE id = :id RETURNING task_id")
_DISCARD = text("DELETE FROM dead_letters WHERE id = :id RETURNING task_id, reason")


class DeadLetterPart(Transactions):
    """Implements `orchestrator.flow.ports.DeadLetterStore`."""

    def dead_letters(self, *, reason: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """Newest first."""
        parameters = {"reason": reason, "limit": limit}
        rows = self.transact(lambda connection: connection.execute(_LIST, parameters).mappings().all())
        return [_letter_of(row) for row in rows]

    def dead_letter(self, letter_id: int) -> DeadLetter:
        """One, with its bytes."""
        row = self.transact(lambda connection: connection.execute(_ONE, {"id": letter_id}).mappings().first())
        if row is None:
            raise _not_found(letter_id)
        return _letter_of(row)

    def mark_replayed(self, letter_id: int, *, who: str, why: str) -> None:
        """Note that its record was produced again."""

        def work(connection: Connection) -> None:
            row = connection.execute(_REPLAYED, {"id": letter_id}).first()
            if row is None:
                raise _not_found(letter_id)
            details = {"dead_letter": letter_id}
            audit(connection, who=who, what="dead-letter replay", why=why, task_id=row.task_id, details=details)

        self.transact(work)

    def discard(self, letter_id: int, *, who: str, why: str) -> None:
        """Remove it for good."""

        def work(connection: Connection) -> None:
            row = connection.execute(_DISCARD, {"id": letter_id}).first()
            if row is None:
                raise _not_found(letter_id)
            details = {"dead_letter": letter_id, "reason": row.reason}
            audit(connection, who=who, what="dead-letter discard", why=why, task_id=row.task_id, details=details)

        self.transact(work)


def _not_found(letter_id: int) -> DeadLetterNotFound:
    return DeadLetterNotFound(f"there is no dead letter {letter_id}", hint="See `orchestrator dead-letter list`.")


def _letter_of(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        reason=row["reason"],
        detail=row["detail"],
        record=Record(
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            timestamp_ms=row["timestamp_ms"],
            key=None if row["key"] is None else bytes(row["key"]),
            value=None if row["value"] is None else bytes(row["value"]),
            headers=headers_of(row["headers"]),
        ),
        task_id=row["task_id"],
        created_at=row["created_at"],
        replayed_at=row["replayed_at"],
    )
