"""The process that owns the embedded stack of one test run; started by `tests.support.stack`, which explains it.

    python -m tests.support.stack_host RUN_FOLDER

It waits for a byte in ``RUN_FOLDER/wanted`` (a named pipe), starts the stack, and describes it in ``stack.json``, or
the failure in ``error``. It ends, and removes the folder, when its stdin ends: then the test run is over,
however it ended.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path

# One numbered database of Valkey for each test that asks for it; the number wraps around.
VALKEY_DATABASES = 2_000


def _wait_until_wanted(folder: Path) -> bool:
    wanted = os.open(folder / "wanted", os.O_RDWR)  # also writing: without a writer it would be ready at once
    try:
        ready, _, _ = select.select([0, wanted], [], [])
        return 0 not in ready
    finally:
        os.close(wanted)


def _serve(folder: Path) -> None:
    from orchestrator.devstack.stack import EmbeddedStack  # late: a run of unit tests never gets here

    stack = EmbeddedStack(
        folder / "stack",
        handle_signals=False,
        postgres_options={
            "fsync": "off",  # tests only: their data need not survive the machine
            "synchronous_commit": "off",
            "max_connections": "500",
            "autovacuum_naptime": "10min",
        },
        valkey_databases=VALKEY_DATABASES,
    )
    try:
        stack.start()
        description = {
            "postgres": stack.postgres.address,
            "postgres_password": stack.postgres.password,
            "valkey": stack.valkey.address,
            "valkey_password": stack.valkey.password,
            "kafka": stack.kafka.bootstrap_servers,
            "logs": str(stack.logs),
        }
        _write(folder / "stack.json", json.dumps(description))
        while os.read(0, 4096):
            pass
    finally:
        stack.destroy()


def _write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.rename(path)


def main() -> None:
    """Serve one test run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then closes our stdin
    folder = Path(sys.argv[1])
    try:
        if _wait_until_wanted(folder):
            _serve(folder)
        shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        hint = getattr(error, "hint", None)
        _write(folder / "error", f"{error}\n{hint or ''}".strip())
        raise


if __name__ == "__main__":
    main()
