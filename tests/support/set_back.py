"""A PostgreSQL that goes back to an older state: the data folder put back, or a replica that lags behind takes over."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2

from orchestrator.devstack.postgres import PostgresServer


class SetBack:
    """The state of a server at one moment, and ways back to it."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._copy = server.home / "older"

    def keep(self) -> None:
        """Keep the present state; the server is away for a moment."""
        self._server.stop()
        _copy(self._server.data, self._copy)
        self._server.start()

    def put_back(self) -> None:
        """The data folder as it was: nothing in it tells of what came after."""
        self._replace()
        self._server.start()

    def replica_takes_over(self) -> None:
        """A replica that had come as far as that is promoted, at the same address."""
        self.replica_answers()
        self.promote()

    def replica_answers(self) -> None:
        """A replica that had come as far as that answers at the address, as a standby still."""
        self._replace()
        (self._server.data / "standby.signal").touch()
        self._server.start()

    def promote(self) -> None:
        """The replica takes over."""
        with closing(psycopg2.connect(self._server.admin_url())) as admin:
            admin.autocommit = True
            with admin.cursor() as cursor:
                cursor.execute("SELECT pg_promote()")
                assert cursor.fetchone() == (True,)

    def _replace(self) -> None:
        self._server.stop()
        shutil.rmtree(self._server.data)
        _copy(self._copy, self._server.data)


def _copy(source: Path, target: Path) -> None:
    # Owners as they are: the server does not run as root.
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
