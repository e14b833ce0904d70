"""HTTP/1.1 as bytes: a request made of its parts, and the headers and the body of an answer.

The standard library reads heads and bodies of a known length, which is what nearly all agents send. Whatever is
packed, in chunks, or ends with the connection is read by urllib3.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping

from urllib3 import HTTPResponse

_CHUNK = 16_384

_BODYLESS = frozenset({"GET", "HEAD", "DELETE"})
"""Methods that need not say that they have no body."""

_EMPTY = frozenset({204, 304})
"""Statuses whose answers end with their head, whatever that says of a body."""

_header_fits = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*").fullmatch


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


def answer_headers(response: http.client.HTTPResponse) -> dict[str, str]:
    """Headers as the agent wrote them; one that came several times is named once, its values joined by commas."""
    names: dict[str, str] = {}
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        if "\n" in value:  # an old way to write long ones: https://www.rfc-editor.org/rfc/rfc9112#section-5.2
            value = " ".join(line.strip(" \t\r") for line in value.split("\n"))
        known = names.setdefault(name.lower(), name)
        headers[known] = f"{headers[known]}, {value}" if known in headers else value
    return headers


def answer_body(
    response: http.client.HTTPResponse, headers: Mapping[str, str], method: str, max_bytes: int
) -> bytes | None:
    """The body, unpacked; None beyond the cap: the rest is neither read nor unpacked.

    Raises:
        urllib3.exceptions.DecodeError: it is not packed as it says.
        urllib3.exceptions.HTTPError, http.client.HTTPException, OSError: it did not come whole.
    """
    if response.status in _EMPTY:
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
