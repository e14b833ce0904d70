"""What the sample agents' helper promises when calls overlap, pile up or go wrong."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from examples.agents import _server
from examples.agents._server import Agent, Call, Later, Problem, Service

BODY = json.dumps({"task": "do it", "input": {"a": 1}}).encode()


def test_a_repeated_key_waits_for_the_first_and_does_not_act_beside_it() -> None:
    both_inside = threading.Barrier(2)
    entered, looked_up = threading.Event(), threading.Event()
    states: list[int] = []

    def answer(call: Call) -> dict[str, Any]:
        entered.set()
        states.append(call.attempt)
        try:
            both_inside.wait(0.5)
        except threading.BrokenBarrierError:
            looked_up.wait(5)
            return {"met": False}
        return {"met": True}

    service = Service(Agent("slow", answer, side_effects=True))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(service.post, BODY, "k"), pool.submit(service.post, BODY, "k")
        assert entered.wait(5)
        assert service.look_up("k").status == 202
        looked_up.set()
        assert first.result().document == second.result().document == {"output": {"met": False}}
    assert states == [1]
    assert service.look_up("k").document == {"output": {"met": False}}
    assert service.health() == {"status": "ok", "agent": "slow", "calls": 2, "effects": 1}


def test_a_key_that_ended_in_a_problem_tries_again_and_counts_its_attempts() -> None:
    def answer(call: Call) -> dict[str, Any]:
        if call.attempt < 3:
            raise Problem(503, "Busy", "later", retry_after=1)
        return {"attempt": call.attempt}

    service = Service(Agent("busy", answer, side_effects=True))
    for _ in range(2):
        with pytest.raises(Problem, match="503 Busy"):
            service.post(BODY, "k")
        with pytest.raises(Problem, match="404 Unknown key"):
            service.look_up("k")
    assert service.post(BODY, "k").document == {"output": {"attempt": 3}}
    assert service.health()["effects"] == 1


def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "MAX_REMEMBERED", 2)
    service = Service(Agent("later", lambda _: Later(0, {"done": True}), side_effects=True))
    places = [service.post(BODY, key).headers["Location"].rpartition("/")[2] for key in ("k1", "k2", "k3")]
    with pytest.raises(Problem, match="404 Unknown key"):
        service.look_up("k1")
    with pytest.raises(Problem, match="404 Unknown job"):
        service.job(places[0])
    for key, place in (("k2", places[1]), ("k3", places[2])):
        assert service.look_up(key).document == service.job(place).document
        assert service.job(place).document == {"status": "succeeded", "output": {"done": True}}
    assert service.health()["effects"] == 3


def test_a_job_is_canceled_before_it_is_done_and_its_key_starts_afresh() -> None:
    service = Service(Agent("slow", lambda _: Later(60, {"score": 1}), side_effects=True))
    job = service.post(BODY, "k").headers["Location"].rpartition("/")[2]
    for _ in range(2):
        assert service.job(job, cancel=True).document == {"status": "canceled"}
    assert service.job(job).document == {"status": "canceled"}
    assert service.health()["effects"] == 0
    assert service.post(BODY, "k").headers["Location"].rpartition("/")[2] != job


def test_a_job_that_is_done_is_not_canceled_any_more() -> None:
    service = Service(Agent("quick", lambda _: Later(0, {"score": 1}), side_effects=True))
    job = service.post(BODY, "k").headers["Location"].rpartition("/")[2]
    assert service.job(job, cancel=True).document == {"status": "succeeded", "output": {"score": 1}}
    with pytest.raises(Problem, match="404 Unknown job"):
        service.job("never", cancel=True)
