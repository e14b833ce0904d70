"""Bringing the tables up to date, and knowing whether they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from orchestrator.errors import SchemaOutOfDate
from orchestrator.store.engine import Transactions, make_engine, text

_LOCK = 0x0A6E_0C4E
"""Advisory lock of migrations: of two upgrades at once the second waits and finds nothing to do."""

_STATEMENT_TIMEOUT, _LOCK_TIMEOUT = 300.0, 10.0


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run every migration up to ``revision``, in one transaction.

    Raises:
        StoreUnavailable: PostgreSQL cannot be reached, or a lock was not to be had in time; nothing was changed.
    """

    def work(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        command.upgrade(_config(connection), revision)

    with _transactions(database_url) as transactions:
        transactions.transact(work)


def current(database_url: str) -> str | None:
    """The revision of the tables; None where there are none.

    Raises:
        StoreUnavailable: PostgreSQL cannot be reached.
    """
    with _transactions(database_url) as transactions:
        return transactions.transact(_current)


def head() -> str:
    """The revision that this program expects."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def check(engine: Engine) -> None:
    """Make sure that the tables are those of this program.

    Raises:
        SchemaOutOfDate: they are missing, older, or unknown to this version.
        StoreUnavailable: PostgreSQL cannot be reached.
    """
    found, expected = Transactions(engine).transact(_current), head()
    if found == expected:
        return
    if found is None:
        what = "the database has no tables of ours yet"
    elif found in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}:
        what = f"the database is at revision {found}, this program needs {expected}"
    else:
        # Migrations expand first: an older program works on tables that a newer release has expanded.
        return
    raise SchemaOutOfDate(what, hint="Run `orchestrator db upgrade`.")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # ConfigParser would take a percent sign of the path for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _transactions(database_url: str) -> Iterator[Transactions]:
    engine = make_engine(
        database_url,
        pool_size=1,
        statement_timeout=_STATEMENT_TIMEOUT,
        lock_timeout=_LOCK_TIMEOUT,
        application="orchestrator-migrate",
    )
    try:
        yield Transactions(engine)
    finally:
        engine.dispose()
