"""One bounded HTTP exchange: a total deadline that a dripping server cannot stretch, a cap on bytes, no redirects.

A socket's time-out bounds each wait for a byte, not their sum. So a watchdog closes the exchange's socket when its
time is up, wherever it is: waiting for headers, reading a body, or sending. Whether the request may have reached the
agent is known from how far the exchange came: `Broken.sent`.

Addresses are prepared by `requests`, once for each, and urllib3 opens the connections: it checks certificates. What
goes over them is sent here and read by `reading`. Sessions and pools of those two merge settings, cookies, redirects
and tries for each request, none of which are wanted here, at the price of half a step.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from orchestrator.agents.connections import IdleConnections
from orchestrator.agents.reading import innermost, read_answer
from orchestrator.agents.wire import Answer, request_bytes

_LEAST_KEPT = 250
"""Idle connections kept to a host at least: they rest, so more are needed than calls run at once."""

_PORTS = {"http": 80, "https": 443}

_target_fits = re.compile(r"/[!-~]*").fullmatch


class Broken(Exception):
    """No usable answer came.

    Args:
        sent: whether the request may have reached the agent.
        timed_out: whether a time-out or the deadline was the cause.
    """

    def __init__(self, detail: str, *, sent: bool, timed_out: bool) -> None:
        super().__init__(detail)
        self.sent = sent
        self.timed_out = timed_out


class _Guard:
    """One exchange under the watchdog, until ``ends_at`` (monotonic seconds)."""

    __slots__ = ("_done", "_lock", "_socket", "ends_at", "expired", "sent")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.sent = False
        self.expired = False
        self._done = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def sending(self) -> None:
        """From now on bytes may leave.

        Raises:
            TimeoutError: time is up, so none may.
        """
        # The clock itself is asked too: in a process that was stopped for a while the watchdog may wake up after us.
        if self.expired or time.monotonic() >= self.ends_at:
            self.expired = True
            raise TimeoutError("the deadline passed before the request was sent")
        self.sent = True

    def release(self) -> None:
        """The answer is read: time no longer matters, and the socket may be another exchange's from now on."""
        with self._lock:
            self._done = True
            self._socket = None

    def is_due(self, now: float) -> bool:
        """Whether its exchange is under way beyond its time and was not ended yet."""
        return self.ends_at <= now and not self.expired and not self._done

    def attach(self, sock: socket.socket | None) -> None:
        """Name the socket to close when time is up."""
        with self._lock:
            self._socket = sock
        if self.expired:
            self.expire()

    def expire(self) -> None:
        """Time is up."""
        with self._lock:
            if self._done:
                return
            self.expired = True
            if self._socket is not None:
                # Of the plain socket: an SSL socket's own shutdown would first send to a peer that may not read.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Watchdog:
    """One thread for all exchanges of a process; asleep where there are none."""

    def __init__(self) -> None:
        self._guards: set[_Guard] = set()
        self._changed = threading.Condition()
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None

    def watch(self, seconds: float) -> _Guard:
        """Close what is attached to the guard after this many seconds, until it is forgotten."""
        guard = _Guard(time.monotonic() + seconds)
        with self._changed:
            self._guards.add(guard)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="agent-deadlines", daemon=True)
                self._thread.start()
            if guard.ends_at < self._wakes_at:
                self._changed.notify()
        return guard

    def forget(self, guard: _Guard) -> None:
        """Its exchange is over."""
        with self._changed:
            self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                due = [guard for guard in self._guards if guard.is_due(now)]
                if not due:
                    self._wakes_at = min((g.ends_at for g in self._guards if g.ends_at > now), default=float("inf"))
                    pause = None if self._wakes_at == float("inf") else self._wakes_at - now
                    self._changed.wait(pause)
                    continue
            for guard in due:
                guard.expire()


@dataclass(frozen=True, slots=True, eq=False)
class _Host:
    """Where the agents of one scheme, host and port are reached.

    Args:
        header: the ``Host`` of its requests.
        new: makes a connection that is not open yet.
    """

    header: str
    new: Callable[[], HTTPConnection]
    idle: IdleConnections


class Transport:
    """Exchanges with agents; safe to share between threads.

    Args:
        concurrency: exchanges at once; twice as many idle connections to one host are kept, 250 at least.
        ca_file: CA certificates that https servers are checked by; None takes the public ones.
    """

    def __init__(self, concurrency: int, ca_file: Path | None = None) -> None:
        self._watchdog = _Watchdog()
        self._idle = max(_LEAST_KEPT, 2 * concurrency)
        self._ca_file = DEFAULT_CA_BUNDLE_PATH if ca_file is None else str(ca_file)
        self._hosts: dict[tuple[str, str, int], _Host] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            host.idle.close()

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        connect: float,
        read: float,
        total: float,
        max_bytes: int,
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            connect: seconds that each address of the host may take to connect, and the request to be sent.
            read: seconds that each wait for bytes of the answer may take.
            total: seconds that all of it may take.
            max_bytes: the largest body that is of use, unpacked.

        Raises:
            Broken: there is none, or it did not come in time.
        """
        guard = self._watchdog.watch(total)
        try:
            return self._exchange(guard, method, url, headers, body, min(connect, total), min(read, total), max_bytes)
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _broken(error, guard, total) from error
        finally:
            self._watchdog.forget(guard)

    def _exchange(
        self,
        guard: _Guard,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        connect: float,
        read: float,
        max_bytes: int,
    ) -> Answer:
        scheme, name, port, target = _prepared(url)
        host = self._host(scheme, name, port)
        request = request_bytes(method, target, host.header, headers, body)
        connection = host.idle.take() or host.new()
        usable = False
        try:
            sock = _opened(connection, connect)
            guard.attach(sock)
            guard.sending()
            whole = _send(sock, request, connect)
            answer, kept = _read(sock, method, read, max_bytes)
            usable = whole and kept
        finally:
            guard.release()
            if usable and not guard.expired:
                host.idle.give(connection)
            else:
                connection.close()
        if guard.expired:
            raise TimeoutError("the deadline passed while the answer was read")
        return answer

    def _host(self, scheme: str, name: str, port: int) -> _Host:
        """Neither proxies nor .netrc of the machine: agents are reached as told."""
        key = (scheme, name, port)
        if (known := self._hosts.get(key)) is not None:
            return known
        new: Callable[[], HTTPConnection] = (
            partial(HTTPSConnection, name, port, cert_reqs="CERT_REQUIRED", ca_certs=self._ca_file)
            if scheme == "https"
            else partial(HTTPConnection, name, port)
        )
        with self._lock:
            return self._hosts.setdefault(key, _Host(_host_header(*key), new, IdleConnections(self._idle)))


def _host_header(scheme: str, name: str, port: int) -> str:
    # Without the dot that keeps resolvers from adding a domain, and without an IPv6 address's zone: both are ours.
    known = name.rstrip(".")
    if ":" in known:
        known = f"[{known.partition('%')[0]}]"
    return known if port == _PORTS[scheme] else f"{known}:{port}"


def _opened(connection: HTTPConnection, seconds: float) -> socket.socket:
    """The connection's socket; opening it may take so many seconds."""
    if connection.sock is None:
        connection.timeout = seconds
        connection.connect()
    sock: socket.socket = connection.sock
    return sock


def _send(sock: socket.socket, request: bytes, seconds: float) -> bool:
    """Whether all went out: an agent may answer what it does not read to the end, and close; the answer counts.

    Raises:
        TimeoutError: it takes longer than these seconds; over TLS, a part of it does.
    """
    sock.settimeout(seconds)
    try:
        sock.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _read(sock: socket.socket, method: str, seconds: float, max_bytes: int) -> tuple[Answer, bool]:
    """As `read_answer`, waiting so long for each piece of it."""
    sock.settimeout(seconds)
    try:
        return read_answer(sock, method, max_bytes)
    except TimeoutError as error:
        raise TimeoutError(f"Read timed out. (read timeout={seconds:g})") from error


@lru_cache(maxsize=1024)
def _prepared(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of an address, as `requests` understands it.

    Raises:
        requests.RequestException: it is none.
    """
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    parts = urlsplit(str(prepared.url))
    if parts.scheme not in _PORTS or not parts.hostname:
        raise requests.exceptions.InvalidURL(f"{url!r} is no address of http or https")
    if _target_fits(prepared.path_url) is None:
        raise requests.exceptions.InvalidURL(f"{url!r} has characters that no address may have")
    port = parts.port or _PORTS[parts.scheme]
    # Of an IPv6 address the zone, which is percent-encoded in addresses and plain for the resolver.
    host = parts.hostname.replace("%25", "%", 1)
    return parts.scheme, host, port, prepared.path_url


def _broken(error: Exception, guard: _Guard, total: float) -> Broken:
    if guard.expired:
        return Broken(f"no complete answer within {total:g} s", sent=guard.sent, timed_out=True)
    timed_out = isinstance(error, requests.Timeout | TimeoutError) or "timed out" in str(error).lower()
    return Broken(innermost(error), sent=guard.sent, timed_out=timed_out)
