"""HTTP/1.1 as bytes, nothing of sockets: a request made of its parts, and a usual answer taken apart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.domain.value import Value

_BODYLESS = frozenset({"GET", "HEAD", "DELETE"})
"""Methods that need not say that they have no body."""

EMPTY = frozenset({204, 304})
"""Statuses whose answers end with their head, whatever that says of a body."""

MOST_HEADERS = 100
"""Of an answer; the standard library's bound."""

_header_fits = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*").fullmatch

_usual_head = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~]*)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"
).match
_is_length = re.compile(r"[0-9]{1,15}").fullmatch


class Answer(Value, frozen=True):
    """What came back: status, headers, and the body; None where that is of no use, ``defect`` then says why."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    defect: str = ""


def request_bytes(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A whole request. ``Host``, ``Content-Length`` and that no packing is understood need not be among the headers.

    Args:
        target: path and query, percent-encoded.

    Raises:
        ValueError: a header would not be one, or would be more than one.
    """
    ours = {"Host": host, "Accept-Encoding": "identity"}
    if body is not None or method not in _BODYLESS:
        ours["Content-Length"] = str(len(body or b""))
    theirs = {name.lower() for name in headers}
    fields = [(name, value) for name, value in ours.items() if name.lower() not in theirs]
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in (*fields, *headers.items()):
        line = f"{name}: {value}"
        if _header_fits(line) is None:
            raise ValueError(f"the header {name!r} has characters that none may have")
        lines.append(line)
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


def usual_answer(received: bytes) -> tuple[Answer, bool] | None:
    """The answer that these first bytes of one are, where they are a whole one of the usual kind; None else.

    Of the usual kind is a body of a stated length, as it is, under a head that can be read in one way only: nearly all
    that agents send. Beside the answer is told whether the connection serves another call: not where the
    agent closes it, nor where more has come than the answer.
    """
    head = _usual_head(received)
    if head is None:
        return None
    lines = head[2].decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    fields: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name] = fields[name.lower()] = value.lstrip(" \t")
    status, length = int(head[1]), fields.get("content-length", "")
    if (
        len(fields) < len(lines) - 1  # a name came twice
        or len(fields) >= MOST_HEADERS
        or _is_length(length) is None
        or status in EMPTY
        or "transfer-encoding" in fields
        or "content-encoding" in fields
    ):
        return None
    end = head.end() + int(length)
    if len(received) < end:
        return None
    kept = len(received) == end and "close" not in fields.get("connection", "").lower()
    return Answer(status, headers, received[head.end() : end]), kept
