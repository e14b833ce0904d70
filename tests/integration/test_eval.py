"""`orchestrator eval` against a scripted model over HTTP: scores, what differs, and the exit code of a threshold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import CommandHere
from tests.support.llm import Behaviour, LlmServer, completion, fails, says, tool

CASES = """
agents:
  - {name: a, description: Gives a., provides: [a], side_effects: false}
  - {name: b, description: Gives b., provides: [b], side_effects: false}
cases:
  - {name: one, description: Get a, required_fields: [a], expect: [{call: a}]}
  - {name: both, description: Get both, required_fields: [a, b], expect: [{calls: [a, b]}], weight: 3}
  - {name: nobody, description: Get c, required_fields: [c], expect: [{none_fits: true}]}
"""


def ask(*names: str) -> Behaviour:
    return says(*(tool(name, reason=f"{name} is missing", task="Do", input={}) for name in names))


GIVE_UP = says(tool("fail", reason="Nobody gives c.", code="nobody"))


@pytest.fixture
def orchestrator(
    llm_server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandHere:
    (tmp_path / "cases.yaml").write_text(CASES)
    (tmp_path / "mine.md").write_text("You plan. Call tools.")
    (tmp_path / "prices.yaml").write_text('models: {"openai:*": {prompt: 10, answer: 100}}')
    # Neither a database nor any other server is named.
    env = {
        "OPENAI_API_KEY": "sk-test-eval-1",
        "OPENAI_BASE_URL": llm_server.api_url,
        "ORCHESTRATOR_PRICES": str(tmp_path / "prices.yaml"),
        "ORCHESTRATOR_MODEL_ATTEMPTS": "2",
    }
    return CommandHere(env, tmp_path, monkeypatch, capsys)


def test_two_models_side_by_side_and_a_threshold(orchestrator: CommandHere, llm_server: LlmServer) -> None:
    # Case by case, first one model, then the other; the second needs two answers once.
    llm_server.script(ask("a"), ask("a"), ask("a"), says(text="I would ask both."), ask("b", "a"), GIVE_UP, ask("b"))
    models = ("--model", "openai:small", "--model", "openai:big")
    found = orchestrator("eval", "cases.yaml", *models, "--at-once", "1", "--min-score", "0.9", "--json", code=1).json()
    assert [one["body"]["model"] for one in llm_server.requests()] == [
        *("small", "big"),
        *("small", "big", "big"),
        *("small", "big"),
    ]
    small, big = found["variants"]
    assert (small["score"], big["score"]) == (pytest.approx((1 + 3 / 2 + 1) / 5), pytest.approx((1 + 3 + 0) / 5))
    assert (small["right"], big["right"], small["bad_answers"], big["bad_answers"]) == (2, 2, 0, 1)
    assert found["differ"] == ["both", "nobody"]
    assert (found["passed"], found["cases"], small["asked"]) == (False, 3, 3)
    assert small["tokens_in"] > 1000 and 0 < small["cost"] < big["cost"]
    assert small["cases"][1]["chosen"] == "asks a"
    assert small["cases"][1]["expected"] == "asks a, b"
    assert 0 < small["seconds"]["median"] <= small["seconds"]["longest"]


def test_two_prompts_in_words_and_a_provider_that_stays_away(orchestrator: CommandHere, llm_server: LlmServer) -> None:
    llm_server.script(ask("a"), ask("b"))
    two = ("--model", "openai:small", "--prompt", "2", "--prompt", "mine.md")
    told = orchestrator("eval", "cases.yaml", *two, "--at-once", "1", "--case", "on*", "--min-score", "0", code=0).out
    systems = [one["body"]["messages"][0]["content"] for one in llm_server.requests()]
    assert systems[0].startswith("You plan one business task")
    assert systems[1] == "You plan. Call tools."
    assert "openai:small with prompt 2  1 of 1 right" in told
    assert "openai:small with mine.md  0 of 1 right" in told
    assert "1 case in which they differ" in told
    assert "right  openai:small with prompt 2: asks a" in told
    assert "0.00   openai:small with mine.md: asks b" in told

    llm_server.reset()
    answer = {"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"reason": "r", "input": {}}'}}
    llm_server.raw(completion({"content": None, "tool_calls": [answer]}, "tool_calls"))
    llm_server.script(fails(503), fails(503))
    away = orchestrator("eval", "cases.yaml", "--model", "openai:small", "--at-once", "1", "--json", code=3).json()
    assert away["stopped"]["code"] == "planner_unavailable"
    assert (away["passed"], away["variants"][0]["asked"]) == (False, 1)
    llm_server.script(fails(401))
    refused = orchestrator("eval", "cases.yaml", "--model", "openai:small", "--at-once", "1", code=1)
    assert "refused the request (401)" in refused.err
