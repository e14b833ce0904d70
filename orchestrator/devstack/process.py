"""A supervised child: its log file, how it is started again when it dies, how it is stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.devstack.keeper import Child, Keeper, RunAs
from orchestrator.errors import DevStackError

LOG_LIMIT = 20_000_000
"""Bytes; a longer log is put aside as ``….log.1`` at the next start."""


@dataclass(frozen=True)
class Restart:
    """When a child that ended by itself is started again: after ``first`` seconds, doubled each time up to ``most``.

    Whoever ran for ``steady`` seconds starts over at ``first``.
    """

    first: float = 0.2
    most: float = 10.0
    steady: float = 20.0

    def delay(self, in_a_row: int) -> float:
        """Seconds before restart number ``in_a_row`` (from 0)."""
        return min(self.most, self.first * 2.0 ** min(in_a_row, 30))


def log_tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log file, or a remark that it is empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 400 * lines))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


class ManagedProcess:
    """A program that runs until it is stopped.

    Args:
        argv: program and arguments; the program is looked up on the ``PATH`` of ``env`` by the keeper.
        env: its whole environment.
        log: file its output is appended to.
        restart: how it is started again when it ends by itself; None leaves it ended.
        stop_signal: asks it to end; after ``grace`` seconds its group is killed.
        before_start: called before each start, the restarts included.
        notice: told in a sentence when it dies and is started again.
    """

    def __init__(
        self,
        keeper: Keeper,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path = Path("/"),
        restart: Restart | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = 10.0,
        run_as: RunAs | None = None,
        before_start: Callable[[], None] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self.restarts = 0
        self._keeper = keeper
        self._env = dict(env)
        self._cwd = cwd
        self._restart = restart
        self._stop_signal = stop_signal
        self._grace = grace
        self._run_as = run_as
        self._before_start = before_start
        self._notice = notice
        self._lock = threading.RLock()
        self._child: Child | None = None
        self._wanted = False
        self._in_a_row = 0
        self._started_at = 0.0
        self._timer: threading.Timer | None = None

    @property
    def pid(self) -> int:
        """Process id of the present (or last) run; 0 before the first."""
        return self._child.pid if self._child is not None else 0

    @property
    def running(self) -> bool:
        """Whether it runs at this moment (False between death and restart)."""
        return self._child is not None and self._child.running

    @property
    def exit_code(self) -> int | None:
        """How the last run ended (negative: by that signal); None while it runs."""
        return self._child.exit_code if self._child is not None else None

    def set_restart(self, restart: Restart | None) -> None:
        """Change how it is started again from now on."""
        with self._lock:
            self._restart = restart

    def start(self) -> None:
        """Start it; does nothing where it runs.

        Raises:
            DevStackError: it cannot be executed.
        """
        with self._lock:
            if self.running:
                return
            self._wanted = True
            self._in_a_row = 0
            self._spawn()

    def stop(self, grace: float | None = None) -> int | None:
        """Stop it for good: the stop signal, then after ``grace`` seconds SIGKILL. Returns its exit code."""
        with self._lock:
            self._wanted = False
            child = self._child
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if child is None:
            return None
        child.signal(self._stop_signal)
        child.signal(signal.SIGCONT, group=True)  # one that was paused must hear it too
        if child.wait(self._grace if grace is None else grace) is None:
            child.signal(signal.SIGKILL, group=True)
            child.wait()
        return child.exit_code

    def kill(self) -> None:
        """Kill it at once (kill -9), its whole group; a restart policy then starts it again."""
        child = self._child
        if child is not None:
            child.signal(signal.SIGKILL, group=True)
            child.wait()

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens where it has ended."""
        if self._child is not None:
            self._child.signal(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code of the present run, or None if it still runs after ``timeout`` seconds."""
        return self._child.wait(timeout) if self._child is not None else None

    def log_text(self) -> str:
        """All it wrote so far, earlier runs included."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 25) -> str:
        """The last lines it wrote."""
        return log_tail(self.log, lines)

    def _spawn(self) -> None:
        if self._before_start is not None:
            self._before_start()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        self._started_at = time.monotonic()
        self._child = self._keeper.spawn(
            self.argv,
            env=self._env,
            cwd=self._cwd,
            log=self.log,
            stop_signal=self._stop_signal,
            run_as=self._run_as,
            on_exit=self._ended,
        )

    def _ended(self, child: Child) -> None:
        with self._lock:
            if child is not self._child or not self._wanted or self._restart is None or not self._keeper.alive:
                return
            if time.monotonic() - self._started_at >= self._restart.steady:
                self._in_a_row = 0
            self._start_again_later(f"{self.name} {how_it_ended(child.exit_code)}")

    def _start_again_later(self, what_happened: str) -> None:
        restart = self._restart
        if restart is None:
            return
        delay = restart.delay(self._in_a_row)
        self._in_a_row += 1
        if self._notice is not None:
            self._notice(f"{what_happened}; starting it again in {delay:.1f} s (log: {self.log})")
        self._timer = threading.Timer(delay, self._start_again)
        self._timer.daemon = True
        self._timer.start()

    def _start_again(self) -> None:
        with self._lock:
            if not self._wanted:
                return
            try:
                self._spawn()
            except (DevStackError, OSError) as error:
                self._start_again_later(f"{self.name} could not be started: {error}")
            else:
                self.restarts += 1


def how_it_ended(exit_code: int | None) -> str:
    """An exit code in words: "ended with exit code 1", "was ended by SIGKILL"."""
    if exit_code is None:
        return "still runs"
    if exit_code < 0:
        try:
            return f"was ended by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"was ended by signal {-exit_code}"
    return f"ended with exit code {exit_code}"


def plain_environment() -> dict[str, str]:
    """What a server needs of our environment, and nothing that could configure it behind our back."""
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}
