"""The LangChain planner over real HTTP: LangChain's ChatOpenAI against a scripted OpenAI-compatible server."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from orchestrator import logs
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Context
from orchestrator.domain.decision import AgentCall, DecisionKind
from orchestrator.errors import BadAnswer, PlannerRefused, PlannerUnavailable
from orchestrator.flow.decide import check, decide
from orchestrator.flow.ports import Planner, PlanRequest
from orchestrator.llm import make_planner
from orchestrator.llm.model_chain import ModelChain
from orchestrator.llm.prompts import NEWEST
from orchestrator.settings import read_settings
from tests.support.llm import Behaviour, LlmServer, broken, completion, fails, says, slow, tool

KEY = "sk-test-7f3a9c1e5b"
SCORE = AgentSpec(
    "credit_score",
    "Scores a company.",
    "http://agent.test/score",
    input_schema={
        "type": "object",
        "properties": {"number": {"type": "string"}},
        "required": ["number"],
        "additionalProperties": False,
    },
    provides={"credit_score": "/credit_score"},
    requires={"number": "/number"},
)
MAIL = AgentSpec("mail.send", "Sends mail.", "http://agent.test/mail")
REQUEST = PlanRequest(
    "T-1", 3, "Bewerte den Lieferanten", Context(1, ("credit_score",), {"number": "HRB 1"}), [SCORE, MAIL], [], []
)
SCORE_IT = tool("credit_score", reason="credit_score is missing", task="Bewerte HRB 1", input={"number": "HRB 1"})

MakePlanner = Callable[..., Planner]


@pytest.fixture
def planner_for(llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlanner]:
    # A proxy of the machine is not part of the test, nor is a key that someone has exported.
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as made:

        def make(**settings: str) -> Planner:
            base = {
                "DATABASE_URL": "postgresql://h/d",
                "OPENAI_API_KEY": KEY,
                "OPENAI_BASE_URL": llm_server.api_url,
                "ORCHESTRATOR_MODEL": "openai:gpt-test",
            }
            planner = make_planner(read_settings(base | settings, None))
            assert isinstance(planner, ModelChain)
            made.callback(planner.close)
            return planner

        yield make


@pytest.fixture
def planner(planner_for: MakePlanner) -> Planner:
    return planner_for()


def test_a_tool_call_becomes_a_proposed_decision(planner: Planner, llm_server: LlmServer) -> None:
    llm_server.script(says(SCORE_IT))
    decision = planner.decide(REQUEST)
    assert decision.kind is DecisionKind.CALL
    assert decision.calls == (AgentCall("credit_score", {"number": "HRB 1"}, "Bewerte HRB 1"),)
    assert decision.reason == "credit_score is missing"
    usage = decision.usage
    assert usage.model == "openai:gpt-test"
    assert usage.tokens_in > 100
    assert usage.tokens_out > 0
    assert 0 < usage.seconds < 30
    assert usage.prompt_version == NEWEST
    assert usage.cost is None
    assert check(decision, REQUEST).calls == decision.calls


def test_the_request_offers_the_tools_and_tells_the_task(planner_for: MakePlanner, llm_server: LlmServer) -> None:
    llm_server.script(says(SCORE_IT))
    planner_for(ORCHESTRATOR_MODEL_MAX_TOKENS="321").decide(REQUEST)
    (seen,) = llm_server.requests()
    body = seen["body"]
    names = [one["function"]["name"] for one in body["tools"]]
    assert names[0] == "credit_score"
    assert names[1].startswith("mail_send_")
    assert names[2:] == ["finish", "record", "wait_for_event", "ask_human", "fail"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "Bewerte den Lieferanten" in body["messages"][1]["content"]
    assert body["max_completion_tokens"] == 321
    assert "temperature" not in body, "newer models refuse one"


def test_several_calls_are_one_decision_under_the_agents_own_names(planner: Planner, llm_server: LlmServer) -> None:
    llm_server.script(says(tool("finish", reason="look at the names")))
    planner.decide(REQUEST)
    mail = llm_server.requests()[0]["body"]["tools"][1]["function"]["name"]
    llm_server.script(says(SCORE_IT, tool(mail, reason="tell them", task="Mail", input={"to": "a@b"})))
    decision = planner.decide(REQUEST)
    assert [(call.agent, call.arguments) for call in decision.calls] == [
        ("credit_score", {"number": "HRB 1"}),
        ("mail.send", {"to": "a@b"}),
    ]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (tool("finish", reason="done"), "finish"),
        (tool("wait_for_event", event_type="approved", timeout_seconds=60, reason="r"), "wait_for_event"),
        (tool("ask_human", question="Wer?", reason="r"), "ask_human"),
        (tool("fail", code="unknown", reason="r"), "fail"),
        (tool("record", fields=[{"field": "x", "delegation": "1.0", "pointer": "/x"}], reason="r"), "record"),
    ],
)
def test_control_tools(planner: Planner, llm_server: LlmServer, call: dict[str, Any], kind: str) -> None:
    llm_server.script(says(call))
    assert planner.decide(REQUEST).kind.value == kind


@pytest.mark.parametrize(
    ("behaviours", "complaint"),
    [
        ([says(SCORE_IT), broken("malformed_arguments")], "arguments of credit_score are not valid JSON: "),
        ([says(SCORE_IT), broken("unknown_tool")], "there is no tool 'llmock_unknown_tool'"),
        ([says(text="")], "calls no tool"),
        ([says(text="I would call the score.")], "it said: I would call the score."),
        ([says(SCORE_IT, finish_reason="length")], "cut off after"),
        ([says(SCORE_IT, tool("finish", reason="r"))], "finish stands beside a call of credit_score"),
    ],
    ids=["malformed arguments", "unknown tool", "empty", "text only", "truncated", "control beside agent"],
)
def test_an_answer_that_is_no_decision(
    planner: Planner, llm_server: LlmServer, behaviours: list[Behaviour], complaint: str
) -> None:
    llm_server.script(*behaviours)
    with pytest.raises(BadAnswer, match=complaint) as raised:
        planner.decide(REQUEST)
    assert raised.value.task_id == "T-1"
    assert raised.value.usage is not None
    assert raised.value.usage.tokens_in > 100


def test_what_a_provider_says_of_itself_is_taken_with_care(planner: Planner, llm_server: LlmServer) -> None:
    function = {"name": "credit_score", "arguments": json.dumps({"reason": "r", "task": "t", "input": None})}
    call = {"id": "1", "type": "function", "function": function}
    body = json.loads(completion({"content": None, "tool_calls": [call]}, "tool_calls")["body"])
    usage = {"prompt_tokens": -500, "completion_tokens": -1, "total_tokens": -501}
    llm_server.raw({"body": json.dumps({**body, "model": "gpt\x00" + "x" * 500, "usage": usage})})
    decision = planner.decide(REQUEST)
    assert (decision.usage.tokens_in, decision.usage.tokens_out) == (0, 0)
    assert decision.usage.model.startswith("openai:gpt\ufffdx")
    assert len(decision.usage.model) == 200
    # Nothing given is nothing: what the context decides is filled in.
    assert decision.calls[0].arguments == {}
    assert check(decision, REQUEST).calls[0].arguments == {"number": "HRB 1"}


def test_arguments_that_are_no_object(planner: Planner, llm_server: LlmServer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "credit_score", "arguments": "[1, 2]"}}
    llm_server.raw(completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    with pytest.raises(BadAnswer, match=r"malformed at tool_calls\.0\.args: .* must be an object"):
        planner.decide(REQUEST)


def test_a_decision_that_breaks_the_agents_schema_is_asked_for_again(planner: Planner, llm_server: LlmServer) -> None:
    # A known value is put right by code; what nobody asked for is not.
    wrong = tool("credit_score", reason="r", task="t", input={"number": "HRB 1", "depth": 7})
    llm_server.script(says(wrong))
    assert planner.decide(REQUEST).calls[0].arguments == {"number": "HRB 1", "depth": 7}, "returned as proposed"
    llm_server.reset()
    llm_server.script(says(wrong), says(SCORE_IT))
    decision = decide(planner, REQUEST, bad_answers=3)
    assert decision.calls[0].arguments == {"number": "HRB 1"}
    assert decision.usage.answers == 2
    second = llm_server.requests()[1]["body"]["messages"][1]["content"]
    assert "'depth' was unexpected" in second, "the model is told what was wrong"


def test_a_filtered_answer_is_refused(planner: Planner, llm_server: LlmServer) -> None:
    llm_server.script(says(text="", finish_reason="content_filter"))
    with pytest.raises(PlannerRefused, match="declined to answer: content_filter"):
        planner.decide(REQUEST)


def test_a_refusal_is_told_in_the_models_words(planner: Planner, llm_server: LlmServer) -> None:
    llm_server.raw(completion({"content": None, "refusal": "I can't help with that."}))
    with pytest.raises(PlannerRefused, match="I can't help with that"):
        planner.decide(REQUEST)


@pytest.mark.parametrize(
    ("failure", "message", "retry_after"),
    [
        (fails(429, retry_after=2.5), "limits our rate", 2.5),
        (fails(503, retry_after=7), "is away", 7.0),
        (fails(500), "is away", None),
        (fails(529), "is away", 1.0),
    ],
    ids=["429", "503", "500", "529"],
)
def test_what_passes_is_to_be_tried_again_when_the_provider_says(
    planner: Planner, llm_server: LlmServer, failure: Behaviour, message: str, retry_after: float | None
) -> None:
    llm_server.script(failure)
    with pytest.raises(PlannerUnavailable, match=message) as raised:
        planner.decide(REQUEST)
    assert raised.value.retry_after == retry_after
    assert raised.value.task_id == "T-1"
    assert len(llm_server.requests()) == 1, "no hidden retries: the journal retries"


@pytest.mark.parametrize(("header", "seconds"), [("3", 3), ("soon", None), ("-1", None), ("nan", None)])
def test_retry_after_as_plain_seconds_or_nonsense(
    planner: Planner, llm_server: LlmServer, header: str, seconds: float | None
) -> None:
    llm_server.raw({"status": 429, "body": "{}", "headers": {"retry-after": header}})
    with pytest.raises(PlannerUnavailable) as raised:
        planner.decide(REQUEST)
    assert raised.value.retry_after == seconds


def test_retry_after_as_a_date(planner: Planner, llm_server: LlmServer) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 120))
    llm_server.raw({"status": 429, "body": "{}", "headers": {"retry-after": date}})
    with pytest.raises(PlannerUnavailable) as raised:
        planner.decide(REQUEST)
    assert raised.value.retry_after is not None
    assert 60 < raised.value.retry_after <= 120


@pytest.mark.parametrize(
    ("failure", "message", "hint"),
    [
        (fails(429, code="insufficient_quota"), "quota", "OPENAI_API_KEY"),
        (fails(401), "refused the request", "OPENAI_API_KEY"),
        (fails(403), "refused the request", "ORCHESTRATOR_MODEL"),
        (fails(404, code="model_not_found"), "refused the request", "ORCHESTRATOR_MODEL"),
        (fails(400, code="context_length_exceeded", message="maximum context length is 10"), "too long", "context"),
        (fails(400, code="content_filter", message="policy"), "declined the prompt", "description"),
        (fails(400, message="tools are not supported"), "tools are not supported", "call tools"),
    ],
    ids=["quota", "401", "403", "404", "too long", "content", "400"],
)
def test_what_lasts_is_refused_with_the_setting_to_look_at(
    planner: Planner, llm_server: LlmServer, failure: Behaviour, message: str, hint: str
) -> None:
    llm_server.script(failure)
    with pytest.raises(PlannerRefused, match=message) as raised:
        planner.decide(REQUEST)
    assert hint in str(raised.value.hint)
    assert len(llm_server.requests()) == 1


@pytest.mark.parametrize(
    "raw",
    [
        {"body": "<html>welcome</html>", "headers": {"content-type": "text/html"}},
        {"body": '{"choices": [{"mess'},
        {"body": "{}"},
        {"body": '{"choices": []}'},
        {"body": '{"error": {"message": "upstream broke"}}'},
        {**completion({"content": "x"}), "short": 100},
    ],
    ids=["web page", "half JSON", "no choices", "empty choices", "error with 200", "broken off"],
)
def test_an_answer_that_cannot_be_read_is_to_be_tried_again(
    planner: Planner, llm_server: LlmServer, raw: dict[str, Any]
) -> None:
    llm_server.raw(raw)
    with pytest.raises(PlannerUnavailable, match=r"cannot be (read|reached)") as raised:
        planner.decide(REQUEST)
    assert "OPENAI_BASE_URL" in str(raised.value.hint)


def test_a_slow_answer_is_given_up_at_the_time_out(planner_for: MakePlanner, llm_server: LlmServer) -> None:
    llm_server.script(slow(30))
    started = time.monotonic()
    with pytest.raises(PlannerUnavailable, match="did not answer in time") as raised:
        planner_for(ORCHESTRATOR_MODEL_TIMEOUT="0.5").decide(REQUEST)
    assert time.monotonic() - started < 10
    assert "ORCHESTRATOR_MODEL_TIMEOUT" in str(raised.value.hint)


def test_an_answer_that_drips_is_given_up_all_the_same(planner_for: MakePlanner, llm_server: LlmServer) -> None:
    llm_server.raw({**completion({"content": "x" * 5000}), "drip": 0.02})
    started = time.monotonic()
    with pytest.raises(PlannerUnavailable, match="did not answer in time"):
        planner_for(ORCHESTRATOR_MODEL_TIMEOUT="0.5").decide(REQUEST)
    assert time.monotonic() - started < 10, "the whole answer would take 100 s"


def test_a_server_that_is_not_there(planner_for: MakePlanner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PlannerUnavailable, match=r"cannot be reached: .*refused"):
        planner_for(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1").decide(REQUEST)


def test_a_server_of_ones_own_is_asked_without_a_key(planner_for: MakePlanner, llm_server: LlmServer) -> None:
    llm_server.script(says(SCORE_IT))
    assert planner_for(OPENAI_API_KEY="").decide(REQUEST).kind is DecisionKind.CALL


def test_one_planner_serves_many_threads(planner: Planner, llm_server: LlmServer) -> None:
    numbers = range(16)
    llm_server.script(*(says(tool("credit_score", reason="r", task="t", input={"number": str(n)})) for n in numbers))
    with ThreadPoolExecutor(8) as threads:
        decisions = list(threads.map(lambda _: planner.decide(REQUEST), numbers))
    assert sorted(int(one.calls[0].arguments["number"]) for one in decisions) == list(numbers)


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Every line of every logger at DEBUG, through our own handler."""
    monkeypatch.setattr(logs.mask, "_forms", frozenset())
    monkeypatch.setattr(logs.mask, "_pattern", None)
    stream = io.StringIO()
    root = logging.getLogger()
    noisy = [root, *(logging.getLogger(name) for name in ("openai", "httpx2", "httpcore2", "langchain"))]
    levels = [one.level for one in noisy]
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.MaskingFilter())
    handler.setFormatter(logs.JsonFormatter())
    root.addHandler(handler)
    for one in noisy:
        one.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    for one, level in zip(noisy, levels, strict=True):
        one.setLevel(level)


def test_verbose_mode_tells_prompt_answer_and_reason_and_never_the_key(
    planner_for: MakePlanner, llm_server: LlmServer, log_lines: io.StringIO
) -> None:
    planner = planner_for(ORCHESTRATOR_VERBOSE="1")
    leak = PlanRequest("T-1", 3, f"The key is {KEY}", REQUEST.context, [SCORE], [], [])
    llm_server.script(says(SCORE_IT))
    decision = planner.decide(leak)
    llm_server.script(fails(401, message=f"Incorrect API key provided: {KEY}"))
    with pytest.raises(PlannerRefused) as refused:
        planner.decide(leak)
    assert KEY not in f"{refused.value}{refused.value.__cause__}"
    llm_server.script(says(text="no"))
    with pytest.raises(BadAnswer):
        planner.decide(leak)
    written = log_lines.getvalue()
    assert KEY not in written
    lines = [json.loads(line) for line in written.splitlines()]
    ours = [line for line in lines if line["logger"] == "orchestrator.llm.planner"]
    assert [line["event"] for line in ours] == [
        *("llm.prompt", "llm.answer", "llm.decision"),
        *("llm.prompt", "llm.failed"),
        *("llm.prompt", "llm.answer", "llm.unusable"),
    ]
    assert all((line["task_id"], line["step"]) == ("T-1", 3) for line in ours)
    assert "The key is **********" in ours[0]["user"]
    assert "You plan one business task" in ours[0]["system"]
    assert "system" not in ours[3], "the instructions are told once"
    assert ours[1]["calls"][0]["tool"] == "credit_score"
    assert ours[2]["reason"] == decision.reason


def test_without_verbose_mode_nothing_of_the_prompt_is_logged(
    planner: Planner, llm_server: LlmServer, log_lines: io.StringIO
) -> None:
    llm_server.script(says(SCORE_IT))
    planner.decide(REQUEST)
    assert "orchestrator.llm" not in log_lines.getvalue()
