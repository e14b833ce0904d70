"""HTTP agents in processes of their own, for tests: `ScriptedAgent`, which obeys the test, and the sample agents.

As a pytest plugin (``pytest_plugins = ["tests.support.agents"]``) it gives the fixtures ``scripted_agent`` (fresh
scripts and ledger for each test) and ``sample_agents`` (one process for the session).

    scripted_agent.script("/score", reply({"credit_score": 80}))
    scripted_agent.script("/mail", problem(503, retry_after=1), lost_reply({"id": "N-1"}), idempotent=True)
    …
    assert scripted_agent.ledger().effects == {key: 1}
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest

ROOT = Path(__file__).resolve().parents[2]

Answer = dict[str, Any]
"""One scripted answer; all its parts are listed in `tests.support.scripted_server`. The functions below make them."""


def reply(output: Any, **parts: Any) -> Answer:
    """200 with an output; ``parts`` are further parts of an answer, such as ``delay=0.5`` or ``gate="go"``."""
    return {"status": 200, "body": {"output": output}, **parts}


def problem(status: int, title: str = "Refused", *, retry_after: float | None = None, **parts: Any) -> Answer:
    """An error as problem+json."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    body = {"title": title, "status": status, "detail": f"scripted {status}"}
    return {"status": status, "headers": headers, "body": body, **parts}


def job(*polls: Answer, retry_after: int | None = None) -> Answer:
    """202 with a Location at which the polls are answered one after another, the last one again and again."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return {"status": 202, "headers": headers, "body": {"status": "running"}, "job": list(polls)}


def poll(status: str, output: Any = None, detail: str | None = None, **parts: Any) -> Answer:
    """The state of a job: running, succeeded, failed, canceled or input_required."""
    body: dict[str, Any] = {"status": status}
    if output is not None:
        body["output"] = output
    if detail is not None:
        body["error"] = {"title": "Job ended", "detail": detail}
    return {"status": 200, "body": body, **parts}


def lost_request() -> Answer:
    """The connection closes and nothing was done."""
    return {"drop": "before"}


def lost_reply(output: Any) -> Answer:
    """It was done, and the connection closes without an answer."""
    return reply(output, drop="after")


def half_reply(output: Any) -> Answer:
    """It was done, and the connection closes in the middle of the answer."""
    return reply(output, drop="middle")


def hang(output: Any = None, *, effect: bool = False) -> Answer:
    """No answer until the caller gives up; with ``effect`` it was done all the same."""
    return reply(output, hang=True, effect=effect)


def drip(output: Any, *, every: float, size: int = 1) -> Answer:
    """An answer of ``size`` bytes every ``every`` seconds: each read is quick, the whole is not."""
    return reply(output, drip={"bytes": size, "interval": every})


def oversized(size: int, *, length: bool = True, gzip: bool = False) -> Answer:
    """A valid answer of more than ``size`` bytes, with or without Content-Length, or small until it is unpacked."""
    return {"filler": size, "length": length, "gzip": gzip}


def malformed(text: str = '{"output": ') -> Answer:
    """200 with a body that is not JSON."""
    return {"raw": text}


def redirect(location: str, status: int = 307) -> Answer:
    """A redirect."""
    return {"status": status, "headers": {"Location": location}}


@dataclass(frozen=True)
class Seen:
    """One request as the agent saw it; header names in lower case."""

    at: float
    method: str
    path: str
    key: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Ledger:
    """What happened at the agent so far."""

    requests: list[Seen]
    effects: dict[str, int]
    """Idempotency key → how often it was done ("" where a request had none)."""
    max_in_flight: dict[str, int]
    """Path → most calls at once."""
    in_flight: dict[str, int]

    def posts(self, path: str) -> list[Seen]:
        """The calls of one agent."""
        return [seen for seen in self.requests if seen.method == "POST" and seen.path == path]

    @property
    def doubled(self) -> list[str]:
        """Keys that were done more than once."""
        return [key for key, count in self.effects.items() if count > 1]


class AgentProcess:
    """A Python module that serves HTTP and prints ``ready: URL …`` when it can be called.

    Used as a context manager, or by `start` and `stop`. Started again it takes the same port.
    """

    def __init__(self, module: str, environment: dict[str, str] | None = None, folder: Path = ROOT) -> None:
        self._module = module
        self._folder = folder
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self.base_url = ""

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def url(self, path: str) -> str:
        """The address of a path, such as ``/score``."""
        return f"{self.base_url}{path}"

    def start(self, timeout: float = 90.0) -> Self:
        """Start it and wait until it can be called."""
        port = self.base_url.rpartition(":")[2] or "0"
        self.close()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, "--port", port],
            cwd=self._folder,
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if readable else ""
        if not line.startswith("ready: "):
            self.kill()
            errors = self.errors()
            self.close()
            raise RuntimeError(f"{self._module} did not get ready: {line!r} {errors}")
        self.base_url = line.split()[1]
        return self

    def errors(self) -> str:
        """What it wrote to stderr."""
        if self._errors is None or self._errors.closed:
            return ""
        self._errors.seek(0)
        return self._errors.read()

    def stop(self, timeout: float = 10.0, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; gives the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(with_signal)
        return self._end(timeout)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._end(10.0)

    def _end(self, timeout: float) -> int:
        assert self._process is not None
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self.stop()
        self.close()

    def close(self) -> None:
        """Drop what the ended process wrote to stderr."""
        if self._errors is not None:
            self._errors.close()


class ScriptedAgent(AgentProcess):
    """An agent whose behaviour the test sets, and which keeps a ledger of what was asked and done."""

    def __init__(self) -> None:
        super().__init__("tests.support.scripted_server")

    def script(self, path: str, *answers: Answer, method: str = "POST", idempotent: bool = True) -> str:
        """Set what a path answers from now on: each answer once, the last one again and again.

        ``idempotent``: a key that was done before gets its first answer again, without faults and without effect.
        Returns the URL.
        """
        order = {"answers": list(answers), "method": method, "idempotent": idempotent}
        self._control("PUT", f"/_control{path}", order)
        return self.url(path)

    def open_gate(self, name: str) -> None:
        """Let answers with ``gate=name`` go on, now and later."""
        self._control("PUT", f"/_gate/{name}", {})

    def reset(self) -> None:
        """Forget scripts and ledger."""
        self._control("DELETE", "/_control")

    def ledger(self) -> Ledger:
        """What happened so far."""
        seen = self._control("GET", "/_ledger")
        return Ledger(
            [Seen(**request) for request in seen["requests"]],
            seen["effects"],
            seen["max_in_flight"],
            seen["in_flight"],
        )

    def wait_for_requests(self, path: str, count: int = 1, timeout: float = 20.0) -> list[Seen]:
        """Wait until a path was called so often; gives the calls."""
        end = time.monotonic() + timeout
        while len(calls := self.ledger().posts(path)) < count:
            if time.monotonic() > end:
                raise AssertionError(f"{path} was called {len(calls)} times in {timeout} s, expected {count}")
            time.sleep(0.02)
        return calls

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url(path), data, {"Connection": "close"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class SampleAgents(AgentProcess):
    """All agents of ``examples/agents``; with ``token`` they want it as their bearer token."""

    def __init__(self, token: str = "") -> None:
        super().__init__("examples.agents", {"SAMPLE_AGENTS_TOKEN": token})


@pytest.fixture(scope="session")
def scripted_agent_process() -> Iterator[ScriptedAgent]:
    """The one process behind ``scripted_agent``."""
    with ScriptedAgent() as agent:
        yield agent


@pytest.fixture
def scripted_agent(scripted_agent_process: ScriptedAgent) -> ScriptedAgent:
    """A scripted agent without scripts and with an empty ledger; a test may stop and start it."""
    if not scripted_agent_process.is_running:
        scripted_agent_process.start()
    scripted_agent_process.reset()
    return scripted_agent_process


@pytest.fixture(scope="session")
def sample_agents() -> Iterator[SampleAgents]:
    """The sample agents, running."""
    with SampleAgents() as agents:
        yield agents
