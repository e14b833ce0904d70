"""Caps, rates and breakers on a real Redis-compatible server, as several processes share them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import pytest
from redis import Redis

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited, LimitState, NotNow
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.limits import Permit
from orchestrator.limits import BreakerRules, SharedLimits
from tests.support.processes import ROOT, clean_environment, wait_for

LEASE = timedelta(seconds=0.6)
SCORE = Limited("agent", "score", max_concurrency=2)
FRAGILE = Limited("agent", "fragile", has_breaker=True)
BREAKER = BreakerRules(failures=3, pause=0.3, patience=60.0)

Make = Callable[..., SharedLimits]


@pytest.fixture
def make(redis_url: str) -> Iterator[Make]:
    """Limits as a process of its own would have them."""
    made: list[SharedLimits] = []

    def one(
        url: str = redis_url,
        breaker: BreakerRules = BREAKER,
        wake: Callable[[Sequence[Dispatch]], None] = lambda _: None,
    ) -> SharedLimits:
        made.append(SharedLimits(Redis.from_url(url, socket_timeout=1), "test:", LEASE, breaker, wake))
        return made[-1]

    yield one
    for limits in made:
        limits.stop()


def enter(limits: SharedLimits, what: Limited = SCORE, task_id: str = "t-1", priority: int = 4) -> Permit | NotNow:
    return limits.enter(what, Dispatch(task_id, 1, priority))


def entered(limits: SharedLimits, what: Limited = SCORE) -> Permit:
    answer = enter(limits, what)
    assert not isinstance(answer, NotNow), answer
    return answer


def refused(limits: SharedLimits, what: Limited = SCORE, task_id: str = "t-1", priority: int = 4) -> NotNow:
    answer = enter(limits, what, task_id, priority)
    assert isinstance(answer, NotNow), "let in"
    return answer


def state(limits: SharedLimits, what: Limited = SCORE) -> LimitState:
    (found,) = limits.look([what]) or ()
    return found


# -- caps


def test_a_cap_holds_over_processes(make: Make) -> None:
    one, other = make(), make()
    first, _ = entered(one), entered(other)
    said = refused(one)
    assert said.code == "agent_at_capacity"
    assert said.reason == "score is called as much as its limits allow (2 calls at once)"
    assert 0 < said.retry_in < 5
    assert state(other).in_flight == 2
    first.leave(True)
    first.leave(True)
    entered(other)
    refused(one)


def test_a_permit_is_renewed_as_long_as_it_is_held(make: Make) -> None:
    one = make()
    entered(one), entered(one)
    until = time.monotonic() + 3 * LEASE.total_seconds()
    wait_for(lambda: time.monotonic() > until, what="three leases have passed")
    refused(make())


def test_a_slot_whose_holder_died_frees_itself(make: Make, redis_url: str) -> None:
    program = f"""
import time
from datetime import timedelta
from redis import Redis
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited
from orchestrator.limits import BreakerRules, SharedLimits
limits = SharedLimits(Redis.from_url({redis_url!r}), "test:", timedelta(seconds={LEASE.total_seconds()}),
                      BreakerRules(), lambda _: None)
for _ in range(2):
    limits.enter(Limited("agent", "score", max_concurrency=2), Dispatch("t-1", 1))
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        limits = make()
        refused(limits)
        os.kill(holder.pid, signal.SIGKILL)
    wait_for(lambda: state(limits).in_flight == 0, what="its permits ran out")
    entered(limits)


def test_who_was_refused_is_woken_most_urgent_first(make: Make) -> None:
    woken: list[str] = []
    one = make(wake=lambda waiters: woken.extend(waiter.task_id for waiter in waiters))
    held = [entered(one), entered(one)]
    for name, priority in (("first", 4), ("second", 4), ("urgent", 9)):
        refused(one, task_id=name, priority=priority)
    assert state(one).waiting == 3
    held[0].leave(True)
    assert woken == ["urgent"]
    held[1].leave(None)
    assert woken == ["urgent", "first", "second"], "two slots are free"
    assert state(one).waiting == 0


def test_a_wake_that_fails_harms_nobody(make: Make) -> None:
    def wake(_waiters: Sequence[Dispatch]) -> None:
        raise StoreUnavailable("PostgreSQL is away")

    one = make(wake=wake)
    held = [entered(one), entered(one)]
    refused(one)
    held[0].leave(True)
    entered(one)


def test_the_pause_grows_with_those_who_wait_and_shrinks_with_urgency(make: Make) -> None:
    one = make()
    entered(one), entered(one)
    for number in range(400):
        refused(one, task_id=f"t-{number}")
    assert refused(one, task_id="late").retry_in > 5
    assert refused(one, task_id="urgent", priority=9).retry_in < 5


# -- rates


def test_calls_are_spread_over_processes(make: Make) -> None:
    one, other = make(), make()
    slow = Limited("agent", "slow", rate=4.0)
    times: list[float] = []
    while len(times) < 5:
        for limits in (one, other):
            answer = enter(limits, slow)
            if isinstance(answer, NotNow):
                assert answer.retry_in > 0
            else:
                times.append(time.monotonic())
                answer.leave(True)
    assert times[4] - times[0] >= 4 * 0.25 - 0.1


def test_a_high_rate_lets_a_tenth_of_a_second_in_at_once(make: Make) -> None:
    quick = Limited("model", "quick", rate=100.0)
    one = make()
    permits = [enter(one, quick) for _ in range(100)]
    assert 10 <= sum(not isinstance(permit, NotNow) for permit in permits) < 100


# -- breakers


def test_a_breaker_opens_lets_one_try_and_closes(make: Make) -> None:
    one, other = make(), make()
    for limits in (one, other, one):
        entered(limits, FRAGILE).leave(False)
    said = refused(other, FRAGILE)
    assert said.code == "agent_breaker_open"
    assert "failed 3 times in a row" in said.reason
    assert not said.for_good
    assert state(one, FRAGILE).failures == 3
    wait_for(lambda: state(one, FRAGILE).open_for == 0, what="one may try")
    probe = entered(one, FRAGILE)
    refused(other, FRAGILE)
    probe.leave(False)
    assert refused(other, FRAGILE).code == "agent_breaker_open", "it failed again"
    wait_for(lambda: state(one, FRAGILE).open_for == 0, what="one may try again")
    probe = entered(other, FRAGILE)
    probe.leave(True)
    entered(one, FRAGILE), entered(one, FRAGILE)
    assert state(one, FRAGILE) == LimitState(in_flight=2, waiting=0)


def test_only_failures_in_a_row_count(make: Make) -> None:
    one = make()
    for well in (False, False, True, False, None, False):
        entered(one, FRAGILE).leave(well)
    entered(one, FRAGILE)


def test_a_probe_whose_process_dies_is_followed_by_another(make: Make) -> None:
    one = make()
    for _ in range(3):
        entered(one, FRAGILE).leave(False)
    wait_for(lambda: state(one, FRAGILE).open_for == 0, what="one may try")
    entered(one, FRAGILE)
    other = make()
    refused(other, FRAGILE)
    wait_for(lambda: not isinstance(enter(other, FRAGILE), NotNow), what="another may try")


def test_waiting_is_given_up_in_the_end(make: Make) -> None:
    one = make(breaker=BreakerRules(failures=1, pause=5.0, patience=0.2))
    entered(one, FRAGILE).leave(False)
    wait_for(lambda: refused(one, FRAGILE).for_good, what="it has failed for longer than that")


# -- Redis is lost


def test_what_redis_forgot_is_told_to_it_again(make: Make, redis_url: str) -> None:
    one = make()
    held = [entered(one), entered(one)]
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    refused(one)  # our own count remembers
    wait_for(lambda: state(one).in_flight == 2, what="renewing tells it")
    other = make()
    refused(other)
    held[0].leave(True)
    entered(other)


def test_without_redis_each_process_keeps_to_the_bounds_by_itself(make: Make) -> None:
    away = make(url="redis://127.0.0.1:1/0")
    first = entered(away)
    entered(away)
    assert refused(away).code == "agent_at_capacity"
    first.leave(False)
    entered(away)
    assert away.look([SCORE]) is None
    slow = Limited("agent", "slow", rate=2.0)
    entered(away, slow)
    assert refused(away, slow).retry_in > 0.3


def test_a_redis_that_comes_back_is_used_again(make: Make, private_stack: EmbeddedStack) -> None:
    url = private_stack.env()["REDIS_URL"]
    one, other = make(url), make(url)
    entered(one)
    private_stack.valkey.kill()
    entered(one)
    refused(one)
    private_stack.valkey.start()
    wait_for(lambda: (other.look([SCORE]) or [LimitState()])[0].in_flight == 2, what="it knows of both again")
    refused(other)
