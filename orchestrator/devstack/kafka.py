"""The embedded broker of Kafka's protocol: Tansu, memory only.

Its records are gone when it ends and its offsets start at 0 again; PostgreSQL remembers what was accepted. A group's
first join takes half the session timeout: consumers of it want a short one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from orchestrator.devstack import wheels
from orchestrator.devstack.server import Server

SESSION_TIMEOUT = 4.0
"""Seconds; the session timeout that suits this broker: a first join then takes 2 s."""

_API_VERSIONS = 18
_CORRELATION = 7


class KafkaBroker(Server):
    """A broker without login, on loopback only."""

    name = "Kafka broker"
    # It drains for 5 s after SIGTERM while clients are connected, and has nothing to save.
    grace = 0.2

    @property
    def bootstrap_servers(self) -> str:
        """For ``KAFKA_BOOTSTRAP_SERVERS``."""
        return self.address

    def argv(self) -> Sequence[str]:
        """The command line."""
        url = f"tcp://{self.address}"
        return (
            str(wheels.kafka_broker()),
            "broker",
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        )

    def answers(self) -> bool:
        """Ask for the versions it speaks, the first request of every Kafka client."""
        # size, then: API, version 0, correlation id, client id null
        request = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, -1)
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                connection.sendall(struct.pack(">i", len(request)) + request)
                answer = connection.recv(8)
        except OSError:
            return False
        return len(answer) == 8 and struct.unpack(">ii", answer)[1] == _CORRELATION
