"""What went wrong between us and the model's provider: away for now, or refused for good.

Works on the exceptions of any provider that LangChain wraps: by LangChain's own error classes where it has one, else
by the HTTP status that the exception or its response carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from orchestrator.domain.keepable import keepable_text
from orchestrator.errors import PlannerRefused, PlannerUnavailable
from orchestrator.logs import mask

Named = TypeVar("Named", PlannerUnavailable, PlannerRefused)

CONTEXT_TOO_LONG = "planner_context_too_long"
DECLINED = "planner_declined"

_DETAIL_CHARS = 500
_MOST_CAUSES = 5

_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_too_low"})
_CONTENT = frozenset({"content_filter", "content_policy_violation", "responsibleaipolicyviolation"})
_TOO_LONG = (
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "context window",
    "input is too long",  # Bedrock
    "exceeds the maximum number of tokens",  # Gemini
    "too large for model",  # Mistral
    "reduce the length of the messages",  # Groq
)
_EMPTY_ACCOUNT = ("credit balance is too low",)  # Anthropic says it in words only
_TRY_AGAIN = frozenset({408, 409, 425, 429})

_KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "azure_openai": "AZURE_OPENAI_API_KEY",
    "google_genai": "GOOGLE_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistralai": "MISTRAL_API_KEY",
}


def trouble(error: Exception, model: str) -> PlannerUnavailable | PlannerRefused:
    """The error of ours that a failed call of ``model`` (``provider:model``) means; secrets masked in its text."""
    from langchain_core.exceptions import ContextOverflowError, ModelConnectionError, ModelTimeoutError

    status = _status(error)
    text = _text(error)
    said = text.lower()
    if isinstance(error, ContextOverflowError) or (
        status in {400, 413, 422} and any(word in said for word in _TOO_LONG)
    ):
        return _coded(
            CONTEXT_TOO_LONG,
            PlannerRefused(
                f"the prompt is too long for {model}: {text}",
                hint="Use a model with a larger context (ORCHESTRATOR_MODEL), or give the task less data; then retry "
                "it.",
            ),
        )
    if status is not None:
        return _by_status(status, _codes(error), text, error, model)
    if isinstance(error, ModelTimeoutError | TimeoutError) or "timeout" in type(error).__name__.lower():
        return PlannerUnavailable(
            f"{model} did not answer in time: {text}",
            hint="Where this is common, raise ORCHESTRATOR_MODEL_TIMEOUT.",
        )
    if isinstance(error, ModelConnectionError | OSError):
        return PlannerUnavailable(
            f"{model} cannot be reached: {text}", hint="Check the network, OPENAI_BASE_URL and proxy settings."
        )
    return PlannerUnavailable(
        f"{model} gave an answer that cannot be read: {type(error).__name__}: {text}",
        hint="Check that OPENAI_BASE_URL is the address of an OpenAI-compatible API (it mostly ends in /v1).",
    )


def _coded(code: str, error: Named) -> Named:
    error.code = code
    return error


def was_not_billed(error: Exception) -> bool:
    """Whether the failed call certainly cost nothing: refused with a status, or never sent."""
    if _status(error) is not None:
        return True
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in {"ConnectError", "ConnectTimeout", "ConnectionRefusedError", "NewConnectionError"}:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _by_status(
    status: int, codes: frozenset[str], text: str, error: Exception, model: str
) -> PlannerUnavailable | PlannerRefused:
    provider = model.partition(":")[0]
    key = _KEYS.get(provider, f"the key of {provider}")
    if codes & _QUOTA or status == 402 or any(word in text.lower() for word in _EMPTY_ACCOUNT):
        return _coded(
            "planner_quota",
            PlannerRefused(
                f"the quota of {model} is used up: {text}",
                hint=f"Top up the account that {key} belongs to, or set another key; then retry the task.",
            ),
        )
    if codes & _CONTENT:
        return _coded(
            DECLINED,
            PlannerRefused(
                f"{model} declined the prompt ({status}): {text}",
                hint="Look at the task's description and data for what the provider's filter may object to.",
            ),
        )
    if status in _TRY_AGAIN or status >= 500:
        what = "limits our rate" if status == 429 else "is away"
        away = PlannerUnavailable(f"{model} {what} ({status}): {text}", retry_after=_retry_after(error))
        return _coded("planner_rate_limited", away) if status == 429 else away
    hint = {
        401: f"Check {key}.",
        403: f"Check that {key} may use this model (ORCHESTRATOR_MODEL) from here.",
        404: "Check the model's name in ORCHESTRATOR_MODEL, and OPENAI_BASE_URL (it mostly ends in /v1).",
    }.get(status, "Check ORCHESTRATOR_MODEL: the model must be able to call tools.")
    return PlannerRefused(f"{model} refused the request ({status}): {text}", hint=f"{hint} Then retry the task.")


def _status(error: BaseException) -> int | None:
    """The HTTP status of a refusal, wherever a provider's package keeps it, also in the error that it wraps."""
    seen: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if seen is None:
            return None
        for status in _statuses(seen):
            # An unreadable 200 is no refusal.
            if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
                return int(status)
        seen = seen.__cause__ or seen.__context__
    return None


def _statuses(error: BaseException) -> Iterator[Any]:
    response = getattr(error, "response", None)
    yield getattr(error, "status_code", None)  # openai, anthropic, groq, ollama
    yield getattr(response, "status_code", None)  # what wraps requests or httpx
    yield getattr(error, "code", None)  # google
    if isinstance(response, Mapping) and isinstance(metadata := response.get("ResponseMetadata"), Mapping):
        yield metadata.get("HTTPStatusCode")  # AWS


def _text(error: Exception) -> str:
    text = getattr(error, "message", None)
    said = text if isinstance(text, str) and text else str(error)
    said = " ".join(said.split()) or type(error).__name__
    cause = error.__cause__ or error.__context__
    # "Connection error." alone helps nobody; the library's own error below it says which.
    if len(said) < 30 and cause is not None and cause.__cause__ is not None:
        said = f"{said} ({' '.join(str(cause.__cause__).split())})"
    return keepable_text(mask(said)[:_DETAIL_CHARS])


def _codes(error: Exception) -> frozenset[str]:
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else {}
    sources: list[Any] = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(inner, Mapping):
        sources += [inner.get("code"), inner.get("type")]
    return frozenset(str(code).lower() for code in sources if code is not None)


def _retry_after(error: Exception) -> float | None:
    """Seconds that the provider asked us to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date."""
    headers = _headers(error)
    if headers is None:
        return None
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
            except (TypeError, ValueError):
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _headers(error: BaseException) -> Mapping[str, str] | None:
    """The headers of the answer that refused us; names in lower case."""
    seen: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if seen is None:
            return None
        response = getattr(seen, "response", None)
        found = getattr(response, "headers", None)
        if isinstance(response, Mapping) and isinstance(metadata := response.get("ResponseMetadata"), Mapping):
            found = metadata.get("HTTPHeaders")
        if found is not None:
            return {str(name).lower(): str(value) for name, value in found.items()}
        seen = seen.__cause__ or seen.__context__
    return None
