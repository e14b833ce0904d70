"""The embedded PostgreSQL: a cluster in a folder, reached over loopback by password, without a superuser's rights.

The programs of the wheel are run directly. No unix socket: paths of sockets may not be long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

from orchestrator.devstack import wheels
from orchestrator.devstack.accounts import (
    account_for_postgres,
    can_reach,
    owned_folder,
    reachable_folder,
    readable_copy,
)
from orchestrator.devstack.keeper import Keeper, RunAs
from orchestrator.devstack.process import ManagedProcess, how_it_ended, plain_environment
from orchestrator.devstack.server import Place, Progress, Server
from orchestrator.errors import DevStackError

SUPERUSER = "postgres"
ROLE = "orchestrator"
DATABASE = "orchestrator"

_INITDB_TIMEOUT = 180.0


class PostgresServer(Server):
    """A PostgreSQL on loopback with a role and a database of ours.

    Args:
        password: of the superuser and of the role ``orchestrator``, which owns the database and is no superuser.
        options: settings such as ``{"fsync": "off"}`` (for tests only) or ``{"max_connections": "400"}``.
        namespaces: False acts as if user namespaces were forbidden (matters for root only).
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(
        self,
        keeper: Keeper,
        place: Place,
        *,
        password: str,
        options: Mapping[str, str] | None = None,
        namespaces: bool = True,
    ) -> None:
        super().__init__(keeper, place)
        self.password = password
        self._options = dict(options or {})
        self._namespaces = namespaces
        self._account: RunAs | None = None
        self._home = self.folder
        self._programs = Path()

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self._home / "data"

    @property
    def home(self) -> Path:
        """Where cluster and copies of programs lie: `folder`, or a stand-in for it that ``nobody`` can reach."""
        return self._home

    def url(self, database: str = DATABASE) -> str:
        """For ``DATABASE_URL``: the role without a superuser's rights."""
        return f"postgresql://{ROLE}:{self.password}@{self.address}/{database}"

    def admin_url(self, database: str = "postgres") -> str:
        """The superuser, for making databases and looking into the server."""
        return f"postgresql://{SUPERUSER}:{self.password}@{self.address}/{database}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database that the role owns, as a copy of ``template`` where one is given. Returns its URL."""
        statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template or "template1")
        )
        with self._admin() as admin, admin.cursor() as cursor:
            cursor.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, ending its sessions; nothing happens where there is none."""
        with self._admin() as admin, admin.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def argv(self) -> Sequence[str]:
        """The command line."""
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._options,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return (str(self._programs / "bin" / "postgres"), "-D", str(self.data), *settings)

    def run_as(self) -> RunAs | None:
        """Another account where we are root."""
        return self._account

    def prepare(self, progress: Progress) -> None:
        """Find account and programs; make the cluster where there is none yet."""
        self._programs = wheels.postgres_install()
        self._account = account_for_postgres(self._keeper, namespaces=self._namespaces)
        if self._account is not None and self._account.kind == "user":
            self._home = reachable_folder(self.folder, self._account)
            if not can_reach(self._programs / "bin" / "postgres", self._account):
                package = self._programs.parent
                libraries = package.with_name(package.name + ".libs")
                self._programs = readable_copy(
                    self._programs, libraries, self._home / f"programs-{version(wheels.POSTGRES)}"
                )
        if self.data.exists():
            self._check_version()
            if self._account is not None and self._account.kind == "user":
                owned_folder(self.data, self._account)
        else:
            progress("PostgreSQL: making its data folder (first start)")
            self._initdb()

    def before_start(self) -> None:
        """Remove the pid file of a crash: its number may by now belong to any process, and PostgreSQL would refuse.

        Nobody else runs on this folder (the stack's lock), unless a postmaster still answers to that number.
        """
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pid_file.read_text(encoding="utf-8").split()[0])
            if not _is_postgres(pid):
                pid_file.unlink()

    def answers(self) -> bool:
        """Log in, and see by its data folder that it is ours."""
        try:
            with self._admin() as admin, admin.cursor() as cursor:
                cursor.execute("SHOW data_directory")
                row = cursor.fetchone()
        except psycopg2.OperationalError:
            return False
        return row is not None and Path(row[0]).resolve() == self.data.resolve()

    def started(self) -> None:
        """Make the role and its database where they are missing."""
        with self._admin() as admin, admin.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
            if cursor.fetchone() is None:
                cursor.execute(
                    sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(
                        sql.Identifier(ROLE), sql.Literal(self.password)
                    )
                )
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(ROLE))
                )

    def hint_for(self, log: str) -> str | None:
        """What may be done about what PostgreSQL complains of."""
        if "shared memory" in log or "No space left" in log:
            return "PostgreSQL needs some room in /dev/shm and on the disk of its data folder."
        return None

    @contextlib.contextmanager
    def _admin(self) -> Iterator[connection]:
        admin = psycopg2.connect(self.admin_url(), connect_timeout=5)
        try:
            admin.autocommit = True
            yield admin
        finally:
            admin.close()

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        ours = version(wheels.POSTGRES).partition(".")[0]
        if made_by != ours:
            raise DevStackError(
                f"the data in {self.data} was made by PostgreSQL {made_by}; the installed wheel is version {ours}",
                hint=f"Remove {self.data} to begin anew, or take another data folder.",
            )

    def _initdb(self) -> None:
        """Make the cluster beside its place, then move it there: a broken-off attempt never looks like a cluster."""
        unfinished = self._home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self._home / "password.new"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self.password + "\n", encoding="utf-8")
        if self._account is not None and self._account.kind == "user":
            for path in (unfinished, password_file):
                os.chown(path, self._account.uid, self._account.gid)
        initdb = ManagedProcess(
            self._keeper,
            "initdb",
            (
                str(self._programs / "bin" / "initdb"),
                *("-D", str(unfinished), "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", str(password_file)),
                *("-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
                # Many rounds protect guessable passwords; ours is 190 random bits, and each login would pay.
                *("-c", "scram_iterations=1"),
            ),
            env=plain_environment(),
            log=self.log.with_name("initdb.log"),
            run_as=self._account,
        )
        try:
            initdb.start()
            deadline = time.monotonic() + _INITDB_TIMEOUT
            while (code := initdb.wait(0.1)) is None and time.monotonic() < deadline and not self.give_up.is_set():
                continue
        finally:
            initdb.stop(grace=0)
            password_file.unlink(missing_ok=True)
        if code != 0:
            raise DevStackError(
                f"initdb {how_it_ended(code)}; the end of its log {initdb.log}:\n{initdb.log_tail()}",
                hint=self.hint_for(initdb.log_text()),
            )
        unfinished.rename(self.data)


def _is_postgres(pid: int) -> bool:
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
