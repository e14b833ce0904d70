"""A program that runs an embedded stack, for tests that kill, signal or crash its owner.

    python -m tests.support.stack_program DATA_DIR [--namespaces no] [--stay SECONDS]

Once all runs, it prints one JSON line with the stack's addresses and processes, then waits (or, with ``--crash``, ends
by an exception). Beside the servers it runs a shell with a child and a grandchild in a session of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.errors import DevStackError

FAMILY = "sleep 1001 & setsid sleep 1002 & exec sleep 1003"


def main() -> int:
    """Run until a signal comes."""
    # A shell that ran the tests in the background has had them, and us, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--no-namespaces", action="store_true")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--leave", action="store_true", help="end at once, in order")
    options = parser.parse_args()
    try:
        with EmbeddedStack(options.data_dir, namespaces=not options.no_namespaces) as stack:
            stack.supervise("family", ["sh", "-c", FAMILY])
            said = {
                "env": stack.env(),
                "admin_url": stack.postgres.admin_url(),
                "keeper": stack.keeper.pid,
                "pids": {process.name: process.pid for process in stack.processes},
                "postgres_home": str(stack.postgres.home),
                "uid": os.getuid(),
            }
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            if options.crash:
                raise RuntimeError("as intended")
            if not options.leave:
                while True:
                    signal.pause()
    except DevStackError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
