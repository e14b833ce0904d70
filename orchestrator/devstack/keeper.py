"""The owner's side of the keeper: start children, signal them, hear how they end.

What happens inside the keeper process is in `keeper_program`; restarts and logs are in `process`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.errors import DevStackError

MARKER = "ORCHESTRATOR_DEVSTACK"
"""Environment variable that every child carries, so that strays of a dead stack are found by it."""

_PROGRAM = Path(__file__).with_name("keeper_program.py")
_ANSWER_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0  # above the two graces of the keeper program


@dataclass(frozen=True)
class RunAs:
    """Another identity for a child.

    Args:
        kind: ``namespace`` shows the child our own user under the number ``uid`` (files stay ours);
            ``user`` really becomes ``uid`` (only root can).
    """

    kind: Literal["namespace", "user"]
    uid: int
    gid: int

    def as_json(self) -> dict[str, Any]:
        """As the keeper program takes it."""
        return {"kind": self.kind, "uid": self.uid, "gid": self.gid}


class Child:
    """One started process; made by `Keeper.spawn`."""

    def __init__(self, keeper: Keeper, number: int, on_exit: Callable[[Child], None] | None) -> None:
        self._keeper = keeper
        self._number = number
        self._on_exit = on_exit
        self._answered = threading.Event()
        self._ended = threading.Event()
        self.pid = 0
        self.error: str | None = None
        self.exit_code: int | None = None

    @property
    def running(self) -> bool:
        """Whether it has started and not ended."""
        return self.pid != 0 and not self._ended.is_set()

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code (negative: the signal that ended it), or None if it still runs after ``timeout`` seconds."""
        self._ended.wait(timeout)
        return self.exit_code

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group; nothing happens if it has ended."""
        self._keeper.request({"op": "signal", "id": self._number, "signal": int(number), "group": group})

    def handle(self, event: dict[str, Any]) -> None:
        """Take in what the keeper says of this child (called on the keeper's reading thread)."""
        if event["event"] == "started":
            self.pid = event["pid"]
            self._answered.set()
        elif event["event"] == "failed":
            self.error = event["error"]
            self._ended.set()
            self._answered.set()
        elif event["event"] == "exited" and not self._ended.is_set():
            self.exit_code = event["code"]
            self._ended.set()
            self._answered.set()

    def tell(self) -> None:
        """Call ``on_exit``."""
        if self._on_exit is not None:
            self._on_exit(self)

    def await_start(self) -> None:
        """Block until it runs.

        Raises:
            DevStackError: it could not be executed.
        """
        if not self._answered.wait(_ANSWER_TIMEOUT):
            raise DevStackError("the keeper process does not answer")
        if self.error is not None:
            raise DevStackError(self.error)


class Keeper:
    """A running keeper process.

    Args:
        marker: what `MARKER` says in the environment of every child.
        log: file for the keeper's own complaints.
        on_change: called (on any thread) when a child was started or ended.
    """

    def __init__(self, marker: str, log: Path, on_change: Callable[[], None] | None = None) -> None:
        self._marker = marker
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}
        self._probes: dict[int, tuple[threading.Event, list[bool]]] = {}
        self._lock = threading.Lock()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd="/",
                start_new_session=True,  # the terminal's Ctrl-C is for the owner, who then stops things in order
            )
        # Callbacks have a thread of their own: one that starts a process waits for the reading thread.
        self._exits: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="keeper", daemon=True)
        self._teller = threading.Thread(target=self._tell, name="keeper-exits", daemon=True)
        self._reader.start()
        self._teller.start()

    @property
    def pid(self) -> int:
        """Process id of the keeper."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        with self._lock:
            return [child.pid for child in self._children.values() if child.running]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        stop_signal: int,
        run_as: RunAs | None = None,
        on_exit: Callable[[Child], None] | None = None,
    ) -> Child:
        """Start a program in a process group of its own, its output going to the end of ``log``.

        ``stop_signal`` is what the keeper sends should the owner die. ``on_exit`` is called on another thread.

        Raises:
            DevStackError: it cannot be executed.
        """
        number = next(self._numbers)
        child = Child(self, number, on_exit)
        with self._lock:
            self._children[number] = child
        self.request(
            {
                "op": "spawn",
                "id": number,
                "argv": list(argv),
                "env": {**env, MARKER: self._marker},
                "cwd": str(cwd),
                "log": str(log),
                "stop_signal": int(stop_signal),
                "run_as": run_as.as_json() if run_as is not None else None,
            }
        )
        try:
            child.await_start()
        except DevStackError as error:
            raise DevStackError(f"cannot start {argv[0]}: {error}", hint=f"Its log is {log}.") from None
        self._changed()
        return child

    def can_become(self, run_as: RunAs) -> bool:
        """Whether this machine lets us start children as ``run_as``."""
        number = next(self._numbers)
        answer: tuple[threading.Event, list[bool]] = (threading.Event(), [])
        with self._lock:
            self._probes[number] = answer
        self.request({"op": "probe", "id": number, "run_as": run_as.as_json()})
        answer[0].wait(_ANSWER_TIMEOUT)
        return bool(answer[1] and answer[1][0])

    def request(self, request: dict[str, Any]) -> None:
        """Write one request; a keeper that is gone is noticed by the reading thread."""
        data = json.dumps(request).encode() + b"\n"
        pipe = self._process.stdin
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            if pipe is not None:
                pipe.write(data)
                pipe.flush()

    @property
    def alive(self) -> bool:
        """False once the keeper died or was closed; all its children are then dead as well."""
        return self._reader.is_alive()

    def close(self) -> None:
        """Stop whatever still runs (by its stop signal, after 3 s by SIGKILL) and end the keeper."""
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_TIMEOUT)
        self._teller.join(_STOP_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        for line in stdout:
            event = json.loads(line)
            with self._lock:
                child = self._children.get(event["id"])
                probe = self._probes.pop(event["id"], None)
                if event["event"] in {"exited", "failed"}:
                    self._children.pop(event["id"], None)
            if probe is not None:
                probe[1].append(event["works"])
                probe[0].set()
            elif child is not None:
                child.handle(event)
                if event["event"] == "exited":
                    self._exits.put(child)
        # The keeper is gone; its death killed the children.
        with self._lock:
            left = list(self._children.values())
            self._children.clear()
            probes = list(self._probes.values())
        for child in left:
            child.handle({"event": "exited", "code": -9})
            self._exits.put(child)
        for event_and_answer in probes:
            event_and_answer[0].set()
        self._exits.put(None)

    def _tell(self) -> None:
        while (child := self._exits.get()) is not None:
            child.tell()
            self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()
