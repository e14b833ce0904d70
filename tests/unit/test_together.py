"""Calls that come while another one is under way go together with the next."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from orchestrator.store.together import Apart, Together

SOON = 30.0
"""Seconds after which a test gives up."""


class Server:
    """Doubles numbers; holds up what it runs until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.singles: list[int] = []
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.refuses = False

    def run(self, asked: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(asked))
        self.began.release()
        assert self.go.acquire(timeout=SOON)
        if self.refuses:
            raise Apart
        return [2 * one for one in asked]

    def alone(self, one: int) -> int:
        self.singles.append(one)
        if one < 0:
            raise ValueError(str(one))
        return 2 * one


@pytest.fixture
def server() -> Server:
    return Server()


def together(server: Server, *, at_once: int = 1, most: int = 10) -> Together[int, int]:
    return Together(server.run, server.alone, at_once=at_once, most=most)


def came(calls: Together[int, int], pool: ThreadPoolExecutor, asked: Sequence[int]) -> list[Future[int]]:
    """Calls in this order, all of them waiting when this returns."""
    futures = []
    for one in asked:
        before = calls.waiting
        futures.append(pool.submit(calls.call, one))
        while calls.waiting == before:
            pass
    return futures


def test_alone_a_call_goes_at_once_and_by_itself(server: Server) -> None:
    server.go.release()
    assert together(server).call(4) == 8
    assert server.batches == [[4]]


def test_those_that_come_meanwhile_go_together_and_each_gets_its_own_answer(server: Server) -> None:
    calls = together(server, most=3)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(calls.call, 1)
        assert server.began.acquire(timeout=SOON)
        others = came(calls, pool, [2, 3, 4, 5, 6])
        server.go.release(3)
        assert [first.result(SOON), *(one.result(SOON) for one in others)] == [2, 4, 6, 8, 10, 12]
    assert server.batches == [[1], [2, 3, 4], [5, 6]]


def test_several_batches_are_under_way_at_once_where_that_is_allowed(server: Server) -> None:
    calls = together(server, at_once=2)
    with ThreadPoolExecutor(8) as pool:
        two = [pool.submit(calls.call, one) for one in (1, 2)]
        assert all(server.began.acquire(timeout=SOON) for _ in two)
        third = came(calls, pool, [3])
        server.go.release(3)
        assert [one.result(SOON) for one in (*two, *third)] == [2, 4, 6]
    assert sorted(server.batches) == [[1], [2], [3]]


def test_where_one_is_in_the_way_each_runs_alone_and_learns_of_its_own_error_only(server: Server) -> None:
    calls = together(server)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(calls.call, 1)
        assert server.began.acquire(timeout=SOON)
        others = came(calls, pool, [2, -3, 4])
        server.refuses = True
        server.go.release(2)
        assert first.result(SOON) == 2
        assert [others[0].result(SOON), others[2].result(SOON)] == [4, 8]
        with pytest.raises(ValueError, match="-3"):
            others[1].result(SOON)
    assert sorted(server.singles) == [-3, 1, 2, 4]
    server.refuses = False
    server.go.release()
    assert calls.call(5) == 10


def test_an_error_of_its_run_is_told_and_the_next_goes_on() -> None:
    def run(asked: Sequence[int]) -> Sequence[int]:
        raise KeyError(asked[0])

    calls = Together(run, run_alone, at_once=1, most=4)
    for number in (1, 2):
        with pytest.raises(KeyError, match=str(number)):
            calls.call(number)


def run_alone(one: int) -> int:
    raise AssertionError(f"{one} was not to run alone")


def test_many_threads_get_their_own_answers_and_no_more_than_allowed_are_under_way() -> None:
    busy, most_busy, lock = 0, 0, threading.Lock()

    def run(asked: Sequence[int]) -> Sequence[int]:
        nonlocal busy, most_busy
        with lock:
            busy += 1
            most_busy = max(most_busy, busy)
        answers = [2 * one for one in asked]
        with lock:
            busy -= 1
        return answers

    calls = Together(run, run_alone, at_once=2, most=5)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(calls.call, range(5000))) == [2 * one for one in range(5000)]
    assert most_busy <= 2
    assert calls.waiting == 0
