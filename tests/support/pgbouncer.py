"""PgBouncer in transaction mode before a PostgreSQL, where the machine has it (Debian's package ``pgbouncer``).

A client's connection then belongs to no session: each transaction may run on another of the server's connections, and
what one leaves behind in a session, another client finds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from urllib.parse import urlsplit

import psycopg2

from orchestrator.devstack.accounts import account_for_postgres
from orchestrator.devstack.keeper import Keeper, RunAs
from orchestrator.devstack.server import Place, Progress, Server

PROGRAM = "ORCHESTRATOR_TEST_PGBOUNCER"
"""Environment variable with the path of the program, where it is not on the PATH."""

_SETTINGS = """\
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 1000
query_wait_timeout = 20
server_login_retry = 1
"""
"""No ``ignore_startup_parameters``: what PgBouncer does not know is refused."""


def program() -> str | None:
    """Where PgBouncer is; None where this machine has none."""
    known = (os.environ.get(PROGRAM), shutil.which("pgbouncer"), shutil.which("pgbouncer", path="/usr/sbin"))
    return next((path for path in known if path), None)


class PgBouncer(Server):
    """Without login, on loopback only.

    Args:
        database_url: where it leads.
        pool: connections to the server.
    """

    name = "PgBouncer"

    def __init__(self, keeper: Keeper, place: Place, database_url: str, pool: int = 4) -> None:
        super().__init__(keeper, place)
        self._target = urlsplit(database_url)
        self._pool = pool
        self._account: RunAs | None = None
        self._settings = place.folder / "pgbouncer.ini"

    @property
    def database(self) -> str:
        """Name of the database."""
        return self._target.path.lstrip("/")

    def url(self) -> str:
        """For ``DATABASE_URL``."""
        return f"postgresql://{self._target.username}@{self.address}/{self.database}"

    def prepare(self, progress: Progress) -> None:
        """Find an account: it refuses to run as root."""
        super().prepare(progress)
        self._account = account_for_postgres(self._keeper)

    def run_as(self) -> RunAs | None:
        """Another account where we are root."""
        return self._account

    def before_start(self) -> None:
        """Write its configuration."""
        self._settings.write_text(
            _SETTINGS.format(
                host=self._target.hostname,
                port=self._target.port,
                user=self._target.username,
                password=self._target.password,
                listen_port=self.port,
                pool=self._pool,
            )
        )

    def argv(self) -> Sequence[str]:
        """The command line."""
        return (program() or "pgbouncer", str(self._settings))

    def answers(self) -> bool:
        """Ask it something."""
        try:
            connection = psycopg2.connect(self.url(), connect_timeout=5)
        except psycopg2.OperationalError:
            return False
        connection.close()
        return True
