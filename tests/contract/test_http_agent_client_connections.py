"""The connections that calls go over: used again, but not for the answer to another call; and never too late."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from urllib3.connection import HTTPConnection

from orchestrator.agents import HttpAgentClient, transport
from orchestrator.domain.agent import AgentSpec, AgentTimeout
from orchestrator.domain.delegation import NOT_SENT, NotDone, Replied
from orchestrator.domain.value import replace
from orchestrator.flow.ports import AgentRequest
from tests.support.raw_agent import GOOD, Behaviour, RawAgent, read_request

REQUEST = AgentRequest("t-1", 1, "t-1:1:0:abc", "Score it", {"n": 1})


@pytest.fixture
def client() -> Iterator[HttpAgentClient]:
    made = HttpAgentClient(concurrency=8)
    yield made
    made.close()


def spec(port: int) -> AgentSpec:
    return AgentSpec("score", "Scores.", f"http://127.0.0.1:{port}/score", timeout=AgentTimeout(10, 10, 10))


def test_an_answer_sent_twice_is_not_taken_for_the_answer_to_the_next_call(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    """The second one comes when the next call has begun: on the same connection it would be that call's answer."""
    next_call = threading.Event()

    def twice(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(GOOD)
        assert next_call.wait(10)
        connection.sendall(GOOD)
        read_request(connection)

    def once(connection: socket.socket) -> None:
        read_request(connection)
        next_call.set()
        time.sleep(0.2)  # time for a wrong answer to come before the right one
        connection.sendall(GOOD.replace(b"1}", b"2}"))

    behaviours = iter((twice, once))
    agent = raw_agent(lambda connection: next(behaviours)(connection))
    assert client.call(spec(agent.port), REQUEST) == Replied(1)
    assert client.call(spec(agent.port), REQUEST) == Replied(2)


def test_a_call_whose_time_is_over_does_not_leave_any_more(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was stopped for a while: another may have sent the call meanwhile."""
    seen = []

    def noting(connection: socket.socket) -> None:
        seen.append(connection.recv(1))

    agent = raw_agent(noting)
    late = replace(REQUEST, send_before=datetime.now(UTC) - timedelta(seconds=1))
    outcome = client.call(spec(agent.port), late)
    assert isinstance(outcome, NotDone)
    assert (outcome.code, outcome.retryable) == (NOT_SENT, True)

    # Stopped between the connection and the request, where no watchdog ran either.
    connect = HTTPConnection.connect

    def slowly(connection: Any) -> None:
        connect(connection)
        time.sleep(0.3)

    monkeypatch.setattr(HTTPConnection, "connect", slowly)
    monkeypatch.setattr(transport._Watchdog, "_run", lambda _: None)
    late = replace(REQUEST, send_before=datetime.now(UTC) + timedelta(seconds=0.2))
    outcome = client.call(spec(agent.port), late)
    assert isinstance(outcome, NotDone)
    assert outcome.retryable
    client.close()
    agent.close()
    assert b"".join(seen) == b""
