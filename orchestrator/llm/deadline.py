"""The HTTP client of ``openai:`` models, with a deadline and a size for the whole answer.

The client's own time-out starts anew with each piece that arrives, so a server that drips would hold a step for ever.
Imports openai: only `orchestrator.llm.planner` may import this module, and late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import openai

# The openai library stands on httpx2 since its version 3, on httpx before.
if TYPE_CHECKING or int(openai.__version__.split(".")[0]) >= 3:
    import httpx2 as httpx
else:
    import httpx

MAX_ANSWER_BYTES = 16_000_000

_DEADLINE = "orchestrator.deadline"


def openai_http_client(total: float, connect: float) -> httpx.Client:
    """A client for the openai library: ``total`` seconds from request to last byte, ``connect`` for connecting."""

    def start(request: httpx.Request) -> None:
        request.extensions = {**request.extensions, _DEADLINE: time.monotonic() + total}

    def watch(response: httpx.Response) -> None:
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Watched(response.stream, response.request)

    return openai.DefaultHttpxClient(
        timeout=httpx.Timeout(total, connect=connect), event_hooks={"request": [start], "response": [watch]}
    )


class _Watched(httpx.SyncByteStream):
    """An answer's bytes, until the deadline or the bound."""

    def __init__(self, stream: httpx.SyncByteStream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if time.monotonic() > self._request.extensions[_DEADLINE]:
                raise httpx.ReadTimeout("the answer took too long in all", request=self._request)
            if size > MAX_ANSWER_BYTES:
                raise httpx.ReadError(f"the answer exceeds {MAX_ANSWER_BYTES} bytes", request=self._request)
            yield piece

    def close(self) -> None:
        self._stream.close()
