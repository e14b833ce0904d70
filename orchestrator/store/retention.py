"""Removing what is old and done, in batches that nobody has to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import Connection, TextClause

from orchestrator.flow.retention import Kept
from orchestrator.store.engine import Transactions, text

_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_ONE_AT_A_TIME = 0x52_45_54_41_49_4E

# Rows in someone's hands (a retry by hand) are passed over; they are removed the next time.
_REMOVE: Mapping[Kept, TextClause] = {
    Kept.TASKS: text("""
        DELETE FROM tasks WHERE task_id IN (
            SELECT task_id FROM tasks WHERE ended_at < now() - CAST(:age AS interval)
            ORDER BY ended_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    """),
    Kept.INBOX: text("""
        DELETE FROM inbox WHERE id IN (
            SELECT id FROM inbox
            WHERE received_at < now() - CAST(:age AS interval) AND state NOT IN ('pending', 'early')
            ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    """),
    Kept.UPDATES: text("""
        DELETE FROM outbox WHERE id IN (
            SELECT id FROM outbox WHERE published_at < now() - CAST(:age AS interval)
            ORDER BY published_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    """),
    Kept.DEAD_LETTERS: text("""
        DELETE FROM dead_letters WHERE id IN (
            SELECT d.id FROM dead_letters d WHERE d.created_at < now() - CAST(:age AS interval)
              AND NOT EXISTS (SELECT FROM outbox o WHERE o.dead_letter_id = d.id AND o.published_at IS NULL)
            ORDER BY d.created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
    """),
    Kept.AUDIT: text("""
        DELETE FROM audit WHERE id IN (
            SELECT id FROM audit WHERE at < now() - CAST(:age AS interval)
            ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED)
    """),
}


class RetentionPart(Transactions):
    """Implements `orchestrator.flow.retention.RetentionStore`."""

    def remove_old(self, kept: Kept, older_than: timedelta, limit: int) -> int | None:
        """Remove up to ``limit`` rows in one transaction."""

        def work(connection: Connection) -> int | None:
            if not connection.execute(_LOCK, {"key": _ONE_AT_A_TIME}).scalar_one():
                return None
            return int(connection.execute(_REMOVE[kept], {"age": older_than, "limit": limit}).rowcount)

        # Losing it in a crash means removing it again.
        return self.transact(work, durable=False)
