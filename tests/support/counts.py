"""Counting what goes to PostgreSQL: statements by a store's connections, and commits by the server's own counter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2.extensions
from sqlalchemy import event

from orchestrator.store import PostgresStore

READ = 2
"""Statements of reading a task: settings of the transaction, and the row."""


class Counts:
    """Statements sent to PostgreSQL, by all connections of a store."""

    def __init__(self) -> None:
        self.statements = 0


@contextmanager
def counted(store: PostgresStore) -> Iterator[Counts]:
    """Count as long as the context lasts."""
    found = Counts()

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            found.statements += 1
            super().execute(query, vars)

    def count(connection: Any, _record: Any) -> None:
        connection.cursor_factory = Cursor

    store.engine.dispose()
    event.listen(store.engine, "connect", count)
    yield found
    event.remove(store.engine, "connect", count)


def commits(store: PostgresStore) -> int:
    """Commits of this database; those of this look among them."""
    with store.engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with store.engine.begin() as connection:
        found = connection.exec_driver_sql(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).scalar_one()
        return int(found)


def wal_of(store: PostgresStore) -> tuple[int, int]:
    """WAL that the connection at the top of the store's pool has written so far: records, and bytes beside page images.

    A page's image goes in with its first change after a checkpoint, so their number is a matter of chance; each is
    counted at its largest, 8 kB.
    """
    with store.engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with store.engine.begin() as connection:
        row = connection.exec_driver_sql(
            "SELECT wal_records, wal_bytes - 8192 * wal_fpi FROM pg_stat_get_backend_wal(pg_backend_pid())"
        ).one()
        return int(row[0]), int(row[1])
