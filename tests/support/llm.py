"""A scripted OpenAI-compatible server in a process of its own, for tests of the planner and of whole workers.

As a pytest plugin (named in ``tests/conftest.py``) it gives the fixture ``llm_server``, with an empty
script for each test. llmock does the talking; `raw` answers what it cannot be told to: bodies that are no answer,
bodies that drip or break off.

    llm_server.script(says(tool("credit_score", input={"registration_number": "HRB 1"}, task="…", reason="…")))
    llm_server.script(fails(429, retry_after=2.5), says(tool("finish", reason="done")))
    llm_server.raw({"body": "<html>", "headers": {"content-type": "text/html"}})

Run as a module it is the server: ``python -m tests.support.llm --port 0``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agents import AgentProcess

Behaviour = dict[str, Any]
"""One of llmock's behaviours, as its control API takes it."""


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    """One tool call of an answer."""
    return {"name": name, "arguments": arguments}


def says(*calls: dict[str, Any], text: str | None = None, finish_reason: str | None = None) -> Behaviour:
    """An answer: tool calls, text, or both."""
    return {"type": "reply", "tool_calls": list(calls), "text": text, "finish_reason": finish_reason}


def fails(
    status: int, *, retry_after: float | None = None, code: str | None = None, message: str | None = None
) -> Behaviour:
    """An HTTP error in OpenAI's form."""
    return {"type": "fail", "status": status, "retry_after": retry_after, "code": code, "message": message}


def slow(seconds: float) -> Behaviour:
    """Hold the next answer back."""
    return {"type": "delay", "seconds": seconds}


def broken(kind: str) -> Behaviour:
    """Break the next tool call: ``malformed_arguments`` or ``unknown_tool``."""
    return {"type": "tool_fault", "kind": kind}


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """A raw answer with this message in OpenAI's form."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-test",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
    return {"body": json.dumps(body)}


class LlmServer(AgentProcess):
    """The server's process, with its script."""

    def __init__(self) -> None:
        super().__init__("tests.support.llm")

    @property
    def api_url(self) -> str:
        """What ``OPENAI_BASE_URL`` is set to."""
        return self.url("/v1")

    def script(self, *behaviours: Behaviour) -> None:
        """Queue behaviours; each is used up by one request."""
        self._post("/_llmock/scenario", {"behaviors": list(behaviours)})

    def raw(self, *answers: dict[str, Any]) -> None:
        """Queue answers that go before the script.

        Each has ``body`` (text), and may have ``status``, ``headers``, ``drip`` (seconds between single bytes) and
        ``short`` (bytes announced and never sent).
        """
        self._post("/_raw", {"answers": list(answers)})

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the script answered: ``body``, ``status``, ``sdk_retry_count``…"""
        with urllib.request.urlopen(self.url("/_llmock/requests"), timeout=10) as response:
            seen: list[dict[str, Any]] = json.load(response)["requests"]
        return seen

    def reset(self) -> None:
        """Forget script and requests."""
        self._post("/_llmock/reset", {})
        self._post("/_raw", {"answers": None})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self.url(path), json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            response.read()


@pytest.fixture(scope="session")
def llm_process() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def llm_server(llm_process: LlmServer) -> LlmServer:
    llm_process.reset()
    return llm_process


# -- the server -----------------------------------------------------------------------------------------------------


class _Raw:
    """ASGI: answers from the raw queue, else llmock's."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._answers: deque[dict[str, Any]] = deque()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path == "/_raw":
            order = json.loads(await _body_of(receive))
            if order["answers"] is None:
                self._answers.clear()
            else:
                self._answers.extend(order["answers"])
            await _send(send, {"status": 204, "body": ""})
        elif path.startswith("/v1/") and self._answers:
            await _body_of(receive)
            await _send(send, self._answers.popleft())
        else:
            await self._app(scope, receive, send)


async def _body_of(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body"):
            return body


async def _send(send: Any, answer: dict[str, Any]) -> None:
    body = answer["body"].encode()
    headers = {"content-type": "application/json", **answer.get("headers", {})}
    if answer.get("status", 200) != 204:
        headers["content-length"] = str(len(body) + answer.get("short", 0))
    raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.get("status", 200), "headers": raw_headers})
    size = 1 if "drip" in answer else max(1, len(body))
    for start in range(0, len(body), size):
        await send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
        # Pacing is what the test scripted, not a wait for something.
        await asyncio.sleep(answer.get("drip", 0))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    import socket

    import uvicorn
    from llmock.main import create_app

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    listening = socket.create_server(("127.0.0.1", port), backlog=256)

    def stop_with_parent() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server = uvicorn.Server(
        uvicorn.Config(_Raw(create_app()), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
    # The socket listens already: who connects from now on is served as soon as the loop runs.
    sys.stdout.write(f"ready: http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
