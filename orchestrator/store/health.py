"""What PostgreSQL says of itself and of our rights there, for `orchestrator doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from orchestrator.settings import Settings
from orchestrator.store.engine import Transactions, make_engine, text

_SERVER = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery() AS read_only
""")

_FORBIDDEN = text("""
    SELECT c.relname FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace)
      AND NOT has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')
    ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """The server as seen with our settings."""

    version: str
    read_only: bool
    forbidden_tables: tuple[str, ...]
    """Tables in our schema that this role may not read and write."""


def database_health(settings: Settings) -> DatabaseHealth:
    """Ask PostgreSQL.

    Raises:
        StoreUnavailable: it cannot be reached, or refuses the login.
    """
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1, application="orchestrator-doctor")

    def work(connection: Connection) -> DatabaseHealth:
        server = connection.execute(_SERVER).one()
        forbidden = tuple(row.relname for row in connection.execute(_FORBIDDEN))
        return DatabaseHealth(server.version, server.read_only, forbidden)

    try:
        return Transactions(engine).transact(work)
    finally:
        engine.dispose()
