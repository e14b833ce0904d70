"""The scripted agent of `tests.support.agents` misbehaves exactly as told: other tests stand on it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.agents import (
    ScriptedAgent,
    drip,
    half_reply,
    hang,
    job,
    lost_reply,
    lost_request,
    malformed,
    oversized,
    poll,
    problem,
    redirect,
    reply,
)


def call(url: str, key: str = "k1", timeout: float = 10.0, **options: Any) -> requests.Response:
    with requests.Session() as session:
        return session.post(url, json={"input": {}}, headers={"Idempotency-Key": key}, timeout=timeout, **options)


def test_answers_follow_one_another_and_the_last_repeats(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", problem(503, retry_after=2), reply({"n": 1}), reply({"n": 2}), idempotent=False)
    answers = [call(url) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 200, 200, 200]
    assert answers[0].headers["Retry-After"] == "2"
    assert answers[0].headers["Content-Type"] == "application/problem+json"
    assert [answer.json()["output"]["n"] for answer in answers[1:]] == [1, 2, 2]


def test_the_ledger_knows_requests_and_effects(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", reply({}), idempotent=False)
    call(url, "k1")
    call(url, "k1")
    call(url, "k2")
    ledger = scripted_agent.ledger()
    assert ledger.effects == {"k1": 2, "k2": 1}
    assert ledger.doubled == ["k1"]
    assert [seen.key for seen in ledger.posts("/a")] == ["k1", "k1", "k2"]
    assert ledger.requests[0].headers["content-type"] == "application/json"
    assert ledger.requests[0].body == {"input": {}}


def test_an_idempotent_path_repeats_its_first_reply_without_effect(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", problem(500), reply({"n": 1}), reply({"n": 2}))
    assert [call(url).status_code for _ in range(3)] == [500, 200, 200]
    assert call(url).json() == {"output": {"n": 1}}
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_nothing_scripted_is_not_found_and_reset_forgets(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", reply({}))
    call(url)
    scripted_agent.reset()
    assert scripted_agent.ledger().requests == []
    assert call(url).status_code == 404
    assert scripted_agent.ledger().effects == {}


@pytest.mark.parametrize(("answer", "effects"), [(lost_request(), {}), (lost_reply({"n": 1}), {"k1": 1})])
def test_a_connection_closes_before_or_after_the_effect(
    scripted_agent: ScriptedAgent, answer: dict[str, Any], effects: dict[str, int]
) -> None:
    url = scripted_agent.script("/a", answer, reply({"n": 1}))
    with pytest.raises(requests.ConnectionError):
        call(url)
    assert scripted_agent.ledger().effects == effects
    looked_up = requests.get(f"{url}/replies/k1", timeout=10)
    assert looked_up.status_code == (200 if effects else 404)
    assert call(url).json() == {"output": {"n": 1}}
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_half_a_reply_breaks_in_the_middle(scripted_agent: ScriptedAgent) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        call(scripted_agent.script("/a", half_reply({"n": 1})))
    assert scripted_agent.ledger().effects == {"k1": 1}


@pytest.mark.parametrize("effect", [False, True])
def test_a_hanging_call_never_answers(scripted_agent: ScriptedAgent, effect: bool) -> None:
    url = scripted_agent.script("/a", hang(effect=effect), reply({"n": 1}))
    with pytest.raises(requests.ReadTimeout):
        call(url, timeout=0.3)
    assert scripted_agent.ledger().effects == ({"k1": 1} if effect else {})
    assert call(url).status_code == 200
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_a_dripping_reply_outlasts_the_read_timeout(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", drip({"n": 1}, every=0.05, size=2))
    started = time.monotonic()
    assert call(url, timeout=0.2).json() == {"output": {"n": 1}}
    assert time.monotonic() - started > 0.2


@pytest.mark.parametrize("shape", [{}, {"length": False}, {"gzip": True}])
def test_an_oversized_reply_is_large_however_it_is_sent(scripted_agent: ScriptedAgent, shape: dict[str, bool]) -> None:
    answer = call(scripted_agent.script("/a", oversized(2_000_000, **shape)))
    assert len(answer.content) > 2_000_000
    assert ("Content-Length" in answer.headers) == shape.get("length", True)
    if shape.get("gzip"):
        assert int(answer.headers["Content-Length"]) < 10_000


def test_rubbish_and_redirects(scripted_agent: ScriptedAgent) -> None:
    with pytest.raises(requests.JSONDecodeError):
        call(scripted_agent.script("/a", malformed())).json()
    answer = call(scripted_agent.script("/b", redirect("http://127.0.0.1:9/")), allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:9/")
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_a_job_is_polled_to_its_end(scripted_agent: ScriptedAgent) -> None:
    polls = [poll("running"), problem(503), poll("succeeded", {"n": 1})]
    url = scripted_agent.script("/a", job(*polls, retry_after=1))
    first, second = call(url), call(url)
    assert first.status_code == second.status_code == 202
    assert first.headers["Location"] == second.headers["Location"]
    place = scripted_agent.url(first.headers["Location"])
    answers = [requests.get(place, timeout=10) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200]
    assert answers[3].json() == {"status": "succeeded", "output": {"n": 1}}
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_a_gate_holds_calls_until_the_test_opens_it(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", reply({}, gate="go"))
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(call, url, f"k{number}") for number in range(3)]
        scripted_agent.wait_for_requests("/a", 3)
        assert scripted_agent.ledger().in_flight["/a"] == 3
        assert scripted_agent.ledger().effects == {}
        assert requests.get(f"{url}/replies/k1", timeout=10).status_code == 202
        scripted_agent.open_gate("go")
        assert [done.result().status_code for done in calls] == [200, 200, 200]
    assert scripted_agent.ledger().max_in_flight["/a"] == 3


def test_a_repeated_key_waits_for_the_call_that_is_worked_on(scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/a", reply({"n": 1}, gate="go"), reply({"n": 2}))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, url) for _ in range(4)]
        scripted_agent.wait_for_requests("/a", 4)
        scripted_agent.open_gate("go")
        assert [done.result().json()["output"]["n"] for done in calls] == [1, 1, 1, 1]
    assert scripted_agent.ledger().effects == {"k1": 1}


def test_it_stops_and_comes_back_on_the_same_port() -> None:
    with ScriptedAgent() as agent:
        url = agent.script("/a", reply({}))
        agent.kill()
        with pytest.raises(requests.ConnectionError):
            call(url)
        agent.start()
        agent.script("/a", reply({}))
        assert call(url).status_code == 200
