"""What the sample agents share: the HTTP contract between orchestrator and agent, on the standard library.

An agent is a name and a function from a `Call` to its output. This module adds what the contract asks of every
agent (docs/agent-http-contract.md): replies remembered by idempotency key, jobs behind 202, look-up by key, errors as
problem+json (RFC 9457), a size cap and a health address. What one agent does belongs into its own file.

Everything is kept in memory and is gone with the process; a real agent keeps keys, replies and effects in its database.

    POST /{agent}                  do it
    GET  /{agent}/jobs/{id}        what became of a 202; DELETE cancels it, where it is not done
    GET  /{agent}/replies/{key}    look-up by idempotency key
    GET  /{agent}/health           that it is alive, and how many effects it had;  /health tells of all agents
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import math
import os
import signal
import socketserver
import sys
import threading
import time
import traceback
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_BODY_BYTES = 1_000_000
MAX_REMEMBERED = 10_000
"""Keys and jobs kept for each agent; the oldest goes first."""

TOKEN_VARIABLE = "SAMPLE_AGENTS_TOKEN"  # noqa: S105 - the name of a variable, not a secret
"""Where this variable is set, every call must bring ``Authorization: Bearer {its value}``."""


class Problem(Exception):
    """An answer that is an error; it goes out as application/problem+json.

    Args:
        status: the HTTP status. 429 and 503 say "later", other 4xx say "never like this".
        title: the kind of problem, the same text each time.
        detail: what was wrong this time and what to do, for the person who reads the failed step.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, status: int, title: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        kind = "tag:agents.example,2026:" + "-".join(title.lower().split())
        self.document = {"type": kind, "title": title, "status": status, "detail": detail}
        self.retry_after = retry_after


@dataclass(frozen=True)
class Call:
    """One request, its shape already checked."""

    task: str
    """What the planner wants, in words."""
    input: dict[str, Any]
    """The arguments; the orchestrator has checked them against the agent's input_schema."""
    context: dict[str, Any]
    """``task_id`` and ``step``, for logs."""
    key: str = ""
    """The Idempotency-Key; empty where none was sent."""
    attempt: int = 1
    """1 when the key is new, 2 when the first attempt ended in a problem and the caller tries again, and so on."""

    def text(self, name: str) -> str:
        """The input ``name``, a text that is not blank; a 422 problem where it is not."""
        value = self.input.get(name)
        if not isinstance(value, str) or not value.strip():
            raise Problem(422, "Invalid input", f"input.{name} must be a text that is not empty")
        return value.strip()

    def integer(self, name: str) -> int:
        """The input ``name``, a whole number; a 422 problem where it is not."""
        value = self.input.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Problem(422, "Invalid input", f"input.{name} must be a whole number")
        return value


@dataclass(frozen=True)
class Later:
    """An output that takes its time: the caller gets 202 now, and ``output`` when it asks after ``seconds``."""

    seconds: float
    output: dict[str, Any]


@dataclass(frozen=True)
class Agent:
    """An agent: the name it is served under, and what it does.

    ``side_effects`` makes the Idempotency-Key compulsory, so that a repeated call can be recognised.
    """

    name: str
    answer: Callable[[Call], dict[str, Any] | Later]
    side_effects: bool = False


@dataclass(frozen=True)
class Response:
    """An HTTP answer: status, JSON document and headers."""

    status: int
    document: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem) -> Response:
        """The answer that tells of a problem."""
        headers = {"Content-Type": "application/problem+json"}
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)
        return cls(problem.status, problem.document, headers)


@dataclass
class _Remembered:
    """What is known of one idempotency key. ``busy`` is held while its call is worked on."""

    digest: str
    busy: threading.Lock = field(default_factory=threading.Lock)
    attempts: int = 0
    reply: Response | None = None


@dataclass(frozen=True)
class _Job:
    ready_at: float
    output: dict[str, Any] | None  # None: canceled
    key: str

    def response(self) -> Response:
        remaining = self.ready_at - time.monotonic()
        if remaining > 0:
            return Response(200, {"status": "running"}, {"Retry-After": str(math.ceil(remaining))})
        return Response(200, {"status": "succeeded", "output": self.output} if self.output else {"status": "canceled"})


class Service:
    """One agent at work: the agent, the replies it remembers, its jobs and its counters."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._calls = 0
        self._effects = 0

    def post(self, body: bytes, key: str) -> Response:
        """Do what the request asks, once for each key.

        A repeated key gets the first reply again. While the first request is still worked on, the second waits for
        it. A problem is not remembered: nothing was done, and the same key may try again.
        """
        call = replace(_parse(body), key=key)
        with self._lock:
            self._calls += 1
        if not key:
            if self._agent.side_effects:
                raise Problem(400, "Idempotency-Key missing", f"{self._agent.name} acts only on requests with a key")
            return self._work(call)
        remembered = self._remember(key, _digest(call.input))
        with remembered.busy:
            if remembered.reply is None:
                remembered.attempts += 1
                remembered.reply = self._work(replace(call, attempt=remembered.attempts))
            return remembered.reply

    def job(self, job_id: str, cancel: bool = False) -> Response:
        """How a job stands; with ``cancel`` it is ended first where it is not done, and its key starts afresh."""
        with self._lock:
            job = self._jobs.get(job_id)
            if cancel and job is not None and job.ready_at > time.monotonic():
                job = self._jobs[job_id] = replace(job, ready_at=0.0, output=None)
                self._effects -= self._agent.side_effects
                self._remembered.pop(job.key, None)
        if job is None:
            raise Problem(404, "Unknown job", f"{self._agent.name} has no job {job_id}; it may be too old")
        return job.response()

    def look_up(self, key: str) -> Response:
        """What became of the request with this key: 200 its reply, 202 still running, 404 nothing was done."""
        with self._lock:
            remembered = self._remembered.get(key)
        if remembered is not None and remembered.reply is None and remembered.busy.locked():
            return Response(202, {"status": "running"}, {"Retry-After": "1"})
        reply = remembered.reply if remembered is not None else None
        if reply is None:
            raise Problem(404, "Unknown key", f"nothing was done under the key {key}")
        if reply.status != HTTPStatus.ACCEPTED:
            return reply
        state = self.job(reply.headers["Location"].rpartition("/")[2])
        return reply if state.document["status"] == "running" else state

    def health(self) -> dict[str, Any]:
        """That the agent is alive, with its counters since the start."""
        with self._lock:
            return {"status": "ok", "agent": self._agent.name, "calls": self._calls, "effects": self._effects}

    def _work(self, call: Call) -> Response:
        output = self._agent.answer(call)
        job_id = uuid.uuid4().hex
        with self._lock:
            self._effects += self._agent.side_effects
            if isinstance(output, Later):
                self._jobs[job_id] = _Job(time.monotonic() + output.seconds, output.output, call.key)
                _drop_oldest(self._jobs)
        if isinstance(output, Later):
            headers = {"Location": f"/{self._agent.name}/jobs/{job_id}", "Retry-After": str(int(output.seconds))}
            return Response(202, {"status": "running"}, headers)
        return Response(200, {"output": output})

    def _remember(self, key: str, digest: str) -> _Remembered:
        with self._lock:
            remembered = self._remembered.setdefault(key, _Remembered(digest))
            _drop_oldest(self._remembered)
        if not hmac.compare_digest(remembered.digest, digest):
            raise Problem(422, "Idempotency-Key used before", f"the key {key} belongs to another input; send a new one")
        return remembered


def _drop_oldest(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > MAX_REMEMBERED:
        kept.popitem(last=False)


def _digest(value: Any) -> str:
    """The same for equal JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _parse(body: bytes) -> Call:
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "Not JSON", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Problem(400, "Invalid request", 'the body must be an object: {"task": …, "input": …, "context": …}')
    task, values, context = document.get("task", ""), document.get("input", {}), document.get("context", {})
    if not isinstance(task, str) or not isinstance(values, dict) or not isinstance(context, dict):
        raise Problem(400, "Invalid request", "task must be a text, input and context must be objects")
    return Call(task, values, context)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a slow caller does not hold up the stop
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], agents: tuple[Agent, ...], token: str, verbose: bool) -> None:
        self.services = {agent.name: Service(agent) for agent in agents}
        self.token = token
        self.verbose = verbose
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name, which can hang
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):  # callers may hang up
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True
    timeout = 75  # seconds an idle connection is kept

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_GET(self) -> None:
        self._answer(self._get)

    do_DELETE = do_GET  # noqa: N815 - the standard library's name

    def _answer(self, work: Callable[[], Response]) -> None:
        try:
            response = work()
        except Problem as problem:
            response = Response.of(problem)
        except Exception as error:  # noqa: BLE001 - an agent's mistake must become an answer, not a lost reply
            traceback.print_exc()
            response = Response.of(Problem(500, "Internal error", f"{type(error).__name__} in the agent; see its log"))
        self._send(response)

    def _post(self) -> Response:
        body = self._body()
        self._authorise()
        name, *rest = urlsplit(self.path).path.strip("/").split("/")
        service = self._service(name)
        if rest:
            raise Problem(405, "Method not allowed", f"POST to /{name}")
        return service.post(body, self.headers.get("Idempotency-Key", ""))

    def _get(self) -> Response:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts == ["health"]:
            return Response(200, {"status": "ok", "agents": [s.health() for s in self.server.services.values()]})
        service = self._service(parts[0])
        if self.command == "DELETE" and parts[1:2] != ["jobs"]:
            raise Problem(405, "Method not allowed", "only jobs can be deleted")
        match parts[1:]:
            case ["health"]:
                return Response(200, service.health())
            case ["jobs", job_id]:
                self._authorise()
                return service.job(job_id, cancel=self.command == "DELETE")
            case ["replies", key]:
                self._authorise()
                return service.look_up(key)
            case []:
                raise Problem(405, "Method not allowed", f"call the agent with POST to /{parts[0]}")
        raise Problem(404, "Unknown address", f"/{parts[0]} has /jobs/{{id}}, /replies/{{key}} and /health")

    def _service(self, name: str) -> Service:
        if name not in self.server.services:
            raise Problem(404, "Unknown agent", f"{name!r} is not among {', '.join(self.server.services)}")
        return self.server.services[name]

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise Problem(411, "Length required", "send a Content-Length")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Problem(413, "Too large", f"a request may have {MAX_BODY_BYTES} bytes, this one has {length}")
        return self.rfile.read(int(length))

    def _authorise(self) -> None:
        shown = self.headers.get("Authorization", "")
        if self.server.token and not hmac.compare_digest(shown.encode(), f"Bearer {self.server.token}".encode()):
            raise Problem(401, "Unauthorised", "send Authorization: Bearer with the token of this agent")

    def _send(self, response: Response) -> None:
        body = json.dumps(response.document, ensure_ascii=False).encode("utf-8", "replace")
        self.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            self.send_header(name, value)
        if response.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The standard library's own errors (a bad request line, an unknown method), as problems too."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(Response.of(Problem(code, status.phrase, explain or message or status.description or status.phrase)))

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.verbose:
            print(f"{self.log_date_time_string()} {format % args}", file=sys.stderr, flush=True)


def serve(*agents: Agent) -> None:
    """Serve agents until SIGTERM or Ctrl-C, as the command line says; print one line when ready."""
    parser = argparse.ArgumentParser(description=f"Serve {', '.join(agent.name for agent in agents)} over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="write each request to stderr")
    options = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = _Server((options.host, options.port), agents, os.environ.get(TOKEN_VARIABLE, ""), options.verbose)
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another --port")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ready: http://{options.host}:{server.server_port} serves {', '.join(server.services)}", flush=True)
    stop.wait()
    server.server_close()
