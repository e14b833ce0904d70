"""Noticing that PostgreSQL is older than it was, before anything is done with it.

A server cannot become another one under an open connection, but for a standby, which is refused. So it is looked at
with each new one, before its first use, and besides about once a second, to know how far it had come should it go back.
Behind a pooler, whose connections outlive the server, each transaction begins with a look of its own
(``server_guard_1``). `orchestrator.domain.server` has the rules.

Who finds it older marks every task that has not ended as doubted, and ends the leases: a worker that goes on would
write to a journal that has forgotten what it did.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extras import RealDictCursor
from sqlalchemy import Engine, event

from orchestrator.domain.server import Identity, Seen, Server, further, why_older
from orchestrator.fault_points import FaultPoint, reach

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds for which it is known how far the server is."""

DEADLOCK_TRIES = 5

_NOT_OURS_YET = {"42P01", "42883", "42703", "42501", "25006", "3F000"}
"""No such tables (they are told of elsewhere), no right to them, or nothing may be written: nothing to notice with."""

LOOK = """
    SELECT s.incarnation, s.system_identifier, s.timeline, s.database_oid, s.table_oid,
           n.system AS now_system, n.timeline AS now_timeline, n.flushed,
           (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS now_database,
           'server_state'::regclass::oid::bigint AS now_table,
           pg_is_in_recovery() AS standby, pg_backend_pid() AS backend,
           (SELECT array_agg(incarnation) FROM restores) AS before
    FROM server_signals_1() n LEFT JOIN server_state s ON true
"""
_FIRST = """
    INSERT INTO server_state (incarnation, system_identifier, timeline, database_oid, table_oid)
    VALUES (%(incarnation)s, %(system)s, %(timeline)s, %(database)s, %(table)s)
    ON CONFLICT DO NOTHING
"""
_LOCK = "SELECT incarnation FROM server_state FOR UPDATE"
_PATIENTLY = "SET LOCAL statement_timeout = '300s'; SET LOCAL lock_timeout = '60s'"
_KEEP = """
    UPDATE server_state SET incarnation = %(incarnation)s, noted_at = now(),
        system_identifier = coalesce(%(system)s, system_identifier), timeline = coalesce(%(timeline)s, timeline),
        database_oid = %(database)s, table_oid = %(table)s
"""
_DOUBT = """
    UPDATE tasks SET doubted_at = now(),
        epoch = CASE WHEN lease_until IS NULL THEN epoch ELSE epoch + 1 END,
        due_at = CASE WHEN lease_until IS NULL THEN due_at ELSE now() END,
        lease_owner = NULL, lease_until = NULL
    WHERE state IN ('received', 'processing', 'waiting', 'compensating')
"""
_END_CALLS = """
    UPDATE delegations SET epoch = epoch + 1, lease_owner = NULL, lease_until = NULL, due_at = now()
    WHERE due_at IS NOT NULL AND lease_until IS NOT NULL
"""
_NOTE = """
    INSERT INTO restores (why, who, incarnation, tasks)
    VALUES (%(why)s, %(who)s, %(ended)s, %(tasks)s)
"""


def server_of(row: Mapping[str, Any]) -> Server:
    """What `LOOK` found; the row is there."""
    return Server(
        incarnation=row["incarnation"],
        kept=Identity(row["system_identifier"], row["timeline"], row["database_oid"], row["table_oid"]),
        now=_now(row),
        position=None if row["flushed"] is None else int(row["flushed"]),
        before=frozenset(row["before"] or ()),
    )


def _now(row: Mapping[str, Any]) -> Identity:
    return Identity(row["now_system"], row["now_timeline"], row["now_database"], row["now_table"])


def mark_restored(cursor: Any, server: Server, *, who: str, why: str) -> int:
    """Doubt every task that has not ended, end all leases, and begin a new incarnation; how many tasks that are.

    The caller holds the lock on ``server_state``, has looked since, and commits.
    """
    cursor.execute(_DOUBT)
    tasks = int(cursor.rowcount)
    cursor.execute(_END_CALLS)
    cursor.execute(_NOTE, {"why": why, "who": who, "ended": server.incarnation, "tasks": tasks})
    cursor.execute(_KEEP, _kept(secrets.token_hex(4), server.now))
    log.warning(
        "store.restored",
        extra={
            "why": why,
            "tasks_doubted": tasks,
            "then": "calls of agents that honour no keys wait for a person; `orchestrator doctor` tells how many",
        },
    )
    return tasks


def locked_server(cursor: Any) -> Server | None:
    """The server as it is, with its row locked, so that of two who notice one marks; None: no row yet."""
    cursor.execute(_PATIENTLY)
    cursor.execute(_LOCK)
    if cursor.fetchone() is None:
        return None
    cursor.execute(LOOK)
    return server_of(cursor.fetchone())


def _kept(incarnation: str, identity: Identity) -> dict[str, Any]:
    return {
        "incarnation": incarnation,
        "system": identity.system,
        "timeline": identity.timeline,
        "database": identity.database,
        "table": identity.table,
    }


class ServerWatch:
    """What one process has seen of its server. Safe to share between threads.

    Args:
        engine: each of its new connections is looked at.
        replicas_complete: ``ORCHESTRATOR_REPLICAS_COMPLETE``.
        forget: called where rows that this process knows to be there may not be: where the server is found to be older
            than it was, whoever noted it, and with each new connection, before its first use; the last second before a
            crash may be missing without anything that tells.
    """

    def __init__(
        self, engine: Engine, *, replicas_complete: bool = False, forget: Callable[[], None] = lambda: None
    ) -> None:
        self._replicas_complete = replicas_complete
        self._forget = forget
        self._incarnation: str | None = None
        self._seen: Seen | None = None
        self._looked_at = float("-inf")
        self._lock = threading.Lock()
        self._pooler = False
        event.listen(engine, "connect", self._connected)

    @property
    def seen(self) -> Seen | None:
        """The furthest that was seen of the server; None before the first look."""
        return self._seen

    def remember(self, told: Seen) -> None:
        """What another process has seen, for the first look; nothing where there was one."""
        if self._seen is None:
            self._seen = told

    @property
    def guard(self) -> str | None:
        """The statement that each transaction is to begin with; None where none needs to."""
        seen = self._seen
        if not self._pooler or seen is None or not seen.position:
            return None
        return f"SELECT server_guard_1('{seen.timeline}', {seen.position})"

    def refresh(self, connection: psycopg2.extensions.connection) -> None:
        """Look again, where that was a while ago; what ails the connection is left to whoever uses it next."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked_at < LOOK_EVERY:
                return
            self._looked_at = now
        try:
            self.look(connection)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self._looked_at = float("-inf")
            if not connection.closed:
                raise

    def look(self, connection: psycopg2.extensions.connection, told: Seen | None = None) -> None:
        """Compare the server with what was seen of it, and with what others have seen (``told``).

        The connection is in no transaction, before and after.
        """
        was_autocommit = connection.autocommit
        for attempt in range(1, DEADLOCK_TRIES + 1):
            # Seen before it is asked for: what another thread sees meanwhile may be further.
            seen = [one for one in (self._seen, told) if one is not None]
            try:
                connection.autocommit = False
                self._look(connection, seen)
                return
            except psycopg2.Error as error:
                if connection.closed:
                    raise
                connection.rollback()
                if error.pgcode in _NOT_OURS_YET:
                    return
                if error.pgcode not in {"40P01", "40001"} or attempt == DEADLOCK_TRIES:
                    raise
            finally:
                if not connection.closed:
                    connection.rollback()
                    connection.autocommit = was_autocommit

    def _connected(self, connection: psycopg2.extensions.connection, _record: Any) -> None:
        self._looked_at = time.monotonic()
        try:
            self.look(connection)
        except BaseException:
            connection.close()
            raise
        self._forget()

    def _look(self, connection: psycopg2.extensions.connection, seen: list[Seen]) -> None:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            row = _asked(cursor)
            if row["standby"]:
                # It may take over while the connection is open, and would then be used without a look.
                raise psycopg2.OperationalError("this server is a standby: it has not taken over yet")
            if row["incarnation"] is None:
                cursor.execute(_FIRST, _kept(secrets.token_hex(4), _now(row)))
                connection.commit()
                row = _asked(cursor)
            self._pooler = row["backend"] != connection.info.backend_pid
            server = server_of(row)
            if self._why(server, seen) or _is_news(server):
                connection.rollback()
                server = self._note(connection, cursor, seen) or server
        if self._incarnation not in (None, server.incarnation):
            self._forget()
        self._incarnation = server.incarnation
        self._seen = further(self._seen, server.seen)

    def _note(self, connection: psycopg2.extensions.connection, cursor: Any, seen: list[Seen]) -> Server | None:
        """Mark it, unless somebody did so meanwhile."""
        server = locked_server(cursor)
        if server is None:
            return None
        if why := self._why(server, seen):
            mark_restored(cursor, server, who=_me(), why=why)
            reach(FaultPoint.RESTORE_MARKED)
        elif _is_news(server):
            cursor.execute(_KEEP, _kept(server.incarnation, server.now))
            log.info("store.server_changed", extra={"timeline": server.now.timeline})
        connection.commit()
        return server_of(_asked(cursor))

    def _why(self, server: Server, seen: list[Seen]) -> str | None:
        whys = (why_older(server, one, replicas_complete=self._replicas_complete) for one in (None, *seen))
        return next((why for why in whys if why is not None), None)


def _asked(cursor: Any) -> dict[str, Any]:
    cursor.execute(LOOK)
    return dict(cursor.fetchone())


def _is_news(server: Server) -> bool:
    """Whether the server tells what is not kept of it yet; it is no older."""
    kept, now = server.kept, server.now
    return bool((now.system and not kept.system) or (now.timeline and now.timeline != kept.timeline))


def _me() -> str:
    return f"{Path(sys.argv[0]).name or 'python'}, process {os.getpid()} on {socket.gethostname()}"
