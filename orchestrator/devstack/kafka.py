"""The embedded broker of Kafka's protocol: Tansu, in memory, or in files where a test restarts it.

In memory its records are gone when it ends and its offsets start at 0 again; PostgreSQL remembers what was accepted. A
group's first join takes half the session timeout: consumers of it want a short one. It notes a producer's sequence
number before it keeps the record: killed in between, it refuses the repeated record as one that it has.
"""

from __future__ import annotations

import socket
import struct
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from urllib.error import URLError

from orchestrator.devstack import wheels
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.process import plain_environment
from orchestrator.devstack.server import Place, Progress, Server

SESSION_TIMEOUT = 4.0
"""Seconds; the session timeout that suits this broker: a first join then takes 2 s."""

_BUCKET = "tansu"
_API_VERSIONS = 18
_CORRELATION = 7


class ObjectStore(Server):
    """Files behind an S3 interface, where a durable broker keeps its records. Checks no credentials: tests only."""

    name = "Object store"
    grace = 1.0

    def argv(self) -> Sequence[str]:
        """The command line."""
        return (sys.executable, str(wheels.object_store()), "--port", str(self.port), str(self.folder))

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002 - has nothing to tell
        """Make the bucket: it is a folder."""
        (self.folder / _BUCKET).mkdir(parents=True, exist_ok=True)

    def answers(self) -> bool:
        """Ask for the list of buckets."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


class KafkaBroker(Server):
    """A broker without login, on loopback only.

    Args:
        store: where its records survive its end; None keeps them in memory.
    """

    name = "Kafka broker"
    # It drains for 5 s after SIGTERM while clients are connected, and has nothing to save.
    grace = 0.2

    def __init__(self, keeper: Keeper, place: Place, store: ObjectStore | None = None) -> None:
        super().__init__(keeper, place)
        self.store = store

    def prepare(self, progress: Progress) -> None:
        """Start what it keeps its records in, unless that runs."""
        if self.store is not None and not self.store.runs:
            self.store.start(progress)

    def stop(self) -> None:
        """Stop it, then what it keeps its records in."""
        super().stop()
        if self.store is not None:
            self.store.stop()

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
            "memory://tansu/" if self.store is None else f"s3://{_BUCKET}/",
        )

    def environment(self) -> Mapping[str, str]:
        """Where its records go, and credentials that nobody checks."""
        if self.store is None:
            return super().environment()
        return {
            **plain_environment(),
            "AWS_ENDPOINT": f"http://{self.store.address}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_DEFAULT_REGION": "local",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }

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
