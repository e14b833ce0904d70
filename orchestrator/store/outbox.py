"""Publishing what was committed: the outbox in order, and who may publish it."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from orchestrator.errors import StoreUnavailable
from orchestrator.flow.ports import OutboxRow
from orchestrator.store.engine import Transactions, text
from orchestrator.store.published import dead_letter_body, iso

PUBLISHER_LEASE = timedelta(seconds=5)
"""How long a dead publisher's updates wait for another. One that is only slow may then publish beside its successor:
what both send has the same ids, and the successor begins with the oldest row that is not marked."""

_TAKE = text("""
    UPDATE publisher SET owner = :owner, until = now() + CAST(:lease AS interval)
    WHERE owner = :owner OR until IS NULL OR until < now()
""")

_LEAVE = text("UPDATE publisher SET owner = NULL, until = NULL WHERE owner = :owner")

_UNPUBLISHED = text("""
    SELECT o.id, o.kind, o.task_id, o.body, o.created_at, to_jsonb(d) - 'key' - 'value' AS letter, d.key, d.value
    FROM outbox o LEFT JOIN dead_letters d ON d.id = o.dead_letter_id
    WHERE o.published_at IS NULL ORDER BY o.id LIMIT :limit
""")

_OF_TASK = text("""
    SELECT id, kind, task_id, body, created_at FROM outbox
    WHERE task_id = :task_id AND kind = 'update' AND id > :after ORDER BY id
""")

_PUBLISHED = text("UPDATE outbox SET published_at = now() WHERE id = ANY(:ids)")


class OutboxPart(Transactions):
    """Implements `orchestrator.flow.ports.OutboxStore`.

    The publisher is elected by a lease row, not by a session's advisory lock: that would not work through PgBouncer in
    transaction mode. The lease is renewed by `unpublished`, which refuses where it was lost.
    """

    _publishes_as: str | None = None

    @contextmanager
    def as_publisher(self) -> Iterator[bool]:
        """Try to be the one publisher; yields whether we are."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}:{uuid.uuid4().hex[:8]}"
        if not self._take(owner):
            yield False
            return
        self._publishes_as = owner
        try:
            yield True
        finally:
            self._publishes_as = None
            self.transact(lambda connection: connection.execute(_LEAVE, {"owner": owner}))

    def _take(self, owner: str) -> bool:
        parameters = {"owner": owner, "lease": PUBLISHER_LEASE}
        return self.transact(lambda connection: connection.execute(_TAKE, parameters).rowcount, durable=False) == 1

    def unpublished(self, limit: int) -> Sequence[OutboxRow]:
        """The oldest rows not yet published.

        Raises:
            StoreUnavailable: PostgreSQL is away, or another bridge publishes now.
        """
        if self._publishes_as is not None and not self._take(self._publishes_as):
            raise StoreUnavailable("another bridge publishes now; this one stands for election again")
        rows = self.transact(lambda connection: connection.execute(_UNPUBLISHED, {"limit": limit}).all())
        return [_outbox_row(*row) for row in rows]

    def mark_published(self, ids: Sequence[int]) -> None:
        """Note that the broker confirmed these rows."""
        if ids:
            self.transact(lambda connection: connection.execute(_PUBLISHED, {"ids": list(ids)}))

    def updates(self, task_id: str, after_id: int = 0) -> Sequence[OutboxRow]:
        """The task's updates in order."""
        parameters = {"task_id": task_id, "after": after_id}
        rows = self.transact(lambda connection: connection.execute(_OF_TASK, parameters).all())
        return [_outbox_row(*row) for row in rows]


def _outbox_row(  # the columns, in their order
    number: int,
    kind: str,
    task_id: str | None,
    body: dict[str, Any],
    at: datetime,
    letter: dict[str, Any] | None = None,
    key: bytes | None = None,
    value: bytes | None = None,
) -> OutboxRow:
    if letter is not None:
        return OutboxRow(number, kind, task_id, dead_letter_body({**letter, "key": key, "value": value}, at))
    return OutboxRow(number, kind, task_id, {**body, "update_id": _update_id(number, at), "occurred_at": iso(at)})


def _update_id(number: int, at: datetime) -> str:
    """The same however often a row is published, and never that of another row.

    A PostgreSQL that was restored to an older state numbers its rows again from there, and whoever reads the topic has
    seen those numbers: only with its moment a number is one of a kind.
    """
    return f"{number}-{round(at.timestamp() * 1_000_000):x}"
