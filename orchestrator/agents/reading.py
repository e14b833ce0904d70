"""One answer read from a socket, whole or not at all.

What comes in one piece and is of the usual kind is taken apart by `wire`. All else is read by those who know all that
HTTP may look like: the standard library reads heads and bodies of a known length, urllib3 what is packed, in chunks,
or ends with the connection.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from urllib3 import HTTPResponse
from urllib3.exceptions import DecodeError, ReadTimeoutError

from orchestrator.agents.wire import EMPTY, Answer, usual_answer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 16_384
_BUFFER = 8_192
"""The same on every Python: how much is read ahead decides what of an agent's surplus is seen where."""


def read_answer(sock: socket.socket, method: str, max_bytes: int) -> tuple[Answer, bool]:
    """The answer, and whether the connection serves another call: the agent keeps it, and sent nothing else on it.

    Args:
        sock: its time-out bounds each wait for bytes.
        method: of the request.
        max_bytes: the largest body that is of use, unpacked.

    Raises:
        TimeoutError: no byte came in time.
        urllib3.exceptions.HTTPError, http.client.HTTPException, OSError: it is no answer, or it did not come whole.
    """
    first = sock.recv(_CHUNK)
    usual = usual_answer(first) if method != "HEAD" else None
    if usual is not None and len(usual[0].body or b"") <= max_bytes:
        answer, kept = usual
    else:
        answer, kept = _any_answer(sock, first, method, max_bytes)
    # What TLS has unpacked already no longer lies in the socket, where a connection at rest is looked at.
    return answer, kept and not (isinstance(sock, ssl.SSLSocket) and sock.pending())


def _any_answer(sock: socket.socket, first: bytes, method: str, max_bytes: int) -> tuple[Answer, bool]:
    begun = _Begun(sock, first)
    response = http.client.HTTPResponse(cast("socket.socket", begun), method=method)  # it only asks for a file
    try:
        response.begin()
        if response.status < 200:
            raise http.client.HTTPException(f"{response.status} came, which only announces the answer")
        headers = _headers(response)
        body, defect = None, ""
        try:
            body = _body(response, headers, method, max_bytes)
            if body is None:
                defect = "larger than max_reply_bytes"
        except DecodeError as error:
            # Status and headers are whole: a refusal is one, whatever became of its words.
            defect = f"not {response.getheader('Content-Encoding', '')[:50]}: {innermost(error)}"
        kept = body is not None and response.isclosed() and not response.will_close
    except ReadTimeoutError as error:
        raise TimeoutError(str(error)) from error
    finally:
        response.close()
    return Answer(response.status, headers, body, defect), kept and not begun.file.more


class _Begun:
    """What the standard library takes for a socket: one of which the first bytes were read before."""

    def __init__(self, sock: socket.socket, first: bytes) -> None:
        self.file = _File(_Raw(sock, first))

    def makefile(self, _mode: str) -> _File:
        return self.file


class _Raw(io.RawIOBase):
    def __init__(self, sock: socket.socket, first: bytes) -> None:
        self._sock = sock
        self._first = first
        self._ended = not first

    def readable(self) -> bool:
        return True

    def end(self) -> None:
        """From now on nothing more comes."""
        self._ended = True

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer)
        if self._first:
            part, self._first = self._first[: len(room)], self._first[len(room) :]
            room[: len(part)] = part
            return len(part)
        return 0 if self._ended else self._sock.recv_into(room)


class _File(io.BufferedReader):
    """Knows when it is closed whether more had come than was asked for."""

    more = False

    def __init__(self, raw: _Raw) -> None:
        super().__init__(raw, _BUFFER)
        self._end = raw.end

    def close(self) -> None:
        if not self.closed:
            self._end()
            self.more = bool(self.peek(1))
        super().close()


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    """Headers as the agent wrote them; one that came several times is named once, its values joined by commas."""
    names: dict[str, str] = {}
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        if "\n" in value:  # an old way to write long ones: https://www.rfc-editor.org/rfc/rfc9112#section-5.2
            value = " ".join(line.strip(" \t\r") for line in value.split("\n"))
        known = names.setdefault(name.lower(), name)
        headers[known] = f"{headers[known]}, {value}" if known in headers else value
    return headers


def _body(response: http.client.HTTPResponse, headers: Mapping[str, str], method: str, max_bytes: int) -> bytes | None:
    """The body, unpacked; None beyond the cap: the rest is neither read nor unpacked.

    Raises:
        urllib3.exceptions.DecodeError: it is not packed as it says.
        urllib3.exceptions.HTTPError, http.client.HTTPException, OSError: it did not come whole.
    """
    if response.status in EMPTY:
        response.close()
        return b""
    fields = {name.lower(): value for name, value in headers.items()}
    if _is_plain(response, fields):
        return _plain_body(response, max_bytes)
    wrapped = HTTPResponse(
        response,
        headers,
        response.status,
        preload_content=False,
        original_response=response,
        request_method=method,
    )
    parts, size = [], 0
    for part in wrapped.stream(_CHUNK, decode_content=True):
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


def _is_plain(response: http.client.HTTPResponse, fields: Mapping[str, str]) -> bool:
    """Whether the body is so many bytes, as they are. A length that is given twice is for urllib3 to judge."""
    return (
        response.length is not None
        and fields.get("content-length", "0").isdecimal()
        and "transfer-encoding" not in fields
        and fields.get("content-encoding", "identity").lower() == "identity"
    )


def _plain_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes | None:
    parts, size = [], 0
    while part := response.read(_CHUNK):
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    body = b"".join(parts)
    if response.length:  # the standard library takes the end of the connection for the end of the body
        raise http.client.IncompleteRead(body, response.length)
    return body


def innermost(error: BaseException) -> str:
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
