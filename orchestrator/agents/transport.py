"""One bounded HTTP exchange: a total deadline that a dripping server cannot stretch, a cap on bytes, no redirects.

`requests`' time-out bounds each wait for a byte, not their sum. So a watchdog closes the exchange's socket when its
time is up, wherever it is: waiting for headers, reading a body, or sending. Whether the request may have reached the
agent is known from the connection itself: `Broken.sent`.

Addresses are prepared by `requests`, once for each; exchanges go straight to the pool that it would use. Its sessions
merge settings, cookies and redirects for each request, none of which are wanted here, at the price of half a step.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError

from orchestrator.agents import connections

_LEAST_KEPT = 250
"""Idle connections kept to a host at least: they rest, so more are needed than calls run at once."""

_CHUNK = 16_384


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers, and the body; None where that is of no use, ``defect`` then says why."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    defect: str = ""


@dataclass(eq=False)
class _Guard:
    """One exchange under the watchdog."""

    ends_at: float
    sent: bool = False
    expired: bool = False
    _done: bool = False
    _socket: socket.socket | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        """The answer is read: time no longer matters, and the socket may be another exchange's from now on."""
        with self._lock:
            self._done = True
            self._socket = None

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

    @contextmanager
    def watch(self, seconds: float) -> Iterator[_Guard]:
        """Close what happens inside after this many seconds."""
        guard = _Guard(time.monotonic() + seconds)
        with self._changed:
            self._guards.add(guard)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="agent-deadlines", daemon=True)
                self._thread.start()
            if guard.ends_at < self._wakes_at:
                self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                due = [guard for guard in self._guards if guard.ends_at <= now and not guard.expired]
                if not due:
                    self._wakes_at = min((g.ends_at for g in self._guards if not g.expired), default=float("inf"))
                    pause = None if self._wakes_at == float("inf") else self._wakes_at - now
                    self._changed.wait(pause)
                    continue
            for guard in due:
                guard.expire()


_current = threading.local()
"""The guard of the exchange that this thread is in."""


class _Guarded:
    """Mixed into urllib3's connections: tells the guard its socket, and when bytes may have left."""

    sock: Any
    _idle_since = 0.0
    _parts: list[bytes] | None = None
    """What of a request is to be sent, until it is whole: head and body leave in one piece."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the connection this is mixed into
        _guard().attach(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> None:
        guard = _guard()
        if self.sock is not None and time.monotonic() - self._idle_since > connections.IDLE_LIMIT:
            self.close()  # type: ignore[attr-defined]  # of the connection this is mixed into
        if self.sock is None:
            self.connect()
        guard.attach(self.sock)
        # The clock itself is asked too: in a process that was stopped for a while the watchdog may wake up after us.
        if guard.expired or time.monotonic() >= guard.ends_at:
            guard.expired = True
            raise TimeoutError("the deadline passed before the request was sent")
        self._parts = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]  # of the connection this is mixed into
        finally:
            whole, self._parts = b"".join(self._parts), None
        guard.sent = True
        self.send(whole)
        self._idle_since = time.monotonic()

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)  # type: ignore[misc]  # of the connection this is mixed into
        else:
            self._parts.append(data)

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]  # of the connection this is mixed into
        self._idle_since = time.monotonic()
        return response


def _guard() -> _Guard:
    guard: _Guard = _current.guard
    return guard


class _PlainConnection(_Guarded, HTTPConnection):
    """http."""


class _TlsConnection(_Guarded, HTTPSConnection):
    """https."""


class _Releasing:
    """Mixed into urllib3's pools: a connection that comes back rests, out of the reach of its exchange's guard."""

    QueueCls: Any = connections.RestingQueue

    def _put_conn(self, conn: Any) -> None:
        _guard().release()
        super()._put_conn(conn)  # type: ignore[misc]  # of the pool this is mixed into


class _PlainPool(_Releasing, HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(_Releasing, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Transport:
    """Exchanges with agents; safe to share between threads.

    Args:
        concurrency: exchanges at once; twice as many idle connections to one host are kept.
        ca_file: CA certificates that https servers are checked by; None takes the public ones.
    """

    def __init__(self, concurrency: int, ca_file: Path | None = None) -> None:
        self._watchdog = _Watchdog()
        self._idle = max(_LEAST_KEPT, 2 * concurrency)
        self._ca_file = DEFAULT_CA_BUNDLE_PATH if ca_file is None else str(ca_file)
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def _pool(self, scheme: str, host: str, port: int) -> HTTPConnectionPool:
        """The connections to one host. Neither proxies nor .netrc of the machine: agents are reached as told."""
        key = (scheme, host, port)
        if (known := self._pools.get(key)) is not None:
            return known
        with self._lock:
            if key not in self._pools:
                self._pools[key] = (
                    _TlsPool(host, port, maxsize=self._idle, cert_reqs="CERT_REQUIRED", ca_certs=self._ca_file)
                    if scheme == "https"
                    else _PlainPool(host, port, maxsize=self._idle)
                )
            return self._pools[key]

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
        """Send one request and read its answer. Times are seconds.

        Raises:
            Broken: there is none, or it did not come in time.
        """
        with self._watchdog.watch(total) as guard:
            _current.guard = guard
            try:
                return self._exchange(method, url, headers, body, (min(connect, total), min(read, total)), max_bytes)
            except (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise _broken(error, guard, total) from error

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
        max_bytes: int,
    ) -> Answer:
        scheme, host, port, path = _prepared(url)
        response = self._pool(scheme, host, port).urlopen(
            method,
            path,
            body,
            headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=timeout[0], read=timeout[1]),
            preload_content=False,
            decode_content=False,
        )
        content, defect = None, ""
        try:
            content = _read(response, max_bytes)
            if content is None:
                defect = "larger than max_reply_bytes"
        except DecodeError as error:
            # Status and headers are whole: a refusal is one, whatever became of its words.
            defect = f"not {response.headers.get('Content-Encoding', '')[:50]}: {_reason(error)}"
        finally:
            if content is None:
                response.close()
            response.release_conn()
        if _guard().expired:
            raise TimeoutError("the deadline passed while the answer was read")
        return Answer(response.status, dict(response.headers), content, defect)


@lru_cache(maxsize=1024)
def _prepared(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of an address, as `requests` understands it.

    Raises:
        requests.RequestException: it is none.
    """
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    parts = urlsplit(str(prepared.url))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise requests.exceptions.InvalidURL(f"{url!r} is no address of http or https")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme, parts.hostname, port, prepared.path_url


def _read(response: BaseHTTPResponse, max_bytes: int) -> bytes | None:
    """The body, decompressed; None beyond the cap: the rest is neither read nor unpacked."""
    parts, size = [], 0
    for part in response.stream(_CHUNK, decode_content=True):
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


def _broken(error: Exception, guard: _Guard, total: float) -> Broken:
    if guard.expired:
        return Broken(f"no complete answer within {total:g} s", sent=guard.sent, timed_out=True)
    timed_out = isinstance(error, requests.Timeout | TimeoutError) or "timed out" in str(error).lower()
    return Broken(_reason(error), sent=guard.sent, timed_out=timed_out)


def _reason(error: BaseException) -> str:
    """The innermost cause, in its own words: requests and urllib3 wrap it twice."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        if inner is None or inner is seen:
            break
        seen = inner
    # urllib3 begins with the connection or pool it speaks of, as an object.
    return re.sub(r"^\w+(?:Connection|Pool)\([^)]*\): ", "", str(seen).strip()) or type(seen).__name__
