"""Calls that come while another one is under way go together with the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from orchestrator.store.together import Apart, Together
from tests.support.processes import wait_for

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
    futures: list[Future[int]] = []

    def all_wait() -> bool:
        return calls.waiting == before + len(futures)

    before = calls.waiting
    for one in asked:
        futures.append(pool.submit(calls.call, one))
        wait_for(all_wait, SOON, "it waits")
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


@pytest.mark.parametrize("answers", [[1], [1, 2, 3, 4]])
def test_an_answer_too_few_or_too_many_is_nobodys(server: Server, answers: list[int]) -> None:
    def run(asked: Sequence[int]) -> Sequence[int]:
        doubled = server.run(asked)
        return doubled if len(asked) == 1 else answers

    calls = Together(run, server.alone, at_once=1, most=10)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(calls.call, 1)
        assert server.began.acquire(timeout=SOON)
        others = came(calls, pool, [2, 3, 4])
        server.go.release(2)
        assert [first.result(SOON), *(one.result(SOON) for one in others)] == [2, 4, 6, 8]


def test_whoever_stops_waiting_leaves_its_place_to_the_others(server: Server) -> None:
    calls = together(server)

    class Interrupted(threading.Thread):
        def run(self) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("orchestrator.store.together.Signal", _Raising)
                with pytest.raises(KeyboardInterrupt):
                    calls.call(2)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(calls.call, 1)
        assert server.began.acquire(timeout=SOON)
        interrupted = Interrupted()
        interrupted.start()
        interrupted.join(SOON)
        assert calls.waiting == 0
        (other,) = came(calls, pool, [3])
        server.go.release(2)
        assert [first.result(SOON), other.result(SOON)] == [2, 6]
    assert server.batches == [[1], [3]]


class _Raising:
    """A turn that is interrupted while it is waited for."""

    def wait(self) -> None:
        raise KeyboardInterrupt

    def come(self) -> None:
        """Nobody waits."""


def test_many_threads_get_their_own_answers_and_no_more_than_allowed_are_under_way() -> None:
    busy, most_busy, largest, lock = 0, 0, 0, threading.Lock()

    def run(asked: Sequence[int]) -> Sequence[int]:
        nonlocal busy, most_busy, largest
        with lock:
            busy += 1
            most_busy, largest = max(most_busy, busy), max(largest, len(asked))
        time.sleep(0.001)
        with lock:
            busy -= 1
        return [2 * one for one in asked]

    calls = Together(run, run_alone, at_once=2, most=5)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(calls.call, range(2000))) == [2 * one for one in range(2000)]
    assert most_busy == 2
    assert 1 < largest <= 5
    assert calls.waiting == 0
