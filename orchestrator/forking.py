"""Processes that fork others before anything runs, and processes that end with the one that they come from."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable

LOOK_EVERY = 0.5
"""Seconds after which a process notices that its parent has died."""


def prepare_to_fork() -> None:
    """Have what is loaded shared with the processes forked next, and their ends told of. Called before any thread."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as a shell may leave it, nobody is told of an end
    gc.collect()
    gc.freeze()  # what is there now is never garbage: looking at it would copy it


def await_exit(pid: int) -> int:
    """Wait for the end of a process that was forked here; its exit code, that of a signal negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def when_parent_dies(parent: int, then: Callable[[], None]) -> None:
    """Call this, in a thread, once the process of this id is not the parent of this one any more."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        then()

    threading.Thread(target=look, name="watches-parent", daemon=True).start()
