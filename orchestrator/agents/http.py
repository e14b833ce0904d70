"""Calling agents by the HTTP contract (docs/agent-http-contract.md). Raises nothing for what an agent does."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from orchestrator import __version__
from orchestrator.agents.entry import fits_header
from orchestrator.agents.reply import (
    DEFAULT_POLL,
    LONGEST_WAIT,
    location,
    outcome_of_answer,
    outcome_of_call,
    outcome_of_cancel,
    outcome_of_poll,
    outcome_of_told,
    plain,
    retry_after,
)
from orchestrator.agents.transport import Broken, Transport
from orchestrator.agents.wire import Answer
from orchestrator.domain.agent import AgentAuth, AgentSpec
from orchestrator.domain.cancellation import Canceled, CancelOutcome, NotCanceled
from orchestrator.domain.delegation import (
    BY_EVENT,
    NOT_SENT,
    AgentOutcome,
    LookupOutcome,
    NeverReceived,
    NotDone,
    OutcomeUnknown,
    StillRunning,
)
from orchestrator.domain.ids import traceparent
from orchestrator.domain.value import replace
from orchestrator.errors import ConfigurationError
from orchestrator.flow.ports import AgentRequest
from orchestrator.logs import mask
from orchestrator.settings import environment_value

LONGEST_EXCHANGE = 3600.0
"""Seconds that one request may take, however long the delegation may: who needs longer answers 202."""

CANCEL_SECONDS = 8.0
"""Seconds that an agent has to answer a cancel: who needs longer to end a call answers 202."""

_SECRETS_KEPT = 30.0
"""Seconds a secret is used before it is read anew: mounted files are rotated."""

_CHECK_SECONDS = 5.0

_OURSELVES = {"User-Agent": f"agent-orchestrator/{__version__}"}

_WANTED = {"Accept": "application/json, application/problem+json", "Accept-Encoding": "gzip", **_OURSELVES}

_encoded = json.JSONEncoder(ensure_ascii=False).encode

_DETAILED = (NotDone, OutcomeUnknown, Canceled, NotCanceled)

Outcome = TypeVar("Outcome", bound=CancelOutcome)


class _NoSecret(Exception):
    """The agent's secret is not set; the message names the setting."""


def _check_ca(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"ORCHESTRATOR_AGENTS_CA={path} cannot be used: {error}",
            hint="It names a PEM file that this user may read.",
        ) from error


class HttpAgentClient:
    """Implements `orchestrator.flow.ports.AgentClient`. Safe to share between threads.

    Args:
        concurrency: calls at once.
        ca_file: CA certificates (PEM) that https agents are checked by; None takes the public ones.

    Raises:
        ConfigurationError: the CA file cannot be read.
    """

    def __init__(self, concurrency: int, ca_file: Path | None = None) -> None:
        if ca_file is not None:
            _check_ca(ca_file)
        self._transport = Transport(concurrency, ca_file)
        self._secrets: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def call(self, agent: AgentSpec, request: AgentRequest) -> AgentOutcome:
        """Send the delegation, waiting at most ``agent.timeout.total`` seconds, and not beyond ``send_before``."""
        return _keepable(self._call(agent, request))

    def poll(self, agent: AgentSpec, request: AgentRequest, remote_url: str) -> AgentOutcome:
        """Ask how a delegation answered with 202 is doing."""
        return _keepable(self._poll(agent, request, remote_url))

    def answer(self, agent: AgentSpec, request: AgentRequest, number: int, answer: Any) -> AgentOutcome:
        """Send the answer to the agent's ``number``-th question to ``request.remote_url``."""
        return _keepable(self._answer(agent, request, number, answer))

    def look_up(self, agent: AgentSpec, request: AgentRequest) -> LookupOutcome:
        """Ask the agent what became of ``request.key``; only where it declares ``lookup``.

        Whatever is no clear answer leaves the outcome unknown: a look-up that fails says nothing of the call.
        """
        return _keepable(self._look_up(agent, request))

    def cancel(self, agent: AgentSpec, request: AgentRequest, reason: str) -> CancelOutcome:
        """Say that the call with ``request.key`` is not wanted any more: POST to ``cancel.url``, or DELETE its job."""
        return _keepable(self._cancel(agent, request, reason))

    def _call(self, agent: AgentSpec, request: AgentRequest) -> AgentOutcome:
        context: dict[str, Any] = {"task_id": request.task_id, "step": request.step}
        if request.compensates is not None:
            context["compensates"] = request.compensates
        if request.reply_token is not None:
            context["reply_token"] = request.reply_token
        document = {"task": request.task, "input": request.arguments, "context": context}
        body = _body(document)
        total = agent.timeout.total
        if request.send_before is not None:
            total = min(total, (request.send_before - datetime.now(UTC)).total_seconds())
        if total <= 0:
            return NotDone(NOT_SENT, "its time was over before it could be sent", retryable=True)
        try:
            answer = self._exchange("POST", agent, agent.url, request, body, total)
        except _NoSecret as error:
            return NotDone("agent_unusable", str(error))
        except Broken as error:
            if not error.sent:
                return NotDone("agent_down", f"cannot be reached at {agent.url}: {error}", retryable=True)
            return OutcomeUnknown("agent_timeout" if error.timed_out else "reply_lost", str(error))
        return outcome_of_call(agent, answer)

    def _poll(self, agent: AgentSpec, request: AgentRequest, remote_url: str) -> AgentOutcome:
        if request.told is not None:
            return outcome_of_told(agent, request.told)
        if remote_url == BY_EVENT:
            return StillRunning(BY_EVENT, LONGEST_WAIT)
        if location(agent.url, {"location": remote_url}) is None:
            # The entry's url moved since the job was begun: credentials do not go to the old place.
            return OutcomeUnknown("reply_invalid", f"{remote_url} is not on the agent's host any more")
        try:
            answer = self._exchange("GET", agent, remote_url, request)
        except _NoSecret as error:
            return OutcomeUnknown("agent_unusable", str(error))
        except Broken as error:
            return OutcomeUnknown("agent_timeout" if error.timed_out else "agent_down", str(error))
        return outcome_of_poll(agent, answer)

    def _answer(self, agent: AgentSpec, request: AgentRequest, number: int, answer: Any) -> AgentOutcome:
        url = request.remote_url or ""
        if location(agent.url, {"location": url}) is None:
            return OutcomeUnknown("reply_invalid", f"{url} is not on the agent's host any more")
        document = {"answer": answer, "question": number, "context": {"task_id": request.task_id, "step": request.step}}
        body = _body(document)
        keyed = replace(request, key=f"{request.key}:answer:{number}")
        try:
            return outcome_of_answer(agent, self._exchange("POST", agent, url, keyed, body))
        except _NoSecret as error:
            return NotDone("agent_unusable", str(error), retryable=True)
        except Broken as error:
            if not error.sent:
                return NotDone("agent_down", f"cannot be reached at {url}: {error}", retryable=True)
            return OutcomeUnknown("agent_timeout" if error.timed_out else "agent_down", str(error))

    def _cancel(self, agent: AgentSpec, request: AgentRequest, reason: str) -> CancelOutcome:
        keyed = replace(request, key=f"{request.key}:cancel")
        method, url, body = "DELETE", request.remote_url or "", None
        if agent.cancel is not None and agent.cancel.url is not None:
            document = {
                "cancel": request.key,
                "reason": reason,
                "context": {"task_id": request.task_id, "step": request.step},
            }
            method, url = "POST", agent.cancel.url.replace("{key}", quote(request.key, safe=""))
            body = _body(document)
        elif location(agent.url, {"location": url}) is None:
            return NotCanceled(f"{url} is not on the agent's host any more")
        try:
            answer = self._exchange(method, agent, url, keyed, body, min(agent.timeout.total, CANCEL_SECONDS))
        except _NoSecret as error:
            return OutcomeUnknown("agent_unusable", str(error))
        except Broken as error:
            return OutcomeUnknown("agent_timeout" if error.timed_out else "agent_down", str(error))
        return outcome_of_cancel(agent, answer)

    def _look_up(self, agent: AgentSpec, request: AgentRequest) -> LookupOutcome:
        url = (agent.lookup or "").replace("{key}", quote(request.key, safe=""))
        try:
            answer = self._exchange("GET", agent, url, request)
        except (_NoSecret, Broken) as error:
            return OutcomeUnknown("lookup_failed", f"its look-up gave no answer: {error}")
        if answer.status == 404:
            return NeverReceived()
        if answer.status == 202:
            return StillRunning(location(agent.url, answer.headers), retry_after(answer.headers) or DEFAULT_POLL)
        if answer.status != 200:
            return OutcomeUnknown("lookup_failed", f"its look-up answered {answer.status}")
        return outcome_of_poll(agent, answer)

    def check(self, agent: AgentSpec) -> tuple[bool, str]:
        """Whether the agent's health address answers, and what it said."""
        if agent.health is None:
            return True, "has no health address, so it was not asked"
        try:
            answer = self._transport.exchange(
                "GET",
                agent.health,
                {"Accept": "*/*", **_OURSELVES},
                None,
                connect=min(agent.timeout.connect, _CHECK_SECONDS),
                read=_CHECK_SECONDS,
                total=_CHECK_SECONDS,
                max_bytes=100_000,
            )
        except Broken as error:
            return False, plain(f"cannot be reached at {agent.health}: {error}")
        if answer.status != 200:
            return False, f"answered {answer.status} at {agent.health}"
        return True, "answers"

    def _exchange(
        self,
        method: str,
        agent: AgentSpec,
        url: str,
        request: AgentRequest,
        body: bytes | None = None,
        total: float | None = None,
    ) -> Answer:
        headers = {**_WANTED, "traceparent": traceparent(request.task_id, request.key)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if method != "GET":
            headers["Idempotency-Key"] = request.key
        if agent.auth is not None:
            name, value = self._credentials(agent.auth)
            headers[name] = value
        return self._transport.exchange(
            method,
            url,
            headers,
            body,
            connect=agent.timeout.connect,
            read=agent.timeout.read,
            total=min(agent.timeout.total if total is None else total, LONGEST_EXCHANGE),
            max_bytes=agent.max_reply_bytes,
        )

    def _credentials(self, auth: AgentAuth) -> tuple[str, str]:
        """Name and value of the header that says who we are."""
        secret = self._secret(auth.env)
        match auth.type:
            case "bearer":
                return "Authorization", f"Bearer {secret}"
            case "basic":
                encoded = base64.b64encode(secret.encode()).decode()
                mask.add(encoded, secret.partition(":")[2])
                return "Authorization", f"Basic {encoded}"
            case "header":
                return auth.header, secret

    def _secret(self, name: str) -> str:
        with self._lock:
            known = self._secrets.get(name)
            if known is not None and known[1] > time.monotonic():
                return known[0]
        try:
            value = environment_value(name)
        except ConfigurationError as error:
            raise _NoSecret(str(error)) from error
        if value is None:
            raise _NoSecret(f"its secret {name} is not set")
        if not fits_header(value):
            raise _NoSecret(f"its secret {name} has characters that no header may have")
        mask.add(value)
        with self._lock:
            self._secrets[name] = (value, time.monotonic() + _SECRETS_KEPT)
        return value


def _body(document: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8; half a surrogate pair, which UTF-8 has no bytes for, as JSON escapes it."""
    return _encoded(document).encode("utf-8", "backslashreplace")


def _keepable(outcome: Outcome) -> Outcome:
    """The outcome with its detail fit for the journal."""
    if isinstance(outcome, _DETAILED):
        return replace(outcome, detail=plain(outcome.detail))
    return outcome
