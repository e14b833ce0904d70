"""The data folder of a stack: one stack at a time, its passwords and ports, and no stray process of an earlier one.

``lock`` is held by the running stack (the kernel lets go of it when the process dies, however it dies). ``stack.json``
says who runs: should even the keeper have been killed, the next start stops what is left. ``secrets.json`` holds the
servers' passwords, for this user's eyes only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.devstack.keeper import MARKER
from orchestrator.errors import DevStackError

_TERM_GRACE = 4.0  # a keeper whose owner just died needs 3 s to clear up by itself
_KILL_GRACE = 5.0


class DataFolder:
    """A locked data folder; `open` it first, `close` it last."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_fd: int | None = None

    @property
    def marker(self) -> str:
        """What tells the processes of this folder's stacks from all others."""
        return hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:20]

    def open(self) -> None:
        """Make the folder, lock it.

        Raises:
            DevStackError: another stack uses it, or it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DevStackError(
                f"the data folder {self.path} cannot be used: {error.strerror or error}",
                hint="Name a folder that this user may write to.",
            ) from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock_fd, 4096, 0).decode(errors="replace")
            os.close(lock_fd)
            raise DevStackError(
                f"another stack runs in {self.path}: {_describe(holder)}",
                hint=f"Stop it first (Ctrl-C where it runs, or: {_kill_command(holder)}), or take another data folder.",
            ) from None
        os.ftruncate(lock_fd, 0)
        holder = json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")})
        os.pwrite(lock_fd, holder.encode(), 0)
        self._lock_fd = lock_fd

    def close(self) -> None:
        """Let another stack use the folder."""
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None

    def password(self, name: str) -> str:
        """A random password, the same for every start in this folder."""
        path = self.path / "secrets.json"
        known: dict[str, str] = _read_json(path)
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            _write_json(path, known)
        return known[name]

    def last_port(self, server: str) -> int | None:
        """The port that a server had in the last run."""
        port = _read_json(self.path / "stack.json").get("ports", {}).get(server)
        return port if isinstance(port, int) else None

    def record(self, pids: Iterable[int], ports: dict[str, int]) -> None:
        """Note who runs and where, for the next start."""
        _write_json(
            self.path / "stack.json",
            {
                "ports": ports,
                "processes": [{"pid": pid, "started": born} for pid in pids if (born := _birth(pid)) is not None],
            },
        )

    def stop_strays(self, notice: Callable[[str], None]) -> None:
        """Stop what an earlier stack of this folder left: those it noted, and all that carry its marker.

        Raises:
            DevStackError: one of them cannot be stopped.
        """
        strays = self._strays()
        if not strays:
            return
        notice(f"stopping {len(strays)} processes that an earlier run left: {', '.join(map(str, sorted(strays)))}")
        for number, grace in ((signal.SIGTERM, _TERM_GRACE), (signal.SIGKILL, _KILL_GRACE)):
            for pid, born in strays.items():
                if _birth(pid) == born:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline:
                strays = self._strays()
                if not strays:
                    return
                time.sleep(0.02)
        raise DevStackError(
            f"processes of an earlier stack in {self.path} cannot be stopped: {', '.join(map(str, strays))}",
            hint="End them as the user they run as, then start again.",
        )

    def _strays(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for entry in _read_json(self.path / "stack.json").get("processes", []):
            if _birth(entry["pid"]) == entry["started"]:
                found[entry["pid"]] = entry["started"]
        mark = f"{MARKER}={self.marker}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    pid = int(process.name)
                    if pid != os.getpid() and (born := _birth(pid)) is not None:
                        found[pid] = born
        return found


def _birth(pid: int) -> str | None:
    """What tells a process from a later one with the same number; None where it has ended (zombies included)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else f"{boot}/{fields[19]}"


def _read_json(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is none or it was cut off."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace the file as a whole, readable by this user only."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)


def _describe(holder: str) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = json.loads(holder)
        return f"process {content['pid']}, since {content['since']}"
    return "its process is not known"


def _kill_command(holder: str) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"kill {int(json.loads(holder)['pid'])}"
    return "see `ps`"
