"""What the three embedded servers share: a port, a start that waits until the server answers, a stop.

A server's own module says how it is configured, how one sees that it answers, and how it is asked to end.
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.devstack.keeper import Keeper, RunAs
from orchestrator.devstack.ports import LOOPBACK, free_port, is_free
from orchestrator.devstack.process import ManagedProcess, Restart, how_it_ended, log_tail, plain_environment
from orchestrator.errors import DevStackError

Progress = Callable[[str], None]
"""Takes one sentence about what happens now."""

READY_TIMEOUT = 60.0
_ATTEMPTS = 5  # each with another port, should somebody take ours first
_REMIND_EVERY = 5.0


def silent(_text: str) -> None:
    """A `Progress` that says nothing."""


@dataclass(frozen=True)
class Place:
    """Where a server lives, and how it is kept.

    Args:
        folder: data and configuration; made where it is missing.
        log: file for the server's output.
        port: the port to listen on; None takes a free one.
        preferred_port: taken where it is free and ``port`` is None (the one of the last run).
        restart: how it is started again when it dies by itself; None leaves it dead.
        notice: told in a sentence when it dies and is started again.
    """

    folder: Path
    log: Path
    port: int | None = None
    preferred_port: int | None = None
    restart: Restart | None = None
    notice: Callable[[str], None] | None = None


class Server(ABC):
    """A server on loopback, started by a keeper, which kills it should we die."""

    name: str
    stop_signal = signal.SIGTERM
    grace = 10.0

    def __init__(self, keeper: Keeper, place: Place) -> None:
        self.folder = place.folder
        self.log = place.log
        self.host = LOOPBACK
        self.port = place.port or 0
        self._fixed_port = place.port is not None
        self._preferred_port = place.preferred_port
        self._keeper = keeper
        self._restart = place.restart
        self._notice = place.notice
        self._process: ManagedProcess | None = None
        self.give_up = threading.Event()

    @property
    def process(self) -> ManagedProcess:
        """The server's process.

        Raises:
            DevStackError: it was never started.
        """
        if self._process is None:
            raise DevStackError(f"{self.name} was not started")
        return self._process

    @property
    def runs(self) -> bool:
        """Whether its process was started and has not ended."""
        return self._process is not None and self._process.running

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    def start(self, progress: Progress = silent) -> None:
        """Start it and wait until it answers. After a stop or kill: the same port and data again.

        Raises:
            DevStackError: with the end of its log.
        """
        begun = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.prepare(progress)
        for attempt in range(1, _ATTEMPTS + 1):
            self._choose_port()
            log_size = self.log.stat().st_size if self.log.exists() else 0
            self._process = self._new_process()
            self._process.start()
            if self._await_ready(progress):
                break
            said = self.log.read_bytes()[log_size:].decode("utf-8", errors="replace") if self.log.exists() else ""
            if self._fixed_port or attempt == _ATTEMPTS or is_free(self.port):
                raise DevStackError(
                    f"{self.name} {how_it_ended(self._process.exit_code)} while it started on port {self.port}; "
                    f"the end of its log {self.log}:\n{said[-3000:].strip() or log_tail(self.log)}",
                    hint=self.hint_for(said),
                )
            self.port = 0
        # Whoever asks for a restart (a test, the supervisor) wants the address that clients already know.
        self._fixed_port = True
        self.process.set_restart(self._restart)
        self.started()
        progress(f"{self.name} answers on {self.address} after {time.monotonic() - begun:.2f} s")

    def stop(self) -> None:
        """Ask it to end in an orderly way, kill it if it does not. Its data stays."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """kill -9, without a restart; `start` brings it back."""
        if self._process is not None:
            self._process.set_restart(None)
            self._process.kill()

    @abstractmethod
    def argv(self) -> Sequence[str]:
        """The command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers on its port, and is the one that we started."""

    def prepare(self, progress: Progress) -> None:  # noqa: B027 - most servers need nothing
        """Make what the server needs before its first start."""

    def started(self) -> None:  # noqa: B027 - as above
        """Do what the first client must do."""

    def before_start(self) -> None:  # noqa: B027 - as above
        """Clear up after a crash; called before each start, the supervised restarts included."""

    def environment(self) -> Mapping[str, str]:
        """Its whole environment."""
        return plain_environment()

    def run_as(self) -> RunAs | None:
        """Who the server runs as; None is us."""
        return None

    def hint_for(self, _log: str) -> str | None:
        """What a person may do about a failed start, from what the server said."""
        return None

    def _choose_port(self) -> None:
        if not self._fixed_port:
            self.port = free_port(self._preferred_port)
            self._preferred_port = None

    def _new_process(self) -> ManagedProcess:
        return ManagedProcess(
            self._keeper,
            self.name,
            self.argv(),
            env=self.environment(),
            log=self.log,
            stop_signal=self.stop_signal,
            grace=self.grace,
            run_as=self.run_as(),
            before_start=self.before_start,
            notice=self._notice,
        )

    def _await_ready(self, progress: Progress) -> bool:
        """True when it answers, False when it ended.

        Raises:
            DevStackError: it neither answers nor ends, or the stack is being stopped.
        """
        begun = time.monotonic()
        remind_at = begun + _REMIND_EVERY
        while self.process.running:
            if self.answers():
                return self.process.running
            now = time.monotonic()
            if now - begun > READY_TIMEOUT:
                self.stop()
                raise DevStackError(
                    f"{self.name} does not answer on {self.address} after {READY_TIMEOUT:.0f} s; "
                    f"the end of its log {self.log}:\n{log_tail(self.log)}"
                )
            if now > remind_at:
                remind_at = now + _REMIND_EVERY
                progress(f"{self.name} does not answer yet after {now - begun:.0f} s, waiting on")
            if self.give_up.wait(0.01):
                self.stop()
                raise DevStackError(f"{self.name}: the start was broken off")
        return False
