"""What of an answer is one: whole or none, its headers, and whether its connection serves another call."""

from __future__ import annotations

import contextlib
import gc
import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.agents import connections
from orchestrator.agents.transport import Broken, Transport
from orchestrator.agents.wire import Answer
from tests.support.raw_agent import GOOD, Behaviour, RawAgent, answering, read_request, some
from tests.support.secured import CA, server_tls

BODY = b'{"output": 1}'
PACKED = gzip.compress(BODY, mtime=0)  # the same in all processes that collect these tests
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.setattr(connections, "REST", 0.0)
    made = Transport(1)
    yield made
    made.close()


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *lines, "", "")).encode("latin-1")


def post(transport: Transport, agent: RawAgent, body: bytes = b"{}", **parts: Any) -> Answer:
    parts = {"headers": {}, "connect": 10.0, "read": 10.0, "total": 10.0, "max_bytes": 100_000, **parts}
    return transport.exchange("POST", f"http://127.0.0.1:{agent.port}/score", body=body, **parts)


def ending(data: bytes) -> Behaviour:
    """Answers one request, then closes."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)

    return behave


@pytest.mark.parametrize(
    "cut",
    [
        head("Content-Length: 20") + BODY,
        head("Content-Length: 20"),
        head("Content-Length: 40000") + b" " * 39_999,
        head("Content-Length: 300", "Content-Encoding: gzip") + PACKED,
        head("Content-Length: 13", "Content-Length: 20") + BODY,
        CHUNKED + b"d\r\n" + BODY + b"\r\n",
        CHUNKED + b"d\r\n" + BODY,
        CHUNKED + b"20\r\n" + BODY,
        CHUNKED + b"d\r\n" + BODY + b"\r\nzz\r\n",
        CHUNKED + b"d\r\n" + BODY + b"\r\n-1\r\n",
        CHUNKED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 13",
        b"",
    ],
)
def test_an_answer_that_is_cut_off_is_none(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent], cut: bytes
) -> None:
    """What came of it may well be JSON."""
    agent = raw_agent(ending(cut))
    with pytest.raises(Broken) as raised:
        post(transport, agent)
    assert (raised.value.sent, raised.value.timed_out) == (True, False)
    assert str(raised.value)


@pytest.mark.parametrize(
    ("whole", "body"),
    [
        (head("Content-Length: 13") + BODY, BODY),
        (head("Content-Length: 0"), b""),
        (head("Content-Length: 13", "Content-Length: 13", "Connection: close") + BODY, BODY),
        (head("Content-Length: 40000") + b"x" * 40_000, b"x" * 40_000),
        (head() + BODY, BODY),
        (head("Content-Encoding: gzip") + PACKED, BODY),
        (head(f"Content-Length: {len(PACKED)}", "Content-Encoding: gzip") + PACKED, BODY),
        (head("Content-Encoding: Identity", "Content-Length: 13") + BODY, BODY),
        (CHUNKED + b"5\r\n" + BODY[:5] + b"\r\n8;name=value\r\n" + BODY[5:] + b"\r\n0\r\nTrailer: a\r\n\r\n", BODY),
        (head(status="HTTP/1.1 100 Continue") + head("Content-Length: 13") + BODY, BODY),
    ],
)
def test_an_answer_may_end_in_many_ways(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent], whole: bytes, body: bytes
) -> None:
    answer = post(transport, raw_agent(ending(whole)))
    assert (answer.status, answer.body, answer.defect) == (200, body, "")


@pytest.mark.parametrize(
    ("answer", "connections_made"),
    [
        (head("Content-Length: 13") + BODY, 1),
        (CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\nTrailer: a\r\n\r\n", 1),
        (head(f"Content-Length: {len(PACKED)}", "Content-Encoding: gzip") + PACKED, 1),
        (head(status="HTTP/1.1 204 No Content"), 1),
        (head(status="HTTP/1.1 304 Not Modified"), 1),
        (head("Content-Length: 0", status="HTTP/1.1 503 Busy"), 1),
        (head("Content-Length: 13", "Connection: keep-alive", status="HTTP/1.0 200 OK") + BODY, 1),
        (head("Content-Length: 13", status="HTTP/1.0 200 OK") + BODY, 2),
        (head("Content-Length: 13", "Connection: close") + BODY, 2),
        (head("Content-Length: 100001") + b"x" * 100_001, 2),
        (head("Transfer-Encoding: chunked", status="HTTP/1.1 204 No Content"), 1),
        (head("Content-Length: 13") + BODY + head("Content-Length: 13") + BODY, 2),
        (head("Content-Length: 13") + BODY + b" ", 2),
        (head("Content-Length: 13", "Content-Encoding: identity") + BODY + b" ", 2),
        (head("Content-Length: 40000") + b"x" * 40_001, 2),
        (CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n\r\n" + GOOD, 2),
        (head(status="HTTP/1.1 204 No Content") + GOOD, 2),
    ],
)
def test_a_connection_is_used_again_where_the_answer_is_whole_and_alone_and_the_agent_keeps_it(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent], answer: bytes, connections_made: int
) -> None:
    agent = raw_agent(answering(answer))
    assert post(transport, agent) == post(transport, agent)
    assert agent.connections == connections_made


def test_what_came_with_an_answer_within_tls_ends_its_connection(
    raw_agent: Callable[[Behaviour], RawAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was unpacked with the answer: it no longer lies in the socket, nor in what reads the answer."""
    monkeypatch.setattr(connections, "REST", 0.0)
    unasked = head("Content-Length: 17") + b'{"output": "BAD"}'

    def behave(connection: socket.socket) -> None:
        with server_tls().wrap_socket(connection, server_side=True) as secure:
            while True:
                read_request(secure)
                secure.sendall(head("Content-Length: 8192"))
                secure.sendall(b"x" * 8192 + (unasked if agent.connections == 1 else b""))

    agent, made = raw_agent(behave), Transport(1, CA)
    bounds = {"connect": 10.0, "read": 10.0, "total": 10.0}
    url = f"https://127.0.0.1:{agent.port}/score"
    bodies = [made.exchange("POST", url, {}, b"{}", max_bytes=100_000, **bounds).body for _ in range(3)]
    made.close()
    assert bodies == [b"x" * 8192] * 3
    assert agent.connections == 2


@pytest.mark.parametrize(("most", "body"), [(12, None), (13, BODY)])
def test_a_small_cap_holds_for_an_answer_that_came_whole(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent], most: int, body: bytes | None
) -> None:
    answer = post(transport, raw_agent(answering(GOOD)), max_bytes=most)
    assert (answer.body, answer.defect) == (body, "" if body else "larger than max_reply_bytes")


def test_sending_over_a_kept_connection_has_its_own_time(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    """Not that of the reading before: it is longer where an agent takes its time to answer."""

    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(GOOD)
        assert over.wait(20)

    over = threading.Event()
    agent = raw_agent(once)
    assert post(transport, agent).body == BODY
    with pytest.raises(Broken, match="timed out") as raised:
        post(transport, agent, b"x" * 50_000_000, connect=0.2, read=9.0)
    over.set()
    assert (raised.value.sent, raised.value.timed_out) == (True, True)
    assert "9" not in str(raised.value)
    assert agent.connections == 1


def test_what_only_announces_an_answer_is_none(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    """The answer proper is still to come, on the same connection: it must not be taken for that of another call."""
    agent = raw_agent(answering(head("Link: </style.css>", status="HTTP/1.1 103 Early Hints")))
    for _ in range(2):
        with pytest.raises(Broken, match="103 came, which only announces") as raised:
            post(transport, agent)
        assert (raised.value.sent, raised.value.timed_out) == (True, False)
    assert agent.connections == 2


def test_a_connection_that_a_call_failed_on_is_not_used_again(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    def silent_then_good(connection: socket.socket) -> None:
        read_request(connection)
        if agent.connections == 1:
            some(connection)
        connection.sendall(GOOD)

    agent = raw_agent(silent_then_good)
    with pytest.raises(Broken, match="Read timed out") as raised:
        post(transport, agent, read=0.2)
    assert (raised.value.sent, raised.value.timed_out) == (True, True)
    assert post(transport, agent).body == BODY
    assert agent.connections == 2


def test_an_answer_counts_that_comes_before_the_request_was_read(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    """An agent refuses what is too large for it, and closes: sending fails then, and the refusal is there to read."""

    def refuse(connection: socket.socket) -> None:
        some(connection)
        connection.sendall(head("Content-Length: 5", status="HTTP/1.1 413 Too Large") + b"large")

    agent = raw_agent(refuse)
    for _ in range(2):
        answer = post(transport, agent, b"x" * 50_000_000)
        assert (answer.status, answer.body) == (413, b"large")
    assert agent.connections == 2


def test_an_agent_that_leaves_while_it_is_sent_to_may_have_acted(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    def leave(connection: socket.socket) -> None:
        some(connection)

    with pytest.raises(Broken) as raised:
        post(transport, raw_agent(leave), b"x" * 50_000_000)
    assert (raised.value.sent, raised.value.timed_out) == (True, False)


def test_a_header_that_comes_several_times_is_one(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    lines = ("X-Part: a", "Content-Length: 13", "x-part: b", "X-PART: c", "Folded: one", "  two", "Latin: \xe4")
    answer = post(transport, raw_agent(answering(head(*lines) + BODY)))
    expected = {"X-Part": "a, b, c", "Content-Length": "13", "Folded": "one two", "Latin": "\xe4"}
    assert (answer.headers, answer.body) == (expected, BODY)


def test_a_header_in_other_letters_takes_the_place_of_ours(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    seen: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        seen.append(connection.recv(65_536, socket.MSG_PEEK))
        read_request(connection)
        connection.sendall(GOOD)

    post(transport, raw_agent(keep), headers={"accept-encoding": "gzip"})
    names = [line.partition(b":")[0].lower() for line in seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert sorted(names) == [b"accept-encoding", b"content-length", b"host"]


@pytest.mark.parametrize("headers", [{"A": "b\r\nC: d"}, {"A": "b\nc"}, {"A\r\nB": "c"}, {"A": "\u20ac"}, {"": "a"}])
def test_what_is_no_header_is_not_sent(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent], headers: dict[str, str]
) -> None:
    agent = raw_agent(answering(GOOD))
    with pytest.raises(Broken) as raised:
        post(transport, agent, headers=headers)
    assert (raised.value.sent, agent.connections) == (False, 0)


def test_an_ipv6_address_is_called_by_its_name() -> None:
    with contextlib.ExitStack() as kept:
        try:
            listener = kept.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("this machine has no IPv6")
        transport = Transport(1)
        kept.callback(transport.close)
        url = f"http://[::1]:{listener.getsockname()[1]}/score?a=b"
        listener.settimeout(0.0)
        bounds = {"connect": 5.0, "read": 0.2, "total": 5.0}
        with pytest.raises(Broken):
            transport.exchange("POST", url, {"A": "b"}, b"{}", max_bytes=100, **bounds)
        accepted = kept.enter_context(listener.accept()[0])
        lines = some(accepted).decode().split("\r\n")
    assert lines[:2] == ["POST /score?a=b HTTP/1.1", f"Host: {url.removeprefix('http://').partition('/')[0]}"]
    assert lines[-2:] == ["", "{}"]
    assert set(lines[2:-2]) == {"A: b", "Content-Length: 2", "Accept-Encoding: identity"}


def test_a_connection_that_comes_back_after_the_end_is_closed(
    transport: Transport, raw_agent: Callable[[Behaviour], RawAgent]
) -> None:
    left = threading.Event()

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        transport.close()
        connection.sendall(GOOD)
        if connection.recv(1) == b"":
            left.set()

    assert post(transport, raw_agent(behave)).body == BODY
    assert left.wait(10)


def test_a_transport_that_nobody_closes_leaves_no_connection_open(
    raw_agent: Callable[[Behaviour], RawAgent],
) -> None:
    left = threading.Event()

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(GOOD)
        if connection.recv(1) == b"":
            left.set()

    forgotten = Transport(1)
    assert post(forgotten, raw_agent(behave)).body == BODY
    del forgotten
    gc.collect()
    assert left.wait(10)
