"""What a process is called in the leases that it takes, and whether one of that name has died.

A lease runs out by itself when its process dies. A process of the same machine sees it sooner: the name has the machine
in it, the boot, the process namespace (a container is a place of its own), the process id, and when the process began.
Who is merely stopped is alive.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path

_PROC = Path("/proc")
_BEGAN, _STATE = 19, 0
"""Fields of ``/proc/…/stat`` behind the name of the program."""


def place() -> str:
    """Where this process runs: the beginning of the names of all whose lives it can judge. Empty: nobody's."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((_PROC / "self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return ""
    return f"{socket.gethostname()}/{boot[:13]}/{namespace}:"


def own_name() -> str:
    """The name of this process, and of no other one anywhere."""
    began = _stat(os.getpid())
    when = began[_BEGAN] if began else "0"
    return f"{place() or socket.gethostname() + ':'}{os.getpid()}:{when}:{secrets.token_hex(4)}"


def has_died(owner: str) -> bool:
    """Whether the process of this name ran here and does not run any more. False where that cannot be told."""
    here = place()
    if not here or not owner.startswith(here):
        return False
    with contextlib.suppress(ValueError):
        pid, began, *_ = owner.removeprefix(here).split(":")
        stat = _stat(int(pid))
        if stat is None:
            return not _is_there(int(pid))
        return stat[_STATE] in "ZX" or stat[_BEGAN] != began
    return False


def _is_there(pid: int) -> bool:
    """Whether there is such a process; /proc may be mounted so that it hides those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat(pid: int) -> list[str] | None:
    """What the kernel says of a process; None where there is none. A program's name may have anything in it."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
