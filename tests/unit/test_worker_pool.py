"""The threads pool grows and shrinks while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from celery import concurrency

from orchestrator.worker.pool import TaskPool, use_our_threads


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    made = TaskPool(limit=2)
    made.start()
    yield made
    made.stop()


def run_at_once(pool: TaskPool, count: int) -> bool:
    """Whether ``count`` tasks run at the same time."""
    together = threading.Barrier(count + 1)
    for _ in range(count):
        pool.on_apply(lambda: together.wait(10), (), {}, callback=lambda _: None)
    try:
        together.wait(2)
    except threading.BrokenBarrierError:
        return False
    return True


def test_grow_lets_more_tasks_run_at_once(pool: TaskPool) -> None:
    assert run_at_once(pool, 2)
    pool.grow(2)
    assert pool.num_processes == 4
    assert run_at_once(pool, 4)


def test_shrink_lowers_the_limit_and_leaves_one(pool: TaskPool) -> None:
    pool.grow(3)
    pool.shrink(4)
    assert pool.num_processes == 1
    with pytest.raises(ValueError, match="leave none"):
        pool.shrink(1)


def test_flower_sees_its_size_and_process(pool: TaskPool) -> None:
    info = pool._get_info()
    assert info["max-concurrency"] == 2
    assert len(info["processes"]) == 1


def test_threads_means_this_pool() -> None:
    use_our_threads()
    assert concurrency.get_implementation("threads") is TaskPool
