"""Free ports of the loopback interface."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from orchestrator.errors import DevStackError

LOOPBACK = "127.0.0.1"
_FIRST = 20_000
_TRIES = 500


def _last() -> int:
    """Below the ports that the kernel hands to outgoing connections: those come and go under a stopped server."""
    try:
        first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral = 32_768
    return first_ephemeral - 1 if first_ephemeral > _FIRST + 1_000 else 32_767


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that are still closing do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """``preferred`` where it is free, else a random free port. Another process may still take it first: try again.

    Raises:
        DevStackError: no port is free.
    """
    if preferred is not None and is_free(preferred):
        return preferred
    last = _last()
    for _ in range(_TRIES):
        port = random.randint(_FIRST, last)  # noqa: S311 - no secret
        if is_free(port):
            return port
    raise DevStackError(f"no free port between {_FIRST} and {last} on {LOOPBACK}")
