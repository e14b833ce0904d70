"""Connections to PostgreSQL: the pool, its time-outs, and what becomes of its errors."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import psycopg2
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.domain.json_text import json_text
from orchestrator.errors import SchemaOutOfDate, StoreUnavailable

Result = TypeVar("Result")

DEADLOCK_TRIES = 5
_SERIALIZATION, _DEADLOCK = "40001", "40P01"
OTHER_SERVER = "OR001"
"""SQLSTATE of ``server_guard_1``: behind a pooler another server answers than the one that was looked at."""
_AWAY_CLASSES = ("08", "53", "57", "58")
"""SQLSTATE classes: connection, insufficient resources, operator intervention (shutdown, time-out), system error."""
LOCK_TIMEOUT = "55P03"
_OUT_OF_DATE = {"42P01", "42703", "42883"}
"""Undefined table, column or function: the migrations were not run here."""
_USED_AT = "orchestrator_used_at"
"""Note on a pooled connection: when it was taken last."""
_STILL_ALIVE = 1.0
"""Seconds after which a connection is looked at before it is used again."""
_NEED_NOT_LAST = "SET LOCAL synchronous_commit = off; "
_IMPATIENT = "SET LOCAL lock_timeout = 100; "
_LOCAL = "orchestrator_local"
"""Execution option of our engines: the settings that each transaction begins with."""


def make_engine(
    url: str,
    *,
    pool_size: int = 20,
    statement_timeout: float = 15.0,
    lock_timeout: float = 5.0,
    connect_timeout: int = 5,
    application: str = "orchestrator",
) -> Engine:
    """An engine with a pool of at most ``pool_size`` connections. Times are seconds.

    Time-outs are set with the first statement of each transaction (``SET LOCAL``), not for the connection: PgBouncer in
    transaction mode hands the same connection to others.
    """
    local = (
        f"SET LOCAL statement_timeout = {int(statement_timeout * 1000)}; SET LOCAL lock_timeout = "
        f"{int(lock_timeout * 1000)}; SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL timezone = 'UTC'"
    )
    engine = create_engine(
        _psycopg2_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        # The one used last has its plans and caches warm.
        pool_use_lifo=True,
        pool_recycle=1800,
        connect_args={"connect_timeout": connect_timeout, "application_name": application},
        json_serializer=_dumps,
        execution_options={_LOCAL: local},
    )

    @event.listens_for(engine, "begin")
    def _set_timeouts(connection: Connection) -> None:
        connection.exec_driver_sql(local)

    return engine


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _psycopg2_url(url: str) -> str:
    scheme = urlsplit(url).scheme
    return url.replace(f"{scheme}://", "postgresql+psycopg2://", 1)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (PoolTimeout, DisconnectionError) as error:
        raise StoreUnavailable(f"PostgreSQL: {error}", hint=_HINT) from error
    except DBAPIError as error:
        if (ours := _our_error(error.orig, gone=error.connection_invalidated)) is None:
            raise
        raise ours from error
    except psycopg2.Error as error:
        if (ours := _our_error(error, gone=False)) is None:
            raise
        raise ours from error


def _our_error(error: BaseException | None, *, gone: bool) -> StoreUnavailable | SchemaOutOfDate | None:
    """What an error of psycopg2 means for whoever asked; None: it is a defect."""
    code = getattr(error, "pgcode", None) or ""
    if gone or code[:2] in _AWAY_CLASSES or code == LOCK_TIMEOUT or _unreachable(error):
        return StoreUnavailable(f"PostgreSQL: {str(error).strip()}", hint=_HINT)
    if code in _OUT_OF_DATE:
        return SchemaOutOfDate(
            f"PostgreSQL: {str(error).strip().splitlines()[0]}", hint="Run `orchestrator db upgrade`."
        )
    return None


_HINT = "It is tried again by itself; `orchestrator doctor` tells what is wrong with the server."


def _unreachable(error: BaseException | None) -> bool:
    """Whether psycopg2 failed without an answer from a server: no SQLSTATE, an OperationalError."""
    return not getattr(error, "pgcode", None) and type(error).__name__ in {"OperationalError", "InterfaceError"}


class Watch(Protocol):
    """Sees to it that the server is the one that it was (`orchestrator.store.server_watch`)."""

    @property
    def guard(self) -> str | None:
        """A statement that ends a transaction with `OTHER_SERVER` where it is not; None: none is needed."""

    def refresh(self, connection: psycopg2.extensions.connection) -> None:
        """Look at the server once in a while, over a connection that is in no transaction."""

    def look(self, connection: psycopg2.extensions.connection) -> None:
        """Look at it now."""


class Transactions:
    """Runs functions in short transactions; base of every part of the store."""

    watch: Watch | None = None

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def transact(self, work: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """Run ``work`` in one transaction; a deadlock is tried again.

        Args:
            work: gets the connection; its result is returned after the commit.
            durable: False lets the commit return before it is on disk (for what a crash may forget).

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached or refuses for now; whether it committed is not known.
        """
        for attempt in range(1, DEADLOCK_TRIES + 1):
            try:
                with _named_errors(), self._begun() as connection:
                    if not durable:
                        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                    result = work(connection)
                    connection.commit()
                    return result
            except DBAPIError as error:
                _may_be_tried_again(error, error.orig, attempt)
                self._look_where_other(error.orig)
        raise AssertionError("unreachable")

    def send(
        self, render: Callable[[psycopg2.extensions.cursor], bytes], *, durable: bool = True, patient: bool = True
    ) -> list[dict[str, Any]]:
        """Run one statement as a transaction of its own, in one round trip; see `transact`.

        Args:
            render: the statement, whole.
            durable: as for `transact`.
            patient: False gives up after a tenth of a second where a row is locked by another.

        Returns:
            Its rows, by column.

        Raises:
            StoreUnavailable: as `transact`.
        """
        local = self.engine.get_execution_options()[_LOCAL]
        # Several statements in one message are one transaction.
        begin = f"{local}; {'' if durable else _NEED_NOT_LAST}{'' if patient else _IMPATIENT}"
        for attempt in range(1, DEADLOCK_TRIES + 1):
            try:
                with _named_errors(), self._raw() as connection, connection.cursor() as cursor:
                    guard = self.watch.guard if self.watch is not None else None
                    cursor.execute(f"{begin}{'' if guard is None else f'{guard}; '}".encode() + render(cursor))
                    columns = [column.name for column in cursor.description or ()]
                    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            except psycopg2.Error as error:
                _may_be_tried_again(error, error, attempt)
                self._look_where_other(error)
        raise AssertionError("unreachable")

    def _look_where_other(self, error: BaseException | None) -> None:
        """Look at the server that is another than before, before it is used."""
        if self.watch is not None and getattr(error, "pgcode", None) == OTHER_SERVER:
            with self.raw() as connection:
                self.watch.look(connection)

    @contextmanager
    def raw(self) -> Iterator[psycopg2.extensions.connection]:
        """A connection in no transaction, for who looks at the server. Raises `StoreUnavailable`."""
        with _named_errors(), self._raw(looked=True) as connection:
            yield connection

    @contextmanager
    def _raw(self, *, looked: bool = False) -> Iterator[psycopg2.extensions.connection]:
        """A connection of the pool, beginning no transaction by itself; ``looked``: who asks looks at the server."""
        pooled = self._alive()
        connection: psycopg2.extensions.connection = pooled.driver_connection  # type: ignore[assignment]  # what it is
        try:
            if self.watch is not None and not looked:
                self.watch.refresh(connection)
            connection.autocommit = True
            yield connection
            connection.autocommit = False
        except BaseException as error:
            if connection.closed:
                # Those that idle beside it have most likely ended with it.
                pooled.invalidate()
                self.engine.dispose()
            elif not isinstance(error, psycopg2.Error):
                pooled.invalidate()
            else:
                connection.autocommit = False
            raise
        finally:
            pooled.close()

    def _alive(self) -> PoolProxiedConnection:
        """A pooled connection that PostgreSQL has not ended meanwhile.

        One that idles is told nothing else: where there is something to read, it is the end, most likely of all.
        """
        pooled = self.engine.raw_connection()
        connection: psycopg2.extensions.connection = pooled.driver_connection  # type: ignore[assignment]  # what it is
        now, used_at = time.monotonic(), pooled.info.get(_USED_AT, 0.0)
        pooled.info[_USED_AT] = now
        if now - used_at < _STILL_ALIVE or not _has_news(connection.fileno()):
            return pooled
        pooled.invalidate()
        pooled.close()
        self.engine.dispose()
        return self.engine.raw_connection()

    def _begun(self) -> Connection:
        """A connection whose transaction has begun.

        Beginning one talks to the server anyway (`make_engine`), so it tells of a pooled connection that died while
        it was idle, without a ping of its own. Then nothing was done yet, and the pool has dropped all of that age.
        """
        try:
            return self._begin()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return self._begin()

    def _begin(self) -> Connection:
        connection = self.engine.connect()
        try:
            if self.watch is not None:
                self.watch.refresh(connection.connection.driver_connection)  # type: ignore[arg-type]  # what it is
            connection.begin()
            if self.watch is not None and (guard := self.watch.guard) is not None:
                connection.exec_driver_sql(guard)
        except BaseException:
            connection.close()
            raise
        return connection


def _has_news(descriptor: int) -> bool:
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    return bool(look.poll(0))


def _may_be_tried_again(error: Exception, cause: BaseException | None, attempt: int) -> None:
    """Raise, unless it is a deadlock and not one too many."""
    if getattr(cause, "pgcode", None) not in {_SERIALIZATION, _DEADLOCK, OTHER_SERVER}:
        raise error
    if attempt == DEADLOCK_TRIES:
        raise StoreUnavailable(f"PostgreSQL: {DEADLOCK_TRIES} deadlocks in a row", hint=_HINT) from error


def jsonb(value: Any) -> str:
    """A value as JSON text, for a parameter cast to ``jsonb``."""
    return _dumps(value)


def jsonb_kept(value: Any) -> str:
    """As `jsonb` and faster, for what came out of JSON: a NaN would be written as null."""
    return json_text(value).decode()


__all__ = ["Transactions", "jsonb", "jsonb_kept", "make_engine", "text"]
