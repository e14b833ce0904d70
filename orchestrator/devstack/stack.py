"""The whole embedded stack as one context manager: three servers, and whatever runs beside them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from orchestrator.devstack.folder import DataFolder
from orchestrator.devstack.kafka import SESSION_TIMEOUT, KafkaBroker, ObjectStore
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.postgres import PostgresServer
from orchestrator.devstack.process import ManagedProcess, Restart
from orchestrator.devstack.server import Place, Progress, Server, silent
from orchestrator.devstack.valkey import ValkeyServer
from orchestrator.errors import DevStackError

DEFAULT_DATA_DIR = Path(".data")
"""Where `orchestrator dev` keeps its data: in the folder it is started from."""


class EmbeddedStack:
    """PostgreSQL, Valkey and a Kafka broker on free loopback ports, with their data in one folder.

    As a context manager it starts them in parallel and, on the way out (an exception, Ctrl-C and SIGTERM included),
    stops first what `supervise` started, then the servers. No child outlives this process, also after kill -9.

    Args:
        data_dir: their data; one stack at a time can use it. Data of PostgreSQL and Valkey survives, Kafka's does not.
        progress: takes a sentence about each thing that happens; called from several threads.
        restart: how a server that dies by itself is started again (same port, same data); None leaves it dead.
        postgres_options: such as ``{"fsync": "off"}`` (tests only).
        valkey_databases: how many numbered databases Valkey has.
        durable_kafka: keep the broker's records in files, so that they survive its end (needs a test dependency).
        namespaces: False acts as if user namespaces were forbidden.
        handle_signals: turn SIGTERM and SIGHUP into an orderly stop (exit code 128 + number), in the main thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        progress: Progress = silent,
        restart: Restart | None = Restart(),  # noqa: B008 - frozen
        postgres_options: Mapping[str, str] | None = None,
        valkey_databases: int = 16,
        durable_kafka: bool = False,
        namespaces: bool = True,
        handle_signals: bool = True,
    ) -> None:
        self._folder = DataFolder(data_dir)
        self._progress = progress
        self._restart = restart
        self._postgres_options = dict(postgres_options or {})
        self._valkey_databases = valkey_databases
        self._durable_kafka = durable_kafka
        self._namespaces = namespaces
        self._handle_signals = handle_signals
        self._old_handlers: dict[int, Any] = {}
        self._keeper: Keeper | None = None
        self._servers: tuple[Server, ...] = ()
        self._supervised: list[ManagedProcess] = []
        self._record_lock = threading.Lock()
        self._stopping = False

    # -- what there is

    @property
    def data_dir(self) -> Path:
        """The data folder, absolute."""
        return self._folder.path

    @property
    def logs(self) -> Path:
        """Folder of all log files."""
        return self.data_dir / "logs"

    @property
    def keeper(self) -> Keeper:
        """Starts processes that cannot outlive us.

        Raises:
            DevStackError: the stack does not run.
        """
        if self._keeper is None:
            raise DevStackError("the embedded stack is not running")
        return self._keeper

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """All children: the servers, then what `supervise` started."""
        return (*(server.process for server in self._servers), *self._supervised)

    def check(self) -> None:
        """See that the stack is whole; for a loop that waits while it runs.

        Raises:
            DevStackError: the keeper was killed, and with it every child.
        """
        if not self.keeper.alive:
            raise DevStackError(
                "the keeper process of the embedded stack was killed, and its death ended all servers and workers",
                hint=f"Start again; what is known is in {self.logs}.",
            )

    def env(self) -> dict[str, str]:
        """What a process of ours needs in its environment to use these servers. It holds passwords."""
        return {
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": self.valkey.url(),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_SESSION_TIMEOUT": str(SESSION_TIMEOUT),
        }

    # -- life

    def start(self) -> None:
        """Lock the folder, stop strays of an earlier run, start the servers in parallel.

        Raises:
            DevStackError: what failed, with the end of its log; whatever had started is stopped.
        """
        self._folder.open()
        try:
            self.logs.mkdir(exist_ok=True, mode=0o700)
            self._folder.stop_strays(self._progress)
            self._keeper = Keeper(self._folder.marker, self.logs / "keeper.log", self._note_processes)
            self._make_servers(self._keeper)
            self._start_servers()
            self._note_processes()
        except BaseException:
            self.stop()
            raise

    def supervise(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
        restart: Restart | None = Restart(),  # noqa: B008 - frozen
        grace: float = 10.0,
    ) -> ManagedProcess:
        """Start a program beside the servers and keep it running until the stack stops.

        Args:
            name: for messages, and for its log file ``logs/NAME.log``.
            env: added to our own environment and `env`.
            restart: how it is started again when it ends by itself; None leaves it ended.
            grace: seconds it gets to end after SIGTERM.

        Raises:
            DevStackError: it cannot be executed.
        """
        process = ManagedProcess(
            self.keeper,
            name,
            argv,
            env={**os.environ, **self.env(), **(env or {})},
            log=self.logs / f"{name}.log",
            cwd=cwd or Path.cwd(),
            restart=restart,
            grace=grace,
            notice=self._progress,
        )
        process.start()
        self._supervised.append(process)
        return process

    def stop(self) -> None:
        """Stop everything in order. Data stays. Another Ctrl-C or SIGTERM meanwhile kills at once."""
        self._stopping = True
        with self._hurried_by_signals():
            _in_parallel([process.stop for process in reversed(self._supervised)])
            _in_parallel([server.stop for server in self._servers])
        if self._keeper is not None:
            self._keeper.close()
            self._folder.record((), self._ports())
            self._keeper = None
        self._supervised.clear()
        self._folder.close()
        self._stopping = False

    def destroy(self) -> None:
        """Stop, then remove all data, wherever it lies."""
        homes = [server.home for server in self._servers if isinstance(server, PostgresServer)]
        self.stop()
        for path in (*homes, self.data_dir):
            shutil.rmtree(path, ignore_errors=True)

    def __enter__(self) -> Self:
        self._install_handlers()
        try:
            self.start()
        except BaseException:
            self._restore_handlers()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._restore_handlers()

    # -- parts

    def _make_servers(self, keeper: Keeper) -> None:
        def place(name: str) -> Place:
            return Place(
                folder=self.data_dir / name,
                log=self.logs / f"{name}.log",
                preferred_port=self._folder.last_port(name),
                notice=self._progress,
                restart=self._restart,
            )

        self.postgres = PostgresServer(
            keeper,
            place("postgres"),
            password=self._folder.password("postgres"),
            options=self._postgres_options,
            namespaces=self._namespaces,
        )
        self.valkey = ValkeyServer(
            keeper, place("valkey"), password=self._folder.password("valkey"), databases=self._valkey_databases
        )
        records = ObjectStore(keeper, place("objects")) if self._durable_kafka else None
        self.kafka = KafkaBroker(keeper, place("kafka"), records)
        self._servers = (self.postgres, self.valkey, self.kafka)

    def _start_servers(self) -> None:
        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="devstack") as pool:
            try:
                starts = [(server, pool.submit(server.start, self._progress)) for server in self._servers]
                failures = [(server, error) for server, start in starts if (error := start.exception()) is not None]
            except BaseException:
                for server in self._servers:
                    server.give_up.set()
                raise
        if len(failures) == 1:
            raise failures[0][1]
        if failures:
            raise DevStackError(
                "\n".join(f"{server.name}: {error}" for server, error in failures),
                hint=next(
                    (error.hint for _, error in failures if isinstance(error, DevStackError) and error.hint), None
                ),
            )

    def _ports(self) -> dict[str, int]:
        return {server.folder.name: server.port for server in self._servers if server.port}

    def _note_processes(self) -> None:
        with self._record_lock:
            keeper = self._keeper
            if keeper is not None and not self._stopping:
                self._folder.record([keeper.pid, *keeper.pids()], self._ports())

    # -- signals

    def _install_handlers(self) -> None:
        if not self._handle_signals or threading.current_thread() is not threading.main_thread():
            return

        def leave(number: int, _frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            self._old_handlers[number] = signal.signal(number, leave)

    def _restore_handlers(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers.clear()

    @contextlib.contextmanager
    def _hurried_by_signals(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def hurry(_number: int, _frame: FrameType | None) -> None:
            for process in self._supervised:
                process.signal(signal.SIGKILL)

        before = {number: signal.signal(number, hurry) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _in_parallel(calls: Sequence[Any]) -> None:
    if calls:
        with ThreadPoolExecutor(len(calls), thread_name_prefix="devstack-stop") as pool:
            for done in [pool.submit(call) for call in calls]:
                done.result()
