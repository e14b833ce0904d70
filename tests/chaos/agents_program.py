"""All agents of a storm in one process, with the ledger of what they did. It is never killed: it is the witness.

    CHAOS_SEED=7 CHAOS_AGENT_TOTAL=4 python -m tests.chaos.agents_program --port 0

How a call is answered is drawn from the seed, the key and how often the key was seen (`MOODS`). Standard library only.

    POST /{agent}                      a delegation, as in docs/agent-http-contract.md
    POST /{agent}/undo                 take back what it did
    GET  /{agent}/replies/{key}        look-up (/{agent}/undo/replies/{key} of an undo)
    GET  /_jobs/{number}               poll
    POST /_jobs/{number}               the answer to what a job asks
    DELETE /_jobs/{number}             cancel it
    GET  /_replies?{number}            replies that are to go by an event, from that one on
    GET  /_ledger                      for each agent and key: calls seen, effects, calls that a known key absorbed
    PUT  /_calm                        behave from now on
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.chaos.cast import BY_NAME, CHOICES, Kind, Role

MOODS = {
    "well": 58,
    "slow": 10,  # takes a while, then answers
    "drops first": 4,  # closes the connection and does nothing
    "busy": 4,  # 503 and does nothing
    "acts, 500": 5,
    "acts, drops": 5,
    "acts, hangs": 3,  # until the caller gives up
    "acts, half": 3,  # half an answer
    "twice": 4,  # the same answer two times at once
    "twice later": 4,  # and once more when the connection may serve another call
}
BARE_MOODS = {"well": 80, "slow": 8, "drops first": 2, "busy": 4, "acts, 500": 2, "acts, drops": 2, "twice": 2}
"""A bare agent's lost reply needs a person; a few of them suffice."""

PATIENCE = 4
"""A key seen more often than this is answered well."""


@dataclass
class Entry:
    """What is known of one key at one agent."""

    agent: str
    key: str
    task_id: str
    calls: int = 0
    effects: int = 0
    absorbed: int = 0
    looked_up: int = 0
    working: int = 0
    output: dict[str, str] | None = None
    job: int | None = None
    told: int = 0
    """Answers that were taken to what it asks."""
    answer: str | None = None
    canceled: int = 0


@dataclass
class Job:
    """Work that takes longer."""

    entry: Entry
    ready_at: float
    seconds: float = 0.0
    asks: bool = False
    """Until it is told."""
    told_under: str | None = None
    canceled: bool = False


@dataclass
class Ledger:
    """Everything; whoever touches it holds ``changed``."""

    seed: int
    calm: bool = False
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    """To be sent by an event: task, token, output."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def arrive(self, agent: str, key: str, task_id: str) -> tuple[Entry, str, random.Random]:
        """Note a call; how it is to be answered."""
        with self.changed:
            entry = self.entries.setdefault((agent, key), Entry(agent, key, task_id))
            entry.calls += 1
            entry.working += 1
            rng = random.Random(f"{self.seed} {agent} {key} {entry.calls}")
            moods = BARE_MOODS if BY_NAME[agent].kind is Kind.BARE else MOODS
            mood = rng.choices(list(moods), list(moods.values()))[0]
            return entry, "well" if self.calm or entry.calls > PATIENCE else mood, rng

    def leave(self, entry: Entry) -> None:
        """The call is over."""
        with self.changed:
            entry.working -= 1
            self.changed.notify_all()

    def act(self, role: Role, entry: Entry, inputs: dict[str, Any], seconds: float, token: str | None) -> None:
        """Do it: once for each key where keys are honoured, each time where not."""
        with self.changed:
            if entry.output is not None and role.kind is Kind.KEYED:
                entry.absorbed += 1
                return
            entry.effects += 1
            entry.output = {role.provides: role.value(inputs)}
            if role.job:
                entry.job = len(self.jobs)
                self.jobs.append(Job(entry, time.monotonic() + seconds, seconds, role.asks))
            if role.by_event:
                self.replies.append({"task_id": entry.task_id, "token": token, "output": entry.output})

    def tell(self, job: Job, key: str, answer: str) -> None:
        """Take an answer: once for each key where keys are honoured, each time where not."""
        with self.changed:
            if BY_NAME[job.entry.agent].kind is Kind.KEYED and job.told_under == key:
                job.entry.absorbed += 1
                return
            job.told_under, job.asks = key, False
            job.entry.told += 1
            job.entry.answer = answer
            job.ready_at = time.monotonic() + job.seconds

    def cancel(self, job: Job) -> str:
        """Undo what a job has done so far, where it has not ended; its state."""
        with self.changed:
            if job.canceled:
                return "canceled"
            if time.monotonic() >= job.ready_at:
                return "succeeded"
            job.canceled = True
            job.entry.canceled += 1
            job.entry.effects -= 1
            job.entry.output, job.entry.job = None, None
            return "canceled"

    def as_json(self) -> list[dict[str, Any]]:
        """For the audit."""
        with self.changed:
            return [vars(entry) for entry in self.entries.values()]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, ledger: Ledger, total: float) -> None:
        self.ledger = ledger
        self.total = total
        """Seconds that callers wait."""
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # callers die and agents hang up: that is what this is about
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path.startswith("/_jobs/"):
            return self._take_answer(body)
        role = BY_NAME[self.path.strip("/")]
        ledger = self.server.ledger
        entry, mood, rng = ledger.arrive(role.name, self.headers["Idempotency-Key"], body["context"]["task_id"])
        try:
            self._answer(role, entry, mood, rng, body)
        finally:
            ledger.leave(entry)
        return None

    def _take_answer(self, body: dict[str, Any]) -> None:
        """As a call: it may be taken, and the reply lost."""
        mood = "" if self.server.ledger.calm else random.choices(["", "drop first", "drop", "500"], [64, 12, 12, 12])[0]
        if mood == "drop first":
            return self._hang_up()
        self.server.ledger.tell(self._job(), self.headers["Idempotency-Key"], body["answer"])
        if mood == "drop":
            return self._hang_up()
        return self._write(500, {"title": "Afterwards"}) if mood else self._write(202, {}, {"Retry-After": "1"})

    def do_DELETE(self) -> None:
        if self._has_a_fit():
            return
        job = self._job()
        state = self.server.ledger.cancel(job)
        if self._has_a_fit():
            return
        output = {"output": job.entry.output} if state == "succeeded" else {}
        self._write(200, {"status": state, **output})

    def _job(self) -> Job:
        return self.server.ledger.jobs[int(self.path.rpartition("/")[2])]

    def _answer(self, role: Role, entry: Entry, mood: str, rng: random.Random, body: dict[str, Any]) -> None:
        if mood == "drops first":
            return self._hang_up()
        if mood == "busy":
            return self._write(503, {"title": "Busy"}, {"Retry-After": "0"})
        if role.refuses:
            return self._write(422, {"title": "No", "detail": "it always refuses"})
        time.sleep(rng.uniform(0.2, 0.6) * self.server.total if mood == "slow" else rng.uniform(0.0, 0.03))
        # Now and then long enough for somebody to cancel it, whose doorbell is lost.
        seconds = rng.uniform(1.2, 1.6) if role.cancels and rng.random() < 0.3 else rng.uniform(0.1, 0.5)
        seconds *= self.server.total
        self.server.ledger.act(role, entry, body["input"], seconds, body["context"].get("reply_token"))
        match mood:
            case "acts, 500":
                return self._write(500, {"title": "Something went wrong afterwards"})
            case "acts, drops":
                return self._hang_up()
            case "acts, hangs":
                self.connection.recv(1)  # returns when the caller gives up
                return self._hang_up()
        if role.job:
            return self._write(202, {}, {"Location": f"/_jobs/{entry.job}", "Retry-After": "1"})
        if role.by_event:
            return self._write(202, {})
        return self._write(200, {"output": entry.output}, how=mood)

    def do_GET(self) -> None:
        ledger = self.server.ledger
        if self.path == "/_ledger":
            return self._write(200, ledger.as_json())
        if self.path.startswith("/_replies"):
            with ledger.changed:
                return self._write(200, ledger.replies[int(self.path.rpartition("?")[2]) :])
        if self._has_a_fit():
            return None
        if self.path.startswith("/_jobs/"):
            return self._poll(self._job())
        agent, _, key = self.path.strip("/").partition("/replies/")
        with ledger.changed:
            entry = ledger.entries.get((agent, unquote(key)))
            if entry is not None:
                entry.looked_up += 1
        if entry is None or (entry.output is None and not entry.working):
            return self._write(404, {"title": "Nothing was done under this key"})
        if entry.output is None:
            return self._write(202, {}, {"Retry-After": "1"})
        if entry.job is not None:
            return self._poll(ledger.jobs[entry.job])
        return self._write(200, {"output": entry.output})

    def _has_a_fit(self) -> bool:
        """Whether a look-up or poll fails by itself, and then does so."""
        fit = "" if self.server.ledger.calm else random.choices(["", "500", "drop"], [88, 7, 5])[0]
        if fit == "500":
            self._write(500, {"title": "A fit"})
        elif fit:
            self._hang_up()
        return bool(fit)

    def _poll(self, job: Job) -> None:
        if job.canceled:
            return self._write(200, {"status": "canceled"})
        if job.asks:
            question = {"status": "input_required", "question": "Which one?", "choices": list(CHOICES)}
            return self._write(200, question, {"Location": f"/_jobs/{job.entry.job}"})
        if time.monotonic() < job.ready_at:
            return self._write(200, {"status": "running"}, {"Retry-After": "1"})
        return self._write(200, {"status": "succeeded", "output": job.entry.output})

    def do_PUT(self) -> None:
        self.server.ledger.calm = True
        self._write(200, {})

    def _hang_up(self) -> None:
        self.close_connection = True

    def _write(self, status: int, document: Any, headers: dict[str, str] | None = None, how: str = "well") -> None:
        body = json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status} Here you are", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        answer = "\r\n".join([*lines, "", ""]).encode() + body
        if how == "acts, half":
            self.wfile.write(answer[: len(answer) - len(body) // 2])
            return self._hang_up()
        self.wfile.write(answer * 2 if how == "twice" else answer)
        self.wfile.flush()
        if how == "twice later":
            threading.Thread(target=_send_later, args=(self.connection, answer), daemon=True).start()
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the ledger tells it all."""


def _send_later(connection: socket.socket, answer: bytes) -> None:
    time.sleep(random.uniform(0.005, 0.2))
    with contextlib.suppress(OSError):
        connection.sendall(answer)


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ledger = Ledger(int(os.environ["CHAOS_SEED"]))
    server = Server(options.port, ledger, float(os.environ["CHAOS_AGENT_TOTAL"]))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    print(f"ready: http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - the caller reads the address
    server.serve_forever()


if __name__ == "__main__":
    main()
