"""The agent that every contender calls: HTTP/1.1 with kept connections, as cheap as Python allows.

``POST /SECONDS`` answers ``{"output": {"value": "v"}}`` after so many seconds. Run: ``python -m benchmarks.agent``;
it prints ``ready: URL`` and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys

_BODY = b'{"output": {"value": "v"}}'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + str(len(_BODY)).encode() + b"\r\n\r\n"
) + _BODY


class Agent(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._waiting = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request; clients here never send a second one before the first is answered."""
        self._waiting += data
        head, found, body = self._waiting.partition(b"\r\n\r\n")
        if not found:
            return
        if len(body) < _content_length(head):
            return
        self._waiting = b""
        delay = float(head.split(b" ", 2)[1].lstrip(b"/") or 0)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_ANSWER)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Agent, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"ready: http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # Whoever started us holds the other end of our standard input.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
