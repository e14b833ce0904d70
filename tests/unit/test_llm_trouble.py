"""Each provider's package tells of trouble in its own way; all of it ends as one of ours."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import PlannerRefused, PlannerUnavailable
from orchestrator.llm.trouble import trouble, was_not_billed


class Response:
    def __init__(self, status_code: int, headers: dict[str, str] | None = None) -> None:
        self.status_code = status_code
        self.headers = headers or {}


class ByStatus(Exception):
    """As openai, anthropic and groq: the status on the error, the answer beside it."""

    def __init__(self, text: str, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status_code = status
        self.response = Response(status, headers)
        self.body = body


class ByCode(Exception):
    """As google: a number called code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class ByMetadata(Exception):
    """As AWS: a document of its own."""

    def __init__(self, text: str, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}}


class ByAnswer(Exception):
    """As what wraps httpx: the answer only."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.response = Response(status)


def wrapped(error: Exception) -> Exception:
    """As LangChain's packages wrap what they call."""
    try:
        raise RuntimeError(f"Error calling model: {error}") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ByStatus("slow down", 429), "planner_rate_limited"),
        (ByStatus("slow down", 429, {"error": {"code": "insufficient_quota"}}), "planner_quota"),
        (ByStatus("Overloaded", 529), "planner_unavailable"),
        (ByStatus("Your credit balance is too low to access the Anthropic API", 400), "planner_quota"),
        (ByStatus("prompt is too long: 210000 tokens > 200000 maximum", 400), "planner_context_too_long"),
        (ByStatus("Please reduce the length of the messages or completion.", 413), "planner_context_too_long"),
        (ByStatus("invalid x-api-key", 401), "planner_refused"),
        (wrapped(ByCode("429 RESOURCE_EXHAUSTED", 429)), "planner_rate_limited"),
        (
            ByCode("The input token count (2) exceeds the maximum number of tokens allowed (1).", 400),
            "planner_context_too_long",
        ),
        (ByCode("API key not valid.", 400), "planner_refused"),
        (ByCode("The model is overloaded.", 503), "planner_unavailable"),
        (ByMetadata("ThrottlingException: Too many requests", 429), "planner_rate_limited"),
        (ByMetadata("ValidationException: Input is too long for requested model.", 400), "planner_context_too_long"),
        (ByMetadata("AccessDeniedException", 403), "planner_refused"),
        (ByAnswer("Prompt contains 40000 tokens, too large for model with 32768", 422), "planner_context_too_long"),
        (ByAnswer("Unauthorized", 401), "planner_refused"),
        (wrapped(ByMetadata("ServiceUnavailable", 503)), "planner_unavailable"),
        (TimeoutError("timed out"), "planner_unavailable"),
        (ConnectionRefusedError("refused"), "planner_unavailable"),
        (ValueError("no JSON"), "planner_unavailable"),
    ],
    ids=lambda one: f"{type(one).__name__}: {one}"[:60] if isinstance(one, Exception) else None,
)
def test_trouble_is_told_apart_whoever_the_provider_is(error: Exception, code: str) -> None:
    found = trouble(error, "some:model")
    assert found.code == code
    retryable = code in {"planner_rate_limited", "planner_unavailable"}
    assert isinstance(found, PlannerUnavailable if retryable else PlannerRefused)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ByStatus("slow down", 429, headers={"Retry-After": "7"}), 7.0),
        (ByStatus("slow down", 429, headers={"retry-after-ms": "1500", "retry-after": "2"}), 1.5),
        (wrapped(ByMetadata("Throttling", 429, {"retry-after": "3"})), 3.0),
        (ByCode("slow down", 429), None),
        (ByStatus("slow down", 429, headers={"Retry-After": "soon"}), None),
    ],
)
def test_a_pause_that_is_asked_for_is_found(error: Exception, seconds: float | None) -> None:
    found = trouble(error, "some:model")
    assert isinstance(found, PlannerUnavailable)
    assert found.retry_after == seconds


def test_what_was_refused_with_a_status_cost_nothing() -> None:
    assert was_not_billed(wrapped(ByMetadata("Throttling", 429)))
    assert was_not_billed(ByCode("no", 400))
    assert not was_not_billed(TimeoutError("timed out"))


def test_a_code_that_is_no_status_is_none() -> None:
    assert trouble(ByCode("what", 7), "some:model").code == "planner_unavailable"


def test_what_a_provider_says_can_be_kept() -> None:
    assert "\x00" not in str(trouble(ByStatus("bad\x00 prompt", 400), "some:model"))
