"""An agent of bytes: it listens, and a test says what it does with each connection. A pytest plugin.

Fixture: ``raw_agent``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

Behaviour = Callable[[socket.socket], None]
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"output": 1}'


class RawAgent:
    """Listens, and does with each connection what the test says; not one byte of HTTP by itself."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections = 0
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # the caller gave up, or the test is over
            self._behaviour(connection)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def raw_agent() -> Iterator[Callable[[Behaviour], RawAgent]]:
    started: list[RawAgent] = []

    def start(behaviour: Behaviour) -> RawAgent:
        started.append(RawAgent(behaviour))
        return started[-1]

    yield start
    for one in started:
        one.close()


def read_request(connection: socket.socket) -> None:
    """One request, its body included."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += some(connection)


def some(connection: socket.socket) -> bytes:
    """What comes next. Raises ConnectionError at the end."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("the caller left")
    return data


def answering(data: bytes) -> Behaviour:
    """Answers every request of a connection with these bytes."""

    def behave(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(data)

    return behave
