"""One worker command, several processes: the first forks the others before it begins, so that what is loaded is shared.

A Python process uses at most one processor. Each of these is a Celery worker of its own, with a name of its own
(``celery@host``, ``celery-2@host``, …): Flower, leases and stops see nothing else. The first also watches over the
others. One that ends is started again, on its own this time, since a process with threads is not to be forked; all end
with the first, however it ends.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigurationError
from orchestrator.forking import await_exit, prepare_to_fork, when_parent_dies
from orchestrator.settings import environment_value, environment_with

log = logging.getLogger(__name__)

OF = "ORCHESTRATOR_WORKER_OF"
"""Environment variable of a process that is started again: the id of the first."""

_NOT_WITH = {"beat": "--beat", "pidfile": "--pidfile", "statedb": "--statedb"}
"""Options that name something which one process alone may have."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a process that ended is started again; doubled while each soon ends as well."""
_SOON = 30.0


def check_options(count: int, options: Mapping[str, Any]) -> None:
    """See to it that these options of ``celery worker`` go with several processes. Raises `ConfigurationError`."""
    found = sorted(flag for name, flag in _NOT_WITH.items() if options.get(name))
    if count > 1 and found:
        raise ConfigurationError(
            f"ORCHESTRATOR_PROCESSES={count} does not go with {', '.join(found)}",
            hint="Leave it out, or start several workers of one process each (--hostname tells them apart).",
        )


def started_by() -> int | None:
    """The id of the first process, where this one follows one that has ended."""
    found = environment_value(OF)
    return None if found is None else int(found)


class Others:
    """The processes beside the first, as it sees them."""

    def __init__(self) -> None:
        self._first = os.getpid()
        self._command: list[str] = []
        self._running: dict[int, str] = {}
        """Process id → its worker's name."""
        self._stopping = threading.Event()

    def begin(self, worker: Any, count: int, load: Callable[[], None]) -> None:
        """Fork; returns in each process, in the others with the worker's name changed. Called before anything runs.

        Args:
            worker: Celery's, with nothing but its name and app set.
            count: of all processes, this one included.
            load: loads what else all of them need; starts and connects nothing.
        """
        if (parent := started_by()) is not None:
            when_parent_dies(parent, _end)
        if count < 2:
            return
        _load(worker)
        load()
        prepare_to_fork()
        self._first, self._command = os.getpid(), _own_command()
        for number in range(2, count + 1):
            name = _name(worker.hostname, number)
            pid = os.fork()
            if pid == 0:
                worker.hostname = name
                self._running = {}
                when_parent_dies(self._first, _end)
                return
            self._running[pid] = name
        for pid, name in list(self._running.items()):
            threading.Thread(target=self._watch, args=(pid, name), name=f"watches-{name}", daemon=True).start()

    def ready(self) -> None:
        """This process works. Of several only the first begins anew on SIGHUP, as Celery has it, with new others."""
        if self._command and os.getpid() != self._first:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def stop(self) -> None:
        """Tell them to stop, as this one was told to. Safe in a signal handler, and more than once."""
        if os.getpid() != self._first:
            return  # a child of Celery's prefork pool has this from its parent
        self._stopping.set()
        for pid in list(self._running):
            _terminate(pid)

    def wait(self, seconds: float) -> None:
        """Wait until they have ended, but not for longer than this."""
        if os.getpid() != self._first:
            return
        give_up_at = time.monotonic() + seconds
        while self._running and time.monotonic() < give_up_at:
            time.sleep(0.05)

    def _watch(self, pid: int, name: str) -> None:
        """See to it that the process that was forked, and whichever follows it, is followed by another.

        Not one that ended in order: somebody told it to, by Celery's or Flower's own means.
        """
        pause, began = FIRST_PAUSE / 2, time.monotonic()
        code = await_exit(pid)
        while not self._has_ended(pid) and code != 0:
            pause = FIRST_PAUSE if time.monotonic() - began > _SOON else min(2 * pause, LONGEST_PAUSE)
            log.error("worker.process_ended", extra={"worker": name, "exit_code": code, "again_in_seconds": pause})
            if self._stopping.wait(pause):
                return
            began = time.monotonic()
            command, env = [*self._command, "--hostname", name], environment_with(**{OF: str(os.getpid())})
            process = subprocess.Popen(command, env=env)  # noqa: S603  # our own command
            pid = process.pid
            self._running[pid] = name
            if self._stopping.is_set():  # since `stop` looked
                _terminate(pid)
            code = process.wait()
        if not self._stopping.is_set():
            log.warning("worker.process_stopped", extra={"worker": name, "then": "it is not started again"})

    def _has_ended(self, pid: int) -> bool:
        """Note that a process has; whether it was meant to."""
        del self._running[pid]
        return self._stopping.is_set()


def _name(hostname: str, number: int) -> str:
    name, at, host = hostname.partition("@")
    return f"{name}-{number}{at}{host}"


def _own_command() -> list[str]:
    """This very command, wherever it is run: a program that is named by its place may be so by a relative one."""
    program, *rest = sys.orig_argv[1:]
    return [sys.executable, str(Path(program).resolve()) if Path(program).exists() else program, *rest]


def _load(worker: Any) -> None:
    """Load all that a worker loads when it starts."""
    from celery.worker.consumer import Consumer

    worker.app.loader.import_default_modules()
    for step in (*worker.Blueprint.default_steps, *Consumer.Blueprint.default_steps):
        importlib.import_module(step.partition(":")[0])
    importlib.import_module("kombu.transport.redis")
    importlib.import_module("concurrent.futures.thread")


def _end() -> None:
    log.warning("worker.first_process_died", extra={"then": "this one stops as well"})
    _terminate(os.getpid())


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return


others = Others()
"""Those of this process."""
