"""What an agent's answer means: pure functions from status, headers and bytes to an outcome.

The rules are those of docs/agent-http-contract.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from orchestrator.agents.wire import Answer
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.cancellation import Canceled, CancelOutcome, NotCanceled
from orchestrator.domain.delegation import (
    BY_EVENT,
    AgentOutcome,
    InputRequired,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    Replied,
    StillRunning,
)
from orchestrator.domain.json_schema import schema_problem
from orchestrator.domain.keepable import unkeepable
from orchestrator.domain.question import asking_problem
from orchestrator.logs import mask

DEFAULT_POLL = 1.0
"""Seconds between two questions where the agent names none."""

LONGEST_WAIT = 24 * 3600.0
"""Seconds: no agent's Retry-After is longer."""
_LONGEST_DETAIL = 1_000
_DEEPEST = 64

_ENDED = {"failed": "agent_failed", "canceled": "agent_canceled", "input_required": "agent_input_required"}


class BadReply(ValueError):
    """The body is not what the contract asks for; the message says how."""


def outcome_of_call(agent: AgentSpec, answer: Answer) -> AgentOutcome:
    """What the answer to a ``POST`` means."""
    if answer.status == 200:
        return _of_document(agent, answer, polled=False)
    if answer.status == 202:
        if agent.reply == "event":
            return StillRunning(BY_EVENT, LONGEST_WAIT)
        remote_url = location(agent.url, answer.headers)
        if remote_url is None:
            return OutcomeUnknown("reply_invalid", "it answered 202 without a Location on its own host to ask at")
        return StillRunning(remote_url, retry_after(answer.headers) or DEFAULT_POLL)
    if answer.status in {429, 503}:
        return NotDone("agent_busy", describe(answer), retryable=True, retry_after=retry_after(answer.headers))
    if answer.status >= 500:
        return OutcomeUnknown("agent_error", describe(answer))
    if answer.status < 300:
        return NotDone("reply_invalid", f"it answered {answer.status}; the contract knows 200 and 202")
    return NotDone("agent_rejected", describe(answer))


def outcome_of_poll(agent: AgentSpec, answer: Answer) -> AgentOutcome:
    """What the answer to a poll of a job means."""
    if answer.status == 200:
        return _of_document(agent, answer, polled=True)
    if answer.status == 202:
        return StillRunning(None, retry_after(answer.headers) or DEFAULT_POLL)
    if answer.status in {429, 503}:
        return NotDone("agent_busy", describe(answer), retryable=True, retry_after=retry_after(answer.headers))
    if answer.status >= 500:
        return OutcomeUnknown("agent_error", describe(answer))
    return NotDone("agent_rejected", describe(answer))


def outcome_of_told(agent: AgentSpec, document: Mapping[str, Any]) -> AgentOutcome:
    """What a reply document means that came as an event."""
    absent = {name for name in ("status", "error") if document.get(name) is None}
    return _meaning(agent, {name: value for name, value in document.items() if name not in absent}, "")


def location(url: str, headers: Mapping[str, str]) -> str | None:
    """The absolute ``Location``, if it is on the agent's own scheme, host and port: credentials go there too."""
    given = _header(headers, "location")
    if not given:
        return None
    try:
        found = urljoin(url, given)
        fits = _origin(found) == _origin(url) and "@" not in urlsplit(found).netloc
    except ValueError:
        return None
    # NUL, of all characters, can come in a header and cannot be kept by PostgreSQL.
    return found if fits and not any(char < " " or char == "\x7f" for char in found) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds from now, whether given as seconds or as a date; at most a day."""
    text = (_header(headers, "retry-after") or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = (moment - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None


def describe(answer: Answer) -> str:
    """Status, and the problem's title and detail where there is one, for the person who looks at the failed step."""
    said = ""
    try:
        document = _document(answer)
    except BadReply:
        document = None
    if isinstance(document, dict):
        said = _problem_text(document)
    elif answer.body:
        said = _beginning(answer.body)
    return f"HTTP {answer.status}{': ' + said if said else ''}"


def plain(text: str) -> str:
    """An agent's words as the journal keeps them: one line, printable, without secrets, at most 1,000 characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in mask(text[:20_000])).split())
    return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 1]}…"


def parse(body: bytes) -> Any:
    """A body as JSON that PostgreSQL can keep.

    Raises:
        BadReply: not UTF-8, not JSON, or with what ``jsonb`` refuses (NUL, lone surrogates, NaN).
    """
    try:
        value = _decode(body.decode("utf-8"))
        if flaw := unkeepable(value, _DEEPEST):
            raise BadReply(f"it {flaw}")
    except BadReply:
        raise
    except UnicodeDecodeError as error:
        raise BadReply(f"not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise BadReply("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadReply(f"not JSON: {error}; it begins {_beginning(body)!r}") from error
    except ValueError as error:
        raise BadReply(str(error)) from error
    return value


def _document(answer: Answer) -> Any:
    if answer.body is None:
        raise BadReply(answer.defect)
    return parse(answer.body)


def _of_document(agent: AgentSpec, answer: Answer, *, polled: bool) -> AgentOutcome:
    """What a reply document means; without ``status`` it succeeded."""
    try:
        document = _document(answer)
        if not isinstance(document, dict):
            raise BadReply(f"not a JSON object but {type(document).__name__}")
        if polled and document.get("status") == "running":
            return StillRunning(None, retry_after(answer.headers) or DEFAULT_POLL)
        if document.get("status") == "input_required" and document.get("question") is not None:
            return _asked(agent, answer, document)
    except BadReply as error:
        return _unusable(error)
    return _meaning(agent, document, _beginning(answer.body))


def _asked(agent: AgentSpec, answer: Answer, document: Mapping[str, Any]) -> InputRequired:
    """What the agent asks a person."""
    text, choices, schema, who = (document.get(name) for name in ("question", "choices", "schema", "who"))
    if problem := asking_problem(text, choices, schema, who=who):
        raise BadReply(f"what it asks cannot be asked: {problem}")
    answer_url = None
    if (given := document.get("answer_url")) is not None:
        answer_url = location(agent.url, {"location": str(given)})
        if answer_url is None:
            raise BadReply("its answer_url is not on its own host")
    return InputRequired(
        mask(str(text).strip()), tuple(choices or ()), schema, who, answer_url, location(agent.url, answer.headers)
    )


def outcome_of_answer(agent: AgentSpec, answer: Answer) -> AgentOutcome:
    """What an agent says to the answer to its question."""
    if answer.status in {202, 204}:
        return StillRunning(location(agent.url, answer.headers), retry_after(answer.headers) or DEFAULT_POLL)
    if answer.status in {400, 422}:
        return NotDone("answer_refused", describe(answer))
    return outcome_of_poll(agent, answer)


def outcome_of_cancel(agent: AgentSpec, answer: Answer) -> CancelOutcome:
    """What an agent says to a cancel. Only a plain word counts: that the call is canceled, or how it has ended."""
    match answer.status:
        case 204:
            return Canceled()
        case 202:
            return StillRunning(location(agent.url, answer.headers), retry_after(answer.headers) or DEFAULT_POLL)
        case 404 | 410:
            return NeverReceived()
        case 200:
            return _of_cancel(agent, answer)
        case 429 | 503:
            return NotDone("agent_busy", describe(answer), retryable=True, retry_after=retry_after(answer.headers))
        case status if status >= 500:
            return OutcomeUnknown("agent_error", describe(answer))
        case _:
            return NotCanceled(describe(answer))


def _of_cancel(agent: AgentSpec, answer: Answer) -> CancelOutcome:
    try:
        document = _document(answer)
    except BadReply as error:
        return NotCanceled(f"its answer does not say what became of the call: {error}")
    if not isinstance(document, dict) or "status" not in document:
        return NotCanceled("its answer does not say what became of the call: it has no `status`")
    return _of_document(agent, answer, polled=True)


def _meaning(agent: AgentSpec, document: Mapping[str, Any], beginning: str) -> AgentOutcome:
    try:
        status = document.get("status", "succeeded")
        if isinstance(status, str) and status in _ENDED:
            error = document.get("error")
            said = _problem_text(error) if isinstance(error, dict) else ""
            return NotDone(_ENDED[status], f"{status.replace('_', ' ')}{': ' + said if said else ''}")
        if status != "succeeded":
            raise BadReply(f"its status {str(status)[:50]!r} means nothing here")
        if "output" not in document:
            raise BadReply("it has no `output`")
        output = document["output"]
        if agent.output_schema is not None and (problem := _misfit(agent.output_schema, output)):
            raise BadReply(f"its output does not fit output_schema: {problem}; it begins {beginning!r}")
    except BadReply as error:
        return _unusable(error)
    return Replied(output)


def _unusable(error: BadReply) -> NotDone:
    return NotDone("reply_invalid", f"its reply is {error}" if str(error)[:3] == "not" else f"its reply: {error}")


def _misfit(schema: Mapping[str, Any], output: Any) -> str | None:
    try:
        return schema_problem(schema, output)
    except RecursionError:
        return "checking it does not end"


def _problem_text(document: Mapping[str, Any]) -> str:
    parts = [document.get(name) for name in ("title", "detail")]
    return ": ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _beginning(body: bytes | None) -> str:
    # Masked before it is cut: half a secret would not be known for one.
    return mask((body or b"")[:20_000].decode("utf-8", "replace"))[:200]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
