"""The sample agents keep the HTTP contract of docs/agent-http-contract.md: asked over HTTP, in their own process."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
import requests
import yaml

from examples.agents.notification import fails_first
from tests.support.agents import ROOT, AgentProcess, SampleAgents

AGENTS = {entry["name"]: entry for entry in yaml.safe_load((ROOT / "examples/agents.yaml").read_text())["agents"]}
CALLS: dict[str, dict[str, Any]] = {
    "company_register": {"company": "Aster Textiles Ltd"},
    "credit_score": {"registration_number": "HRB 104233"},
    "sanctions_screening": {"legal_name": "Aster Textiles Ltd"},
    "contract_draft": {
        "legal_name": "Aster Textiles Ltd",
        "credit_score": 80,
        "sanctions_status": "clear",
        "approved_by": "R. Castellanos",
    },
    "notification": {"to": "hello@aster.example", "contract_id": "CT-1"},
}


class Caller:
    """Calls agents as the orchestrator does."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.session = requests.Session()

    def post(self, agent: str, values: Any, key: str | None = None, **options: Any) -> requests.Response:
        body = {"task": "do it", "input": values, "context": {"task_id": "t", "step": 1}}
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.session.post(f"{self.base_url}/{agent}", json=body, headers=headers, timeout=10, **options)

    def get(self, path: str) -> requests.Response:
        return self.session.get(f"{self.base_url}{path}", timeout=10)

    def effects(self, agent: str) -> int:
        return int(self.get(f"/{agent}/health").json()["effects"])

    def output(self, answer: requests.Response, within: float = 10.0) -> dict[str, Any]:
        """The output of a reply, polled where it takes longer."""
        end = time.monotonic() + within
        state = answer
        while (
            answer.status_code == 202 and (state := self.get(answer.headers["Location"])).json()["status"] == "running"
        ):
            assert time.monotonic() < end, "the job does not end"
            assert int(state.headers["Retry-After"]) >= 1
            time.sleep(0.05)
        assert state.status_code == 200, state.text
        output: dict[str, Any] = state.json()["output"]
        return output


@pytest.fixture
def caller(sample_agents: SampleAgents) -> Iterator[Caller]:
    caller = Caller(sample_agents.base_url)
    with caller.session:
        yield caller


def key_that(fails: bool, label: str) -> str:
    """A key whose first attempt at the notification fails, or not."""
    return next(key for number in range(100) if fails_first(key := f"{label}:{number}:0:d1") is fails)


def assert_problem(answer: requests.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def test_every_registered_agent_is_tried_here() -> None:
    assert set(CALLS) == set(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_gives_what_its_entry_promises(caller: Caller, name: str) -> None:
    jsonschema.validate(CALLS[name], AGENTS[name]["input_schema"])
    output = caller.output(caller.post(name, CALLS[name], key_that(False, f"promise-{name}")))
    jsonschema.validate(output, AGENTS[name]["output_schema"])
    provides = AGENTS[name]["provides"]
    for pointer in provides.values() if isinstance(provides, dict) else (f"/{given}" for given in provides):
        value: Any = output
        for token in pointer[1:].split("/"):
            value = value[token]


@pytest.mark.parametrize("name", AGENTS)
def test_bad_input_is_refused_with_a_problem(caller: Caller, name: str) -> None:
    assert "input." in assert_problem(caller.post(name, {}, f"bad-{name}:1:0:d"), 422)["detail"]


@pytest.mark.parametrize("name", ["contract_draft", "notification"])
def test_the_same_key_acts_once_and_gets_the_same_reply(caller: Caller, name: str) -> None:
    key, before = key_that(False, f"twice-{name}"), caller.effects(name)
    first, second = caller.post(name, CALLS[name], key), caller.post(name, CALLS[name], key)
    assert (first.status_code, first.json()) == (second.status_code, second.json()) == (200, first.json())
    assert caller.effects(name) == before + 1
    other = caller.post(name, CALLS[name], key_that(False, f"other-{name}"))
    assert other.json() != first.json()
    assert caller.effects(name) == before + 2


def test_a_key_sent_eight_times_at_once_acts_once(caller: Caller) -> None:
    before = caller.effects("contract_draft")
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: requests.post(
                f"{caller.base_url}/contract_draft",
                json={"input": CALLS["contract_draft"]},
                headers={"Idempotency-Key": "at-once:1:0:d"},
                timeout=10,
            ),
            range(8),
        )
        assert len({answer.text for answer in answers}) == 1
    assert caller.effects("contract_draft") == before + 1


def test_a_known_key_with_another_input_is_refused(caller: Caller) -> None:
    caller.post("contract_draft", CALLS["contract_draft"], "reused:1:0:d").raise_for_status()
    reordered = dict(reversed(CALLS["contract_draft"].items()))
    assert caller.post("contract_draft", reordered, "reused:1:0:d").status_code == 200
    changed = {**CALLS["contract_draft"], "credit_score": 10}
    assert_problem(caller.post("contract_draft", changed, "reused:1:0:d"), 422)


def test_an_agent_with_side_effects_wants_a_key(caller: Caller) -> None:
    assert_problem(caller.post("contract_draft", CALLS["contract_draft"]), 400)
    assert caller.post("company_register", CALLS["company_register"]).status_code == 200


def test_the_slow_agent_answers_later_and_once_for_a_key(caller: Caller) -> None:
    first = caller.post("credit_score", CALLS["credit_score"], "slow:1:0:d")
    assert first.status_code == 202
    assert first.headers["Retry-After"] == "1"
    assert caller.get(first.headers["Location"]).json() == {"status": "running"}
    looked_up = caller.get("/credit_score/replies/" + quote("slow:1:0:d", safe=""))
    assert (looked_up.status_code, looked_up.headers["Location"]) == (202, first.headers["Location"])
    again = caller.post("credit_score", CALLS["credit_score"], "slow:1:0:d")
    assert again.headers["Location"] == first.headers["Location"]
    output = caller.output(first)
    assert caller.get("/credit_score/replies/" + quote("slow:1:0:d", safe="")).json()["output"] == output


def test_an_unknown_job_is_not_found(caller: Caller) -> None:
    assert_problem(caller.get("/credit_score/jobs/nothing"), 404)


def test_a_busy_mail_server_takes_the_second_attempt(caller: Caller) -> None:
    key, before = key_that(True, "busy"), caller.effects("notification")
    refused = caller.post("notification", CALLS["notification"], key)
    assert_problem(refused, 503)
    assert refused.headers["Retry-After"] == "1"
    assert_problem(caller.get(f"/notification/replies/{quote(key, safe='')}"), 404)
    assert caller.effects("notification") == before
    assert caller.post("notification", CALLS["notification"], key).status_code == 200
    assert caller.effects("notification") == before + 1


def test_look_up_knows_the_reply_of_a_key_with_odd_characters(caller: Caller) -> None:
    key = "caf%C3%A9%2F42 ü?".encode("ascii", "ignore").decode() + ":1:0:d"
    path = f"/contract_draft/replies/{quote(key, safe='')}"
    assert_problem(caller.get(path), 404)
    reply = caller.post("contract_draft", CALLS["contract_draft"], key)
    assert caller.get(path).json() == reply.json()


def test_a_sanctioned_supplier_gets_no_contract(caller: Caller) -> None:
    screened = caller.output(caller.post("sanctions_screening", {"legal_name": "Delta Marine Trading FZE"}))
    assert screened["result"] == {"status": "hit", "hits": ["EU", "UN"]}
    values = {**CALLS["contract_draft"], "sanctions_status": "hit"}
    assert "no contract" in assert_problem(caller.post("contract_draft", values, "hit:1:0:d"), 422)["detail"]


def test_the_register_knows_names_numbers_and_legal_forms(caller: Caller) -> None:
    by_name = caller.output(caller.post("company_register", {"company": "  northwind  bearings gmbh"}))
    by_number = caller.output(caller.post("company_register", {"company": "HRB 104233"}))
    assert by_name == by_number
    made_up = [caller.output(caller.post("company_register", {"company": name})) for name in ("Foo Inc.", "Bar S.A.")]
    assert made_up[0]["legal_name"] == "Foo Inc."
    assert made_up[0]["registration_number"] != made_up[1]["registration_number"]
    assert_problem(caller.post("company_register", {"company": "The Corner Shop"}), 404)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"input": []}', b'{"task": 1}', b'{"input": {"company": NaN}}', b"\xff", b"[" * 100_000],
)
def test_a_body_that_is_no_request_is_refused(caller: Caller, body: bytes) -> None:
    url = f"{caller.base_url}/company_register"
    assert_problem(caller.session.post(url, data=body, timeout=10, headers={"Content-Length": str(len(body))}), 400)


def test_a_body_too_large_or_without_length_is_refused(caller: Caller) -> None:
    url = f"{caller.base_url}/company_register"
    headers = {"Content-Length": "1000001"}
    assert_problem(caller.session.post(url, data=b"", headers=headers, timeout=10), 413)
    assert_problem(caller.session.post(url, data=iter([b"{}"]), timeout=10), 411)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/company_register", 405),
        ("POST", "/company_register/jobs", 405),
        ("POST", "/nobody", 404),
        ("GET", "/company_register/what", 404),
        ("PATCH", "/company_register", 501),
    ],
)
def test_wrong_addresses_and_methods_are_problems(caller: Caller, method: str, path: str, status: int) -> None:
    assert_problem(caller.session.request(method, f"{caller.base_url}{path}", json={}, timeout=10), status)


def test_health_tells_of_one_and_of_all(caller: Caller) -> None:
    assert caller.get("/company_register/health").json()["status"] == "ok"
    assert {agent["agent"] for agent in caller.get("/health").json()["agents"]} == {
        *AGENTS,
        "contract_withdraw",
    }


def test_with_a_token_set_only_its_bearer_is_answered() -> None:
    with SampleAgents(token="open sesame") as agents, requests.Session() as session:
        url, body = agents.url("/company_register"), {"input": {"company": "HRB 104233"}}
        refused = session.post(url, json=body, timeout=10)
        assert_problem(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert_problem(session.post(url, json=body, headers={"Authorization": "Bearer no"}, timeout=10), 401)
        allowed = session.post(url, json=body, headers={"Authorization": "Bearer open sesame"}, timeout=10)
        assert allowed.status_code == 200
        assert_problem(session.get(agents.url("/company_register/replies/k"), timeout=10), 401)
        assert session.get(agents.url("/health"), timeout=10).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_agents_stop_at_once_also_with_open_connections(number: signal.Signals) -> None:
    with SampleAgents() as agents, requests.Session() as session:
        session.get(agents.url("/health"), timeout=10).raise_for_status()
        started = time.monotonic()
        assert agents.stop(with_signal=number) == 0
        assert time.monotonic() - started < 2
        assert agents.errors() == ""


def test_a_taken_port_is_said_in_words(sample_agents: SampleAgents) -> None:
    second = SampleAgents()
    second.base_url = sample_agents.base_url
    with pytest.raises(RuntimeError, match=r"cannot listen on 127\.0\.0\.1:\d+: .*choose another --port"), second:
        pass


def test_the_agents_run_under_another_package_name(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "examples", tmp_path / "installed" / "_examples", ignore=shutil.ignore_patterns("__pycache__")
    )
    with AgentProcess("installed._examples.agents", folder=tmp_path) as agents:
        assert requests.get(agents.url("/health"), timeout=10).status_code == 200


def test_one_agent_copied_with_the_helper_runs_alone(tmp_path: Path) -> None:
    folder = tmp_path / "my_agents"
    folder.mkdir()
    shutil.copy(ROOT / "examples/agents/_server.py", folder)
    shutil.copy(ROOT / "examples/agents/sanctions_screening.py", folder / "my_agent.py")
    with AgentProcess("my_agents.my_agent", folder=tmp_path) as agent:
        answer = requests.post(agent.url("/sanctions_screening"), json={"input": {"legal_name": "A"}}, timeout=10)
        assert answer.json()["output"]["result"]["status"] == "clear"


def test_a_draft_is_withdrawn_once_and_an_unknown_one_is_refused(caller: Caller) -> None:
    drafted = caller.post("contract_draft", CALLS["contract_draft"], "withdrawn:1:0:d").json()["output"]
    first = caller.post("contract_withdraw", {"contract_id": drafted["contract_id"]}, "withdrawn:1:0:d:undo")
    again = caller.post("contract_withdraw", {"contract_id": drafted["contract_id"]}, "withdrawn:1:0:d:undo")
    assert first.json() == again.json() == {"output": {"contract_id": drafted["contract_id"], "status": "withdrawn"}}
    assert_problem(caller.post("contract_withdraw", {"contract_id": "CT-none"}, "withdrawn:2:0:d:undo"), 404)
