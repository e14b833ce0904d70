"""The keeper: a small process that starts every child of a stack and lets none outlive it.

Run by its path as a program (``python -I -S keeper_program.py``), standard library only, so that it starts in
milliseconds. It has one thread, so a child's parent-death signal fires exactly when the keeper dies; it is the
subreaper of all it starts, so grandchildren that lose their parent fall to it and are killed.

Requests come as JSON lines on stdin, events leave as JSON lines on stdout (`orchestrator.devstack.keeper` is the other
side). End of stdin means that the owner is gone, also by kill -9: everything is stopped, then the keeper ends.

::

    {"op": "spawn", "id": 1, "argv": [..], "env": {..}, "cwd": "/", "log": "/path", "stop_signal": 15, "run_as": null}
    {"op": "signal", "id": 1, "signal": 9, "group": false}
    {"op": "probe", "id": 2, "run_as": {..}}
    {"event": "started", "id": 1, "pid": 123}   {"event": "exited", "id": 1, "code": -9}
    {"event": "failed", "id": 1, "error": "text"}   {"event": "probed", "id": 2, "works": true}
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

OWNER_GONE_GRACE = 3.0  # seconds children get to end by themselves once the owner is gone
KILL_GRACE = 5.0  # seconds to see the killed ones gone
PARENT_CHECK = 1.0  # seconds between looks at who our parent is

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_HAS_PROC = os.path.isdir("/proc/self")  # noqa: PTH112 - pathlib costs a third of this program's start


def become(run_as: dict[str, Any] | None) -> None:
    """Take on another identity: ``{"kind": "namespace" | "user", "uid": …, "gid": …}``; None keeps ours.

    Raises:
        OSError: where the kernel does not allow it.
    """
    if run_as is None:
        return
    uid, gid = run_as["uid"], run_as["gid"]
    if run_as["kind"] == "user":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        return
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare(CLONE_NEWUSER): {os.strerror(number)}")
    for name, text in (
        ("setgroups", "deny"),  # the kernel asks for it before an unprivileged gid_map
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - as above
            file.write(text)


def _die_with(parent: int) -> None:
    if _HAS_PROC:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Keeper:
    """All children by the id that the owner gave them."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._stop_signals: dict[int, int] = {}
        self._pid = os.getpid()

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the owner; a closed pipe is noticed on stdin."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with contextlib.suppress(BrokenPipeError):
            os.write(1, line.encode())

    def handle(self, request: dict[str, Any]) -> None:
        """Carry out one request line."""
        operation = request["op"]
        if operation == "spawn":
            self._spawn(request)
        elif operation == "signal":
            self._signal(request["id"], request["signal"], group=request["group"])
        elif operation == "probe":
            self.emit("probed", id=request["id"], works=_works_in_a_fork(lambda: become(request["run_as"])))

    def _spawn(self, request: dict[str, Any]) -> None:
        run_as = request["run_as"]

        def prepare() -> None:
            try:
                become(run_as)
                _die_with(self._pid)
            except OSError as error:
                os.write(2, f"cannot start as {run_as}: {error}\n".encode())
                raise

        try:
            log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                child = subprocess.Popen(  # noqa: S603 - the owner's own argv
                    request["argv"],
                    env=request["env"],
                    cwd=request["cwd"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=prepare,  # safe: the keeper has one thread
                )
            finally:
                os.close(log)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self.emit("failed", id=request["id"], error=str(error))
            return
        self._children[request["id"]] = child
        self._stop_signals[request["id"]] = request["stop_signal"]
        self.emit("started", id=request["id"], pid=child.pid)

    def _signal(self, child_id: int, number: int, *, group: bool) -> None:
        child = self._children.get(child_id)
        if child is None:
            return  # it has ended; its pid may belong to somebody else by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(child.pid, number)

    def reap(self) -> None:
        """Collect whoever ended, and kill what they left behind."""
        ended = False
        while (pid := _ended_child()) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # before reaping: the group's number cannot be reused yet
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            for child_id, child in list(self._children.items()):
                if child.pid == pid:
                    child.returncode = code
                    del self._children[child_id]
                    self.emit("exited", id=child_id, code=code)
            ended = True
        if ended:
            self._kill_strays()

    def _kill_strays(self) -> None:
        """Processes that fell to us when their parent, our child, died."""
        known = {child.pid for child in self._children.values()}
        for pid in _children_of({self._pid}) - known:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Ask every child to end, wait a little, kill whatever is left, grandchildren included."""
        for child_id, number in list(self._stop_signals.items()):
            self._signal(child_id, number, group=False)
            self._signal(child_id, signal.SIGCONT, group=True)
        deadline = time.monotonic() + OWNER_GONE_GRACE
        while self._children and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)
        deadline = time.monotonic() + KILL_GRACE
        while time.monotonic() < deadline:
            for child in self._children.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            for pid in _descendants_of(self._pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            if not self._children and not _children_of({self._pid}):
                return
            time.sleep(0.01)


def _ended_child() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _works_in_a_fork(attempt: Callable[[], None]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _parents() -> dict[int, int]:
    """Each process's parent, from /proc; empty where there is none."""
    parents: dict[int, int] = {}
    if not _HAS_PROC:
        return parents
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return parents


def _children_of(pids: set[int]) -> set[int]:
    return {child for child, parent in _parents().items() if parent in pids}


def _descendants_of(pid: int) -> set[int]:
    parents = _parents()
    found: set[int] = set()
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation} - found
        found |= generation
    return found


def main() -> None:
    """Serve the owner until it closes the pipe, dies, or asks us to end by SIGTERM."""
    owner = os.getppid()
    if _HAS_PROC:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stop_asked = False

    def ask_to_stop(_number: int, _frame: object) -> None:
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)  # not SIG_IGN: children would inherit that

    keeper = Keeper()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    buffer = b""
    # A process that was forked from the owner may hold our pipe open: the owner's death is looked for as well.
    while not stop_asked and os.getppid() == owner:
        ready = {key.fd for key, _ in selector.select(PARENT_CHECK)}
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        keeper.reap()
        if 0 in ready:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                keeper.handle(json.loads(line))
    keeper.stop_all()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
