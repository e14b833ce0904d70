"""The process behind `tests.support.agents.ScriptedAgent`: an HTTP agent that does what a test tells it, well or badly.

    python -m tests.support.scripted_server --port 0

Standard library only, so that it starts fast. One path is one agent; a script is a list of answers, the last one
repeats.

    PUT    /_control/{path}      {"answers": […], "method": "POST", "idempotent": true}
    PUT    /_gate/{name}         open a gate: answers that wait at it go on
    GET    /_ledger              every request seen, effects by idempotency key, calls in flight at most
    DELETE /_control             forget scripts, gates and ledger
    GET    {path}/replies/{key}  look-up, as in the agent contract
    GET    {path}/health         200

An answer is an object. In the order in which its parts take effect:

    gate      name: wait until the gate is opened             delay    seconds to wait
    drop      "before": close the connection, nothing done
    effect    whether it counts as done (default: status below 300)
    hang      true: never answer                              drop     "after": close without answering
    job       list of answers for the polls at the Location that is sent along
    status, headers, body (JSON), raw (text sent as it is), gzip (true: compressed)
    filler    number: a body {"output": {"filler": "xxx…"}} with so many x; length: false hides the Content-Length
    drip      {"bytes": n, "interval": seconds}: body sent in drops
    drop      "middle": close after half of the body

Exits at SIGTERM, and when its stdin ends: it cannot outlive the test that started it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import socketserver
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = dict[str, Any]
FAULTS = {"gate", "delay", "drop", "hang", "drip"}
"""What a remembered answer loses: the second time an idempotent agent just answers."""


@dataclass
class Script:
    """What one method and path answers."""

    answers: list[Answer]
    idempotent: bool
    given: int = 0

    def next(self) -> Answer:
        """The answer whose turn it is."""
        answer = self.answers[min(self.given, len(self.answers) - 1)]
        self.given += 1
        return answer


@dataclass
class World:
    """All that the agent knows; every access holds ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    scripts: dict[tuple[str, str], Script] = field(default_factory=dict)
    gates: set[str] = field(default_factory=set)
    requests: list[dict[str, Any]] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    remembered: dict[tuple[str, str], Answer] = field(default_factory=dict)
    in_flight: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    max_in_flight: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    busy: set[tuple[str, str]] = field(default_factory=set)
    """Path and key of calls worked on by idempotent agents."""
    abandoned: bool = False

    def abandon(self) -> None:
        """Another world follows this one: let through whatever waits here."""
        with self.changed:
            self.abandoned = True
            self.changed.notify_all()

    def choose(self, method: str, path: str, key: str) -> Answer:
        """The answer to a request: a remembered one, the script's next, or 404.

        An idempotent agent lets a repeated key wait for the call that is still worked on.
        """
        with self.changed:
            script = self.scripts.get((method, path))
            if script is not None and script.idempotent and key:
                self.changed.wait_for(
                    lambda: (path, key) in self.remembered or (path, key) not in self.busy or self.abandoned
                )
                self.busy.add((path, key))
            if script is None:
                return {
                    "status": 404,
                    "body": {"title": "No script", "detail": f"nothing is scripted for {method} {path}"},
                }
            if script.idempotent and key and (path, key) in self.remembered:
                kept = self.remembered[path, key]
                return {name: part for name, part in kept.items() if name not in FAULTS} | {"effect": False}
            return dict(script.next())

    def act(self, path: str, key: str, answer: Answer) -> None:
        """Do it: count the effect and remember the answer; a job gets its address."""
        with self.changed:
            if "job" in answer:
                self.jobs += 1
                place = f"/_jobs/{self.jobs}"
                self.scripts["GET", place] = Script(answer.pop("job"), idempotent=False)
                answer["headers"] = {"Location": place, **answer.get("headers", {})}
            if answer.get("effect", answer.get("status", 200) < 300):
                self.effects[key] += 1
                self.remembered[path, key] = answer
                self.changed.notify_all()

    def look_up(self, path: str, key: str) -> Answer:
        """What became of a key."""
        with self.changed:
            kept = self.remembered.get((path, key))
            if kept is not None:
                return {name: part for name, part in kept.items() if name not in FAULTS}
            if self.in_flight[path][key]:
                return {"status": 202, "body": {"status": "running"}}
            return {"status": 404, "body": {"title": "Unknown key", "detail": f"nothing was done under {key}"}}

    @contextmanager
    def working(self, path: str, seen: dict[str, Any]) -> Iterator[Callable[[], None]]:
        """Note a request, and count it as in flight while it lasts, or until it is told that it is answered."""
        key = seen["key"]
        under_way = True

        def answered() -> None:
            nonlocal under_way
            with self.changed:
                if under_way:
                    under_way = False
                    self.in_flight[path][key] -= 1
                    self.busy.discard((path, key))
                    self.changed.notify_all()

        with self.changed:
            self.requests.append(seen)
            self.in_flight[path][key] += 1
            self.max_in_flight[path] = max(self.max_in_flight[path], self.in_flight[path].total())
        try:
            yield answered
        finally:
            answered()

    def pass_gate(self, name: str) -> None:
        """Wait until the gate is open."""
        with self.changed:
            self.changed.wait_for(lambda: name in self.gates or self.abandoned)

    def ledger(self) -> dict[str, Any]:
        """What happened so far."""
        with self.changed:
            return {
                "requests": list(self.requests),
                "effects": dict(self.effects),
                "max_in_flight": dict(self.max_in_flight),
                "in_flight": {path: keys.total() for path, keys in self.in_flight.items()},
            }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int]) -> None:
        self.world = World()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # callers that give up are what tests are about
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    _answered: Callable[[], None] = staticmethod(lambda: None)
    """Told when the answer to a scripted request is about to be whole."""

    def do_GET(self) -> None:
        world = self.server.world
        if self.path == "/_ledger":
            return self._write(200, json.dumps(world.ledger()).encode())
        path, _, last = urlsplit(self.path).path.rpartition("/")
        if path.endswith("/replies"):
            agent, key = path.removesuffix("/replies"), unquote(last)
            return self._carry_out(world, path, lambda: world.look_up(agent, key))
        if last == "health" and ("GET", f"{path}/health") not in world.scripts:
            return self._write(200, b'{"status": "ok"}')
        return self._scripted()

    def do_POST(self) -> None:
        self._scripted()

    def do_PUT(self) -> None:
        world, body = self.server.world, self._body()
        with world.changed:
            if self.path.startswith("/_control/"):
                order = json.loads(body)
                script = Script(order["answers"], order["idempotent"])
                world.scripts[order["method"], self.path.removeprefix("/_control")] = script
            elif self.path.startswith("/_gate/"):
                world.gates.add(self.path.removeprefix("/_gate/"))
                world.changed.notify_all()
        self._write(200, b"{}")

    def do_DELETE(self) -> None:
        if self.path == "/_control":
            old, self.server.world = self.server.world, World()
            old.abandon()
            return self._write(200, b"{}")
        return self._scripted()

    def _scripted(self) -> None:
        world, path, key = self.server.world, urlsplit(self.path).path, self.headers.get("Idempotency-Key", "")
        self._carry_out(world, path, lambda: world.choose(self.command, path, key))

    def _carry_out(self, world: World, path: str, choose: Callable[[], Answer]) -> None:
        body = self._body()
        document: Any = None
        if body:
            try:
                document = json.loads(body)
            except ValueError:
                document = body.decode("utf-8", "replace")
        seen = {
            "at": time.time(),
            "method": self.command,
            "path": self.path,
            "key": self.headers.get("Idempotency-Key", ""),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": document,
        }
        with world.working(path, seen) as self._answered:
            self._play(world, path, seen["key"], choose())

    def _play(self, world: World, path: str, key: str, answer: Answer) -> None:
        if "gate" in answer:
            world.pass_gate(answer["gate"])
        time.sleep(answer.get("delay", 0))
        drop = answer.get("drop")
        if drop != "before" and self.command == "POST":
            world.act(path, key, answer)
        if answer.get("hang"):
            self.connection.recv(1)  # returns when the caller gives up
        if drop in {"before", "after"} or answer.get("hang"):
            self.close_connection = True
            return
        self._write(answer.get("status", 200), _body_of(answer), answer)

    def _write(self, status: int, body: bytes, answer: Answer | None = None) -> None:
        answer = answer or {}
        headers = {"Content-Type": "application/json" if status < 400 else "application/problem+json"}
        if answer.get("gzip"):
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        if answer.get("length", True):
            headers["Content-Length"] = str(len(body))
        else:
            headers["Connection"], self.close_connection = "close", True
        self.send_response(status)
        for name, value in {**headers, **answer.get("headers", {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.get("drop") == "middle":
            body, self.close_connection = body[: len(body) // 2], True
        drip = answer.get("drip", {"bytes": max(1, len(body)), "interval": 0})
        for start in range(0, len(body), drip["bytes"]):
            if start + drip["bytes"] >= len(body):
                # Who has read the last byte may call again, and does so before this thread has its turn.
                self._answered()
            self.wfile.write(body[start : start + drip["bytes"]])
            self.wfile.flush()
            time.sleep(drip["interval"])

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the ledger tells it all."""


def _body_of(answer: Answer) -> bytes:
    if "raw" in answer:
        return str(answer["raw"]).encode("utf-8", "surrogateescape")
    if "filler" in answer:
        return b'{"output": {"filler": "' + b"x" * int(answer["filler"]) + b'"}}'
    return json.dumps(answer.get("body", {})).encode()


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = Server(("127.0.0.1", options.port))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    print(f"ready: http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - the caller reads the address
    server.serve_forever()


if __name__ == "__main__":
    main()
