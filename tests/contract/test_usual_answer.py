"""An answer of the usual kind is taken apart in one look, and nothing else comes of it than of reading it whole."""

from __future__ import annotations

import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from orchestrator.agents.reading import _any_answer, read_answer
from orchestrator.agents.wire import MOST_HEADERS, Answer, usual_answer

BODY = b'{"output": 1}'

STATUS_LINES = """
    HTTP/1.1 200 OK | HTTP/1.1 200 | HTTP/1.1 503 Busy, busy | HTTP/1.0 200 OK | HTTP/1.1 2000 OK | HTTP/1.1 204 None
    HTTP/1.1 304 Old | HTTP/1.1 100 On | HTTP/1.1 600 X | http/1.1 200 OK | HTTP/1.1 200 O\xe4 | HTTP/2 200
"""
LENGTHS = """
    Content-Length: 13 | content-length:13 | Content-Length: +13 | Content-Length: 5 | Content-Length: 0
    Content-Length: 20 | Content-Length: 1_3 | No-Length: 13
"""
FIELDS = """
    Content-Type: application/json | X-A:b | x-a: c | Empty: | Upgrade: x | Tab:\ta\tb | Connection: close
    Connection: Keep-Alive, Close | Connection: keep-alive | Transfer-Encoding: chunked | Content-Length: 13
    Content-Encoding: gzip | Content-Encoding: identity | Bad Name: x | : none | no colon | L: \xe4 | V: a\x0bb
    N: a\x00b | D\x7f: 1
"""
ODD_FIELDS = [b"X-B:  b  ", b" folded", b"Content-Length: 13 ", b"R: a\rb: c"]


def one_of(lines: str, *more: bytes) -> st.SearchStrategy[bytes]:
    written = [part.strip(" ").encode("latin-1") for line in lines.strip().split("\n") for part in line.split("|")]
    return st.sampled_from([*written, *more])


def often(usual: bytes, others: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.booleans().flatmap(lambda odd: others if odd else st.just(usual))


def by_the_whole_reading(data: bytes) -> tuple[Answer, bool]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return _any_answer(ours, ours.recv(16_384), "POST", 100_000)


@settings(max_examples=400, deadline=None)
@given(
    often(b"HTTP/1.1 200 OK", one_of(STATUS_LINES)),
    often(b"Content-Length: 13", one_of(LENGTHS)),
    st.lists(one_of(FIELDS, *ODD_FIELDS), max_size=3),
    often(b"\r\n", st.just(b"\n")),
    st.sampled_from([b"", b" ", b"HTTP/1.1 200 OK\r\n"]),
)
def test_a_look_and_the_whole_reading_agree(
    status: bytes, length: bytes, fields: list[bytes], line_end: bytes, more: bytes
) -> None:
    data = line_end.join([status, *fields, length, b"", b""]) + BODY + more
    seen = usual_answer(data)
    event("usual" if seen else "read whole")
    assert seen is None or seen == by_the_whole_reading(data)


@pytest.mark.parametrize("cut", range(len(BODY) + 39))
def test_what_is_not_whole_is_not_seen_as_an_answer(cut: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + BODY
    assert usual_answer(whole) == (Answer(200, {"Content-Length": "13"}, BODY), True)
    assert usual_answer(whole[:cut]) is None


@pytest.mark.parametrize("more", [-1, 0])
def test_a_head_of_too_many_fields_is_left_to_the_library_and_its_bound(more: int) -> None:
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(MOST_HEADERS - 1 + more))
    seen = usual_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n")
    assert (seen is None) == (more == 0)


@pytest.mark.parametrize("cut", [1, 9, 17, 25, 39, 41, 45])
def test_an_answer_that_comes_in_pieces_is_the_same(cut: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + BODY
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        theirs.sendall(whole[:cut])
        reading = pool.submit(read_answer, ours, "POST", 100)
        while not reading.done() and unread(ours):
            time.sleep(0.001)
        theirs.sendall(whole[cut:])
        assert reading.result(10) == usual_answer(whole)


def unread(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])
