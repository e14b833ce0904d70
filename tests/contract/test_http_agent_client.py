"""The orchestrator's side of the HTTP contract: what each answer of an agent comes to."""

from __future__ import annotations

import base64
import email.utils
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.agents import HttpAgentClient
from orchestrator.agents.transport import _prepared
from orchestrator.domain.agent import AgentAuth, AgentSpec, AgentTimeout
from orchestrator.domain.delegation import NeverReceived, NotDone, OutcomeUnknown, Replied, StillRunning
from orchestrator.domain.ids import idempotency_key, traceparent
from orchestrator.errors import ConfigurationError
from orchestrator.flow.ports import AgentRequest
from orchestrator.logs import mask
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
from tests.support.secured import CA, OTHER_CA, Door, tls

REQUEST = AgentRequest("größe/1", 3, idempotency_key("größe/1", 3, 0, "score", {"n": 1}), "Score it", {"n": 1})
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


@pytest.fixture
def client() -> Iterator[HttpAgentClient]:
    made = HttpAgentClient(concurrency=8)
    yield made
    made.close()


def agent(url: str, **parts: Any) -> AgentSpec:
    return AgentSpec("score", "Scores.", url, **{"timeout": AgentTimeout(1, 1, 2), **parts})


def test_a_request_carries_all_that_the_contract_names(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/score", reply({"score": 5}))
    assert client.call(agent(url), REQUEST) == Replied({"score": 5})
    (seen,) = scripted_agent.ledger().posts("/score")
    assert seen.body == {"task": "Score it", "input": {"n": 1}, "context": {"task_id": "größe/1", "step": 3}}
    assert seen.key == REQUEST.key
    assert seen.headers["traceparent"] == traceparent("größe/1", REQUEST.key)
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["user-agent"].startswith("agent-orchestrator/")
    assert "cookie" not in seen.headers
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    ("auth", "value", "header", "sent"),
    [
        (AgentAuth("bearer", "AGENT_SECRET"), "s3cr3t-bearer", "authorization", "Bearer s3cr3t-bearer"),
        (
            AgentAuth("basic", "AGENT_SECRET"),
            "user:s3cr3t-basic",
            "authorization",
            "Basic " + base64.b64encode(b"user:s3cr3t-basic").decode(),
        ),
        (AgentAuth("header", "AGENT_SECRET", "X-Api-Key"), "s3cr3t-header", "x-api-key", "s3cr3t-header"),
    ],
)
def test_credentials_come_from_the_environment_and_are_masked(
    client: HttpAgentClient,
    scripted_agent: ScriptedAgent,
    monkeypatch: pytest.MonkeyPatch,
    auth: AgentAuth,
    value: str,
    header: str,
    sent: str,
) -> None:
    monkeypatch.setenv("AGENT_SECRET", value)
    url = scripted_agent.script("/score", reply({}))
    assert isinstance(client.call(agent(url, auth=auth), REQUEST), Replied)
    (seen,) = scripted_agent.ledger().posts("/score")
    assert seen.headers[header] == sent
    assert value not in mask(f"it said {value}")


def test_a_secret_that_is_not_set_sends_nothing(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/score", reply({}))
    outcome = client.call(agent(url, auth=AgentAuth("bearer", "AGENT_SECRET_NOBODY_SET")), REQUEST)
    assert isinstance(outcome, NotDone)
    assert not outcome.retryable
    assert "AGENT_SECRET_NOBODY_SET" in outcome.detail
    assert scripted_agent.ledger().requests == []


def test_proxies_of_the_machine_are_not_used(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert isinstance(client.call(agent(scripted_agent.script("/score", reply({}))), REQUEST), Replied)


@pytest.mark.parametrize(
    ("answer", "kind", "code", "retryable"),
    [
        (problem(429), NotDone, "agent_busy", True),
        (problem(503), NotDone, "agent_busy", True),
        (problem(500), OutcomeUnknown, "agent_error", None),
        (problem(502), OutcomeUnknown, "agent_error", None),
        (problem(504), OutcomeUnknown, "agent_error", None),
        (problem(400), NotDone, "agent_rejected", False),
        (problem(404), NotDone, "agent_rejected", False),
        (problem(422), NotDone, "agent_rejected", False),
        (redirect("/elsewhere"), NotDone, "agent_rejected", False),
        ({"status": 204}, NotDone, "reply_invalid", False),
        (malformed(), NotDone, "reply_invalid", False),
        (malformed("[]"), NotDone, "reply_invalid", False),
        (malformed("{}"), NotDone, "reply_invalid", False),
        (malformed('{"output": NaN}'), NotDone, "reply_invalid", False),
        (malformed('{"output": 1e999}'), NotDone, "reply_invalid", False),
        (malformed('{"output": "\\u0000"}'), NotDone, "reply_invalid", False),
        (malformed('{"output": "\\ud800"}'), NotDone, "reply_invalid", False),
        (malformed('{"output": ' + "[" * 2000 + "]" * 2000 + "}"), NotDone, "reply_invalid", False),
        (malformed('{"status": "odd", "output": 1}'), NotDone, "reply_invalid", False),
        (reply({"score": "high"}), NotDone, "reply_invalid", False),
        (oversized(200_000), NotDone, "reply_invalid", False),
        (oversized(200_000, length=False), NotDone, "reply_invalid", False),
        (oversized(5_000_000, gzip=True), NotDone, "reply_invalid", False),
        (malformed('{"status": "failed", "error": {"title": "No"}}'), NotDone, "agent_failed", False),
        (malformed('{"status": "canceled"}'), NotDone, "agent_canceled", False),
        (malformed('{"status": "input_required"}'), NotDone, "agent_input_required", False),
        (lost_request(), OutcomeUnknown, "reply_lost", None),
        (lost_reply({"score": 1}), OutcomeUnknown, "reply_lost", None),
        (half_reply({"score": 1}), OutcomeUnknown, "reply_lost", None),
        (hang(), OutcomeUnknown, "agent_timeout", None),
    ],
)
def test_what_an_answer_comes_to(
    client: HttpAgentClient,
    scripted_agent: ScriptedAgent,
    answer: dict[str, Any],
    kind: type[NotDone | OutcomeUnknown],
    code: str,
    retryable: bool | None,
) -> None:
    url = scripted_agent.script("/score", answer, idempotent=False)
    outcome = client.call(agent(url, output_schema=SCHEMA, max_reply_bytes=100_000), REQUEST)
    assert isinstance(outcome, kind), outcome
    assert outcome.code == code
    assert outcome.detail
    if isinstance(outcome, NotDone):
        assert outcome.retryable is retryable
    assert len(scripted_agent.ledger().posts("/score")) == 1


def test_a_problems_words_reach_the_reader(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/score", problem(422, "Supplier is sanctioned"))
    outcome = client.call(agent(url), REQUEST)
    assert isinstance(outcome, NotDone)
    assert outcome.detail == "HTTP 422: Supplier is sanctioned: scripted 422"


def test_an_agent_that_is_away_has_certainly_not_acted(client: HttpAgentClient) -> None:
    for url in ("http://127.0.0.1:1/score", "https://127.0.0.1:1/score", "http://agent.invalid/score"):
        outcome = client.call(agent(url), REQUEST)
        assert isinstance(outcome, NotDone), outcome
        assert (outcome.code, outcome.retryable) == ("agent_down", True)


def test_an_agent_that_went_away_between_two_calls(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    spec = agent(scripted_agent.script("/score", reply({"score": 1})))
    assert isinstance(client.call(spec, REQUEST), Replied)
    scripted_agent.stop()
    try:
        outcome = client.call(spec, REQUEST)
        assert isinstance(outcome, NotDone), outcome
        assert outcome.code == "agent_down"
    finally:
        scripted_agent.start()


@pytest.mark.parametrize("answer", [drip({"score": 1}, every=0.3), hang()])
def test_the_total_deadline_holds_whatever_drips(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, answer: dict[str, Any]
) -> None:
    url = scripted_agent.script("/score", answer)
    began = time.monotonic()
    outcome = client.call(agent(url, timeout=AgentTimeout(1, 60, 1.5)), REQUEST)
    assert time.monotonic() - began < 5
    assert isinstance(outcome, OutcomeUnknown)
    assert outcome.code == "agent_timeout"


def test_an_agent_may_think_longer_than_a_connection_may_take(
    client: HttpAgentClient, scripted_agent: ScriptedAgent
) -> None:
    url = scripted_agent.script("/score", reply({"score": 5}, delay=1.2))
    assert client.call(agent(url, timeout=AgentTimeout(0.5, 60, 60)), REQUEST) == Replied({"score": 5})


@pytest.mark.parametrize(
    ("url", "prepared"),
    [
        ("http://[::1]/a", ("http", "::1", 80, "/a")),
        ("https://[::1]/", ("https", "::1", 443, "/")),
        ("https://agents.example:8443/a b?c=d", ("https", "agents.example", 8443, "/a%20b?c=d")),
    ],
)
def test_an_address_is_taken_apart_as_requests_does_it(url: str, prepared: tuple[str, str, int, str]) -> None:
    assert _prepared(url) == prepared


@pytest.mark.parametrize("given", ["7", "date"])
def test_retry_after_is_read_in_both_its_forms(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, given: str
) -> None:
    text = email.utils.formatdate(time.time() + 8, usegmt=True) if given == "date" else given
    url = scripted_agent.script("/score", {**problem(503), "headers": {"Retry-After": text}})
    outcome = client.call(agent(url), REQUEST)
    assert isinstance(outcome, NotDone)
    assert outcome.retry_after is not None
    assert 5 <= outcome.retry_after <= 8


def test_a_job_is_polled_to_its_end(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    url = scripted_agent.script("/score", job(poll("running"), poll("succeeded", {"score": 9}), retry_after=2))
    spec = agent(url, output_schema=SCHEMA)
    begun = client.call(spec, REQUEST)
    assert isinstance(begun, StillRunning)
    assert begun.retry_after == 2
    assert begun.remote_url is not None
    assert begun.remote_url.startswith(scripted_agent.base_url)
    assert isinstance(client.poll(spec, REQUEST, begun.remote_url), StillRunning)
    assert client.poll(spec, REQUEST, begun.remote_url) == Replied({"score": 9})


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (poll("failed", detail="no such company"), "agent_failed"),
        (poll("canceled"), "agent_canceled"),
        (poll("input_required", detail="which one?"), "agent_input_required"),
        (poll("succeeded", {"score": "high"}), "reply_invalid"),
        (problem(410), "agent_rejected"),
        (problem(503), "agent_busy"),
        (problem(500), "agent_error"),
    ],
)
def test_how_a_job_may_end(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, answer: dict[str, Any], code: str
) -> None:
    spec = agent(scripted_agent.script("/score", job(answer)), output_schema=SCHEMA)
    begun = client.call(spec, REQUEST)
    assert isinstance(begun, StillRunning)
    outcome = client.poll(spec, REQUEST, begun.remote_url or "")
    assert isinstance(outcome, NotDone | OutcomeUnknown)
    assert outcome.code == code


@pytest.mark.parametrize("location", [None, "http://elsewhere.example/jobs/1", "https://127.0.0.1/jobs/1", "//x/y"])
def test_credentials_go_to_no_other_host(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, location: str | None
) -> None:
    headers = {} if location is None else {"Location": location}
    url = scripted_agent.script("/score", {"status": 202, "headers": headers, "body": {}})
    outcome = client.call(agent(url), REQUEST)
    assert isinstance(outcome, OutcomeUnknown)
    assert "Location" in outcome.detail
    assert isinstance(client.poll(agent(url), REQUEST, "http://elsewhere.example/jobs/1"), OutcomeUnknown)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply({"score": 3}), Replied),
        ({"status": 200, "body": {"status": "failed", "error": {"title": "No"}}}, NotDone),
        ({"status": 202, "body": {}}, StillRunning),
        (problem(404), NeverReceived),
        (problem(401), OutcomeUnknown),
        (problem(503), OutcomeUnknown),
        (lost_request(), OutcomeUnknown),
    ],
)
def test_what_a_look_up_comes_to(
    client: HttpAgentClient, scripted_agent: ScriptedAgent, answer: dict[str, Any], kind: type
) -> None:
    """Whatever is no clear answer must leave the outcome unknown: taken for 'not done' it would be sent again."""
    path = f"/outcomes/{quote(REQUEST.key, safe='')}"
    url = scripted_agent.script(path, answer, method="GET").replace(path, "/outcomes/{key}")
    spec = agent(scripted_agent.url("/score"), lookup=url, output_schema=SCHEMA)
    assert isinstance(client.look_up(spec, REQUEST), kind)


def test_a_look_up_at_an_agent_that_is_away_says_nothing(client: HttpAgentClient) -> None:
    spec = agent("http://127.0.0.1:1/score", lookup="http://127.0.0.1:1/replies/{key}")
    assert isinstance(client.look_up(spec, REQUEST), OutcomeUnknown)


def test_health(client: HttpAgentClient, scripted_agent: ScriptedAgent) -> None:
    well = scripted_agent.script("/well", {"status": 200, "body": {}}, method="GET")
    ill = scripted_agent.script("/ill", problem(503), method="GET")
    assert client.check(agent("http://127.0.0.1:1", health=well))[0]
    assert client.check(agent("http://127.0.0.1:1", health=ill)) == (False, f"answered 503 at {ill}")
    assert not client.check(agent("http://127.0.0.1:1", health="http://127.0.0.1:1/health"))[0]
    assert client.check(agent("http://127.0.0.1:1"))[0]


def test_an_https_agent_is_checked_by_our_ca(scripted_agent: ScriptedAgent) -> None:
    scripted_agent.script("/score", reply({"score": 1}))
    with Door(scripted_agent.base_url.removeprefix("http://"), tls) as door:
        spec = agent(f"https://{door.address}/score")
        for ca, trusted in ((CA, True), (OTHER_CA, False)):
            client = HttpAgentClient(concurrency=1, ca_file=ca)
            outcome = client.call(spec, REQUEST)
            client.close()
            assert isinstance(outcome, Replied if trusted else NotDone), outcome
    assert len(scripted_agent.ledger().posts("/score")) == 1


def test_a_ca_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ORCHESTRATOR_AGENTS_CA"):
        HttpAgentClient(concurrency=1, ca_file=tmp_path / "missing.pem")
