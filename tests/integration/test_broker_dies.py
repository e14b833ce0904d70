"""A broker that dies by kill -9 between noting a record's sequence number and keeping the record.

Started again, it calls the record that the producer repeats a duplicate of one that it does not have, and kafka-python
takes that for a success. The embedded broker does so; what is published must be there all the same.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.devstack.kafka import KafkaBroker, ObjectStore
from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.server import Place
from orchestrator.kafka.topics import ensure_topics
from tests.support.intake_seen import accepted, unpublished
from tests.support.processes import wait_for
from tests.support.system import System


class Between(ThreadingHTTPServer):
    """Between a broker and its object store: kills the broker in place of letting it keep a record, once."""

    daemon_threads = True

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.broker: KafkaBroker | None = None
        self.dies_at: str | None = None
        """The topic of the next record that the broker does not live to keep."""
        self.struck = False
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def strikes(self, method: str, path: str) -> bool:
        """Whether the broker died of this request."""
        keeps = method == "PUT" and path.endswith(".batch") and f"/topics/{self.dies_at}/partitions/" in path
        if not keeps or self.broker is None:
            return False
        self.dies_at, self.struck = None, True
        self.broker.kill()
        return True


class _Handler(BaseHTTPRequestHandler):
    server: Between
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True
        if self.server.strikes(self.command, self.path):
            return
        store = http.client.HTTPConnection(self.server.store.address, timeout=10)
        try:
            store.request(self.command, self.path, body, dict(self.headers))
            answer = store.getresponse()
            content = answer.read()
        finally:
            store.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Watched(KafkaBroker):
    """A broker that reaches its store through `Between`."""

    between: Between

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "AWS_ENDPOINT": self.between.url}


@pytest.fixture
def between(keeper: Keeper, tmp_path: Path) -> Iterator[Between]:
    store = ObjectStore(keeper, Place(tmp_path / "store", tmp_path / "store.log"))
    store.start()
    server = Between(store)
    thread = threading.Thread(target=server.serve_forever, name="between", daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    store.stop()


@pytest.fixture
def broker(keeper: Keeper, tmp_path: Path, between: Between, system: System) -> Iterator[Watched]:
    """A broker with files, which the product uses."""
    found = Watched(keeper, Place(tmp_path / "kafka", tmp_path / "kafka.log"), between.store)
    found.between = between
    between.broker = found
    found.start()
    # No client in this process may meet a broker that is away: kafka-python forgets the socket of a refused connection.
    system.env |= {"KAFKA_BOOTSTRAP_SERVERS": found.address, "KAFKA_TOPIC_PREFIX": ""}
    ensure_topics(system.settings, threading.Event())
    yield found
    # Before the broker goes, or the bridge would be stopped while it looks for it.
    system.processes.stop_all()
    found.kill()


def test_an_update_that_the_broker_only_believes_to_have_is_published_again(
    system: System, between: Between, broker: Watched
) -> None:
    system.orchestrator("task", "submit", "Do it", "--id", "t-1", "--require", "a")
    between.dies_at = "task-updates"
    system.start_one("bridge")
    wait_for(lambda: between.struck and not broker.runs, 30.0, "the broker dies while it keeps an update")
    broker.start()
    wait_for(lambda: accepted(system.store) == 1 and unpublished(system.store) == 0, 60.0, "all updates are published")
    assert [update["task_id"] for update in system.read("task-updates", 1)] == ["t-1"]


def test_a_task_that_the_broker_only_believes_to_have_is_told_as_not_confirmed(
    system: System, between: Between, broker: Watched
) -> None:
    between.dies_at = "tasks"
    submit = ("task", "submit", "Do it", "--id", "t-1", "--json")
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(lambda: system.orchestrator(*submit, code=None))
        wait_for(lambda: between.struck and not broker.runs, 30.0, "the broker dies while it keeps the task")
        broker.start()
        ran = submitted.result()
    assert ran.error()["code"] == "kafka_unavailable", ran
    system.orchestrator(*submit)
    assert [task["task_id"] for task in system.read("tasks", 1)] == ["t-1"]
