"""Agents that break HTTP, stall, flood or leak: each call ends in time, and its outcome can be kept."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from urllib3.connection import HTTPConnection

from orchestrator.agents import HttpAgentClient, connections, transport
from orchestrator.agents.reply import outcome_of_call, outcome_of_poll, parse, plain, retry_after
from orchestrator.agents.transport import Transport
from orchestrator.agents.wire import Answer
from orchestrator.domain.agent import AgentAuth, AgentSpec, AgentTimeout
from orchestrator.domain.delegation import AgentOutcome, NotDone, OutcomeUnknown, Replied
from orchestrator.flow.ports import AgentRequest
from tests.support.agents import ScriptedAgent, reply
from tests.support.raw_agent import GOOD, Behaviour, RawAgent, answering, read_request, some

REQUEST = AgentRequest("t-1", 1, "t-1:1:0:abc", "Score it", {"n": 1})


@pytest.fixture
def client() -> Iterator[HttpAgentClient]:
    made = HttpAgentClient(concurrency=8)
    yield made
    made.close()


def spec(port: int, scheme: str = "http", **parts: Any) -> AgentSpec:
    return AgentSpec("score", "Scores.", f"{scheme}://127.0.0.1:{port}/score", **{"timeout": LIMITS, **parts})


LIMITS = AgentTimeout(connect=10, read=10, total=1.5)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def dripping(begin: bytes, drop: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        some(connection)
        connection.sendall(begin)
        while True:
            connection.sendall(drop)
            time.sleep(0.05)

    return behave


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
        (b"HTTP/1.1 422 No\r\nContent-Length: 1000000\r\n\r\n", b" "),
    ],
)
def test_no_drip_outlasts_the_deadline(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], begin: bytes, drop: bytes
) -> None:
    began = time.monotonic()
    outcome = client.call(spec(raw_agent(dripping(begin, drop)).port), REQUEST)
    assert time.monotonic() - began < LIMITS.total + 2
    assert isinstance(outcome, OutcomeUnknown), outcome


def test_a_dripping_tls_handshake_is_bounded_and_nothing_was_sent(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    began = time.monotonic()
    outcome = client.call(spec(raw_agent(dripping(b"\x16\x03\x03\x3f\x00", b"\x02")).port, "https"), REQUEST)
    assert time.monotonic() - began < LIMITS.total + 2
    assert isinstance(outcome, NotDone)
    assert (outcome.code, outcome.retryable) == ("agent_down", True)


@pytest.mark.parametrize("status", ["302 Found", "500 Oh", "422 No", "200 OK"])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_no_flood_is_read_beyond_the_cap(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], status: str, coding: str
) -> None:
    """A redirect's body above all: requests reads it whole, even when told not to follow."""
    plain_body = b"x" * 60_000_000
    body = gzip.compress(plain_body, 1) if coding == "gzip" else plain_body
    flood = raw_agent(answering(http(status, body, "Location: /elsewhere", f"Content-Encoding: {coding}")))
    tracemalloc.start()
    try:
        outcome = client.call(spec(flood.port, timeout=AgentTimeout(1, 10, 20), max_reply_bytes=10_000), REQUEST)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    expected = {"2": "reply_invalid", "3": "agent_rejected", "4": "agent_rejected", "5": "agent_error"}
    assert isinstance(outcome, NotDone | OutcomeUnknown)
    assert outcome.code == expected[status[0]]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http("200 OK", b"not gzip", "Content-Encoding: gzip"), "reply_invalid"),
        (http("422 No", b"not gzip", "Content-Encoding: gzip"), "agent_rejected"),
        (http("503 Busy", b"not gzip", "Content-Encoding: gzip"), "agent_busy"),
        (http("200 OK", gzip.compress(b'{"output": 1}', mtime=0)[:-12], "Content-Encoding: gzip"), "reply_invalid"),
        (http("400 Bad", b"a\x00b\xff\x1b[2J\ncd"), "agent_rejected"),
        (http("400 Bad", b'{"title": "a\\nb\\u001b\\u2028c"}'), "agent_rejected"),
        (http("200 OK", b"\x00\x01"), "reply_invalid"),
        (http("202 Accepted", b"", "Location: /jobs/\x00x"), "reply_invalid"),
        (http("202 Accepted", b"", "Location: http://["), "reply_invalid"),
        (b"\x00\x01garbage\r\n\r\n", "reply_lost"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 500 + b"\r\n", "reply_lost"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "reply_lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "reply_lost"),
    ],
)
def test_what_is_told_of_broken_http_can_be_kept(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], answer: bytes, code: str
) -> None:
    outcome = client.call(spec(raw_agent(answering(answer)).port), REQUEST)
    assert isinstance(outcome, NotDone | OutcomeUnknown), outcome
    assert outcome.code == code
    assert outcome.detail.isprintable()
    assert 0 < len(outcome.detail) <= 1_000


def test_a_location_with_credentials_is_none(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    """requests would send them in place of ours."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        port = connection.getsockname()[1]
        connection.sendall(http("202 Accepted", b"", f"Location: http://user:password@127.0.0.1:{port}/jobs/1"))

    assert isinstance(client.call(spec(raw_agent(answer).port), REQUEST), OutcomeUnknown)


@pytest.mark.parametrize("kind", ["bearer", "basic", "header"])
def test_an_agent_that_repeats_our_secret_does_not_get_it_into_the_journal(
    client: HttpAgentClient,
    raw_agent: Callable[[Behaviour], RawAgent],
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    monkeypatch.setenv("LEAKED", f"user:w0rd-of-{kind}")
    encoded = base64.b64encode(f"user:w0rd-of-{kind}".encode()).decode()
    body = f'{{"title": "No", "detail": "{"x" * 150} w0rd-of-{kind} user:w0rd-of-{kind} {encoded}"}}'.encode()
    for text in (body, body.replace(b"{", b"")):
        leaky = raw_agent(answering(http("401 Who", text)))
        outcome = client.call(spec(leaky.port, auth=AgentAuth(kind, "LEAKED")), REQUEST)
        assert isinstance(outcome, NotDone)
        assert "xxx" in outcome.detail
        assert f"user:w0rd-of-{kind}" not in outcome.detail
        if kind == "basic":
            assert "w0rd" not in outcome.detail
            assert encoded[:12] not in outcome.detail


def test_cookies_are_not_kept(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/score", reply(1, headers={"Set-Cookie": "a=b"}), idempotent=False)
    target = AgentSpec("score", "Scores.", url)
    assert client.call(target, REQUEST) == client.call(target, REQUEST) == Replied(1)
    assert all("cookie" not in seen.headers for seen in scripted_agent.ledger().requests)


def test_a_connection_is_used_again_until_it_was_idle_too_long(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.0)
    agent = raw_agent(answering(GOOD))
    assert [client.call(spec(agent.port), REQUEST) for _ in range(3)] == [Replied(1)] * 3
    assert agent.connections == 1
    monkeypatch.setattr(connections, "IDLE_LIMIT", -1.0)
    assert client.call(spec(agent.port), REQUEST) == Replied(1)
    assert agent.connections == 2


def test_an_agent_that_closes_idle_connections_makes_no_call_unknown(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.0)
    closed = threading.Event()

    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(GOOD)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    agent = raw_agent(once)
    for _ in range(10):
        closed.clear()
        assert client.call(spec(agent.port), REQUEST) == Replied(1)
        assert closed.wait(5)


def test_a_deadline_that_passes_while_connecting_has_sent_nothing(
    client: HttpAgentClient, raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    agent = raw_agent(lambda connection: seen.append(some(connection)))
    connect = HTTPConnection.connect

    def slowly(connection: Any) -> None:
        connect(connection)
        time.sleep(0.5)

    monkeypatch.setattr(HTTPConnection, "connect", slowly)
    outcome = client.call(spec(agent.port, timeout=AgentTimeout(5, 5, 0.2)), REQUEST)
    assert isinstance(outcome, NotDone)
    assert (outcome.code, outcome.retryable) == ("agent_down", True)
    assert seen == []


def test_a_deadline_cannot_reach_a_connection_that_was_given_back(
    raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one exchange's deadline would cut off the next exchange on the same connection."""
    monkeypatch.setattr(connections, "REST", 0.0)
    agent, kept = raw_agent(answering(GOOD)), Transport(1)
    guards = []
    watch = transport._Watchdog.watch

    def watched(watchdog: transport._Watchdog, seconds: float) -> transport._Guard:
        guards.append(watch(watchdog, seconds))
        return guards[-1]

    monkeypatch.setattr(transport._Watchdog, "watch", watched)

    def exchange() -> Answer:
        url, bounds = f"http://127.0.0.1:{agent.port}/", {"connect": 5.0, "read": 5.0, "total": 5.0}
        return kept.exchange("POST", url, {}, b"{}", max_bytes=1_000, **bounds)

    assert exchange().status == 200
    guards[0].expire()
    assert exchange().status == 200
    assert agent.connections == 1
    kept.close()


def test_many_threads_share_a_client(
    raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REST", 0.0)
    agent, client = raw_agent(answering(GOOD)), HttpAgentClient(concurrency=16)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: client.call(spec(agent.port), REQUEST), range(400)))
    client.close()
    assert outcomes == [Replied(1)] * 400
    assert agent.connections <= 16


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [+-]\d{1,15}"))
def test_retry_after_is_bounded_whatever_it_says(text: str) -> None:
    seconds = retry_after({"Retry-After": text})
    assert seconds is None or 0 <= seconds <= 86_400


@given(
    st.integers(100, 999),
    st.binary() | st.sampled_from([b"{" * 100_000, b"[" * 100_000, b"1" * 5_000, b'{"output": ' + b"[" * 100_000]),
    st.dictionaries(st.sampled_from(["Location", "Retry-After"]), st.text()),
)
def test_whatever_is_answered_comes_to_an_outcome(status: int, body: bytes, headers: dict[str, str]) -> None:
    answer = Answer(status, headers, body)
    for outcome in (outcome_of_call(spec(1), answer), outcome_of_poll(spec(1), answer)):
        assert isinstance(outcome, AgentOutcome)
        assert plain(getattr(outcome, "detail", "")).isprintable()


def test_an_output_schema_without_end_makes_a_bad_reply() -> None:
    outcome = outcome_of_call(spec(1, output_schema={"$ref": "#"}), Answer(200, {}, b'{"output": {}}'))
    assert isinstance(outcome, NotDone)
    assert outcome.code == "reply_invalid"


def test_a_long_text_is_checked_quickly() -> None:
    began = time.process_time()
    parse(b'{"output": "' + b"x" * 10_000_000 + b'"}')
    assert time.process_time() - began < 0.5
