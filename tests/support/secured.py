"""Doors with locks before the run's servers, which are built without: TLS, PostgreSQL's TLS, Kafka's SASL.

A `Door` listens on loopback, does what the lock asks of a client, and passes everything after it on. The protocols of
the locks are real; only who speaks them is ours. Certificates are in ``certificates/``: a CA, a server's for localhost
and 127.0.0.1 (their keys are worth nothing elsewhere), and a CA that signed nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

CERTIFICATES = Path(__file__).with_name("certificates")
CA, OTHER_CA = CERTIFICATES / "ca.pem", CERTIFICATES / "other-ca.pem"

Lock = Callable[[socket.socket, socket.socket], socket.socket]
"""Takes the client's socket and the server's; gives the client's to pass on from, or raises."""


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
    return context


def tls(client: socket.socket, _server: socket.socket) -> socket.socket:
    """TLS from the first byte on."""
    return server_tls().wrap_socket(client, server_side=True)


def postgres_tls(client: socket.socket, _server: socket.socket) -> socket.socket:
    """PostgreSQL's way: the client asks with eight bytes, the answer is S, then TLS."""
    request = exactly(client, 8)
    if request != b"\x00\x00\x00\x08\x04\xd2\x16\x2f":
        raise ConnectionError("this client does not ask for TLS")
    client.sendall(b"S")
    return server_tls().wrap_socket(client, server_side=True)


def exactly(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionError("the other side closed")
        data += part
    return data


class Door:
    """Listens on a free port of loopback, as a context manager.

    Args:
        to: ``host:port`` behind it.
        locks: what a client has to get through, outermost first.
        port: the port to listen on; a free one where not given.
    """

    def __init__(self, to: str, *locks: Lock, port: int = 0) -> None:
        host, _, number = to.rpartition(":")
        self._to = (host, int(number))
        self._locks = locks
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self.opened = 0
        """Clients that got through."""
        self._ended = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self._to) as server:
            try:
                for lock in self._locks:
                    client = lock(client, server)
                self.opened += 1
                self._pass_on(client, server)
            finally:
                client.close()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        others = {client: server, server: client}
        while not self._ended:
            pending = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if pending else select.select(list(others), [], [], 0.5)[0]
            for sock in ready:
                data = sock.recv(65_536)
                if not data:
                    return
                others[sock].sendall(data)
