"""One entry of agents.yaml as people write it, checked, and turned into an `AgentSpec`.

The keys are documented in docs/adding-an-agent.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from orchestrator.agents.yaml_file import expand, schema_defect
from orchestrator.domain.agent import (
    AgentAuth,
    AgentLimits,
    AgentSpec,
    AgentTimeout,
    AskingRules,
    CancelRules,
    Compensate,
)
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.wait import MAX_WAIT_SECONDS

CONTROL_TOOLS = frozenset({"finish", "wait_for_event", "ask_human", "fail", "record"})
"""Names of the planner's own tools: an agent may not have one."""

Seconds = Annotated[float, Field(gt=0, le=MAX_WAIT_SECONDS)]
Waiting = Annotated[float, Field(gt=0, le=MAX_WAIT_SECONDS)]
"""Seconds that a person may take."""


def _url(text: str) -> str:
    address = expand(text)
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} must be an http or https address with a host")
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong into an address; use `auth`")
    if re.search(r"\s", address):
        raise ValueError(f"{text!r} must not contain spaces")
    if parts.port == 0:
        raise ValueError(f"{text!r} has no usable port")
    return address


def _lookup_url(text: str) -> str:
    address = expand(text)
    if address.count("{key}") != 1:
        raise ValueError("must contain {key} once: the place of the idempotency key")
    _url(address.replace("{key}", "key"))
    if "{key}" in urlsplit(address).netloc:
        raise ValueError("{key} belongs into the path, not into the host")
    return address


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    if defect := schema_defect(schema):
        raise ValueError(f"is no JSON Schema: {defect}")
    return schema


def _pointers(places: Any) -> dict[str, str]:
    """A list of names, or a mapping of names to places; a bare name is a key at the top."""
    if isinstance(places, list):
        if not all(isinstance(name, str) for name in places):
            raise ValueError("a list must hold names only; for places elsewhere write a mapping of names to places")
        places = {name: name for name in places}
    if not isinstance(places, dict):
        raise ValueError("must be a list of names or a mapping of names to places")
    for name, place in places.items():
        if not isinstance(name, str) or not name or not isinstance(place, str) or not place:
            raise ValueError(f"{name!r}: {place!r} is no name with a place")
    return {name: place if place.startswith("/") else f"/{_escaped(place)}" for name, place in places.items()}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def fits_header(secret: str) -> bool:
    """Whether a secret can go into an HTTP header: printable ASCII that neither begins nor ends with a space."""
    return secret.isascii() and secret.isprintable() and secret == secret.strip()


Url = Annotated[str, AfterValidator(_url)]
Schema = Annotated[dict[str, Any], AfterValidator(_schema)]
Places = Annotated[dict[str, str], BeforeValidator(_pointers)]
"""Names and where their values are: a list of names, or a mapping of names to keys or JSON pointers."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeoutEntry(_Part):
    """``timeout``: seconds."""

    connect: Seconds = 3.0
    read: Seconds = 30.0
    total: Seconds = 60.0

    @model_validator(mode="after")
    def _total_is_longest(self) -> TimeoutEntry:
        for key in ("connect", "read"):
            # Defaults give way to a short total; only what was written can contradict it.
            if key in self.model_fields_set and getattr(self, key) > self.total:
                raise ValueError(f"{key} ({getattr(self, key):g} s) is longer than total ({self.total:g} s)")
        return self

    def timeout(self) -> AgentTimeout:
        """The times as the flow knows them."""
        return AgentTimeout(min(self.connect, self.total), min(self.read, self.total), self.total)


class RetryEntry(_Part):
    """``retry``: attempts in all, and seconds between them."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    base_delay: Seconds = 1.0
    max_delay: Seconds = 60.0


_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"})


class AuthEntry(_Part):
    """``auth``: the type, and the setting that holds the secret."""

    type: Literal["bearer", "basic", "header"]
    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    header: str = Field("Authorization", pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

    @model_validator(mode="after")
    def _header_is_named(self) -> AuthEntry:
        if self.type != "header" and "header" in self.model_fields_set:
            raise ValueError("header goes with type: header only")
        if self.header.lower() in _FRAMING:
            raise ValueError(f"{self.header} says where a request goes and how long it is, and can hold no secret")
        return self


class LimitsEntry(_Part):
    """``limits``: bounds over all workers."""

    max_concurrency: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[float, Field(gt=0)] | None = None


class LookupEntry(_Part):
    """``lookup``: where to ask what became of a key."""

    url: Annotated[str, AfterValidator(_lookup_url)]


class CancelEntry(_Part):
    """``cancel``, where it is an address: where to say that a call is not wanted any more."""

    url: Annotated[str, AfterValidator(_lookup_url)]


class AskingEntry(_Part):
    """``questions``, and ``requires_approval`` where more is to be said than yes: who, and seconds."""

    who: str | None = Field(default=None, min_length=1, max_length=200)
    timeout: Waiting | None = None
    escalate_to: str | None = Field(default=None, min_length=1, max_length=200)
    escalate_after: Waiting | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> AskingEntry:
        if (self.escalate_to is None) != (self.escalate_after is None):
            raise ValueError("escalate_to and escalate_after go together")
        if self.timeout is not None and self.escalate_after is not None and self.escalate_after >= self.timeout:
            raise ValueError("escalate_after must be less than timeout")
        return self

    def rules(self) -> AskingRules:
        """The rules as the flow knows them."""
        return AskingRules(**self.model_dump())


def _undo_places(places: Any) -> dict[str, str]:
    """The input of a compensation: names, and pointers into what is known of the delegation."""
    if not isinstance(places, dict) or not places:
        raise ValueError("must be a mapping of names to pointers such as /reply/contract_id")
    for name, place in places.items():
        if not isinstance(name, str) or not name or not isinstance(place, str):
            raise ValueError(f"{name!r}: {place!r} is no name with a pointer")
        top = place.split("/")[1] if place.startswith("/") else ""
        if top not in UNDO_SOURCES or (top in {"key", "task_id"} and place != f"/{top}"):
            raise ValueError(f"{place!r} must point into /arguments or /reply, or be /key or /task_id")
    return dict(places)


UNDO_SOURCES = ("arguments", "reply", "key", "task_id")
"""What a compensation may be told of the delegation that it undoes."""


class CompensateEntry(_Part):
    """``compensate``: where and with what a completed call is undone."""

    url: Url
    input: Annotated[dict[str, str], BeforeValidator(_undo_places)] | None = None
    idempotent: bool = False
    lookup: LookupEntry | None = None
    timeout: TimeoutEntry | None = None
    retry: RetryEntry | None = None

    def spec(self) -> Compensate:
        """The entry as the flow knows it."""
        parts: dict[str, Any] = {} if self.input is None else {"input": self.input}
        return Compensate(
            self.url,
            idempotent=self.idempotent,
            lookup=self.lookup.url if self.lookup else None,
            timeout=self.timeout.timeout() if self.timeout else None,
            retry=RetryPolicy(**self.retry.model_dump()) if self.retry else None,
            **parts,
        )


class AgentEntry(_Part):
    """One entry."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    description: str = Field(min_length=1, max_length=4000)
    protocol: str = "http"
    url: Url
    input_schema: Schema = Field(default_factory=lambda: {"type": "object"})
    output_schema: Schema | None = None
    provides: Places = Field(default_factory=dict)
    requires: Places = Field(default_factory=dict)
    side_effects: bool = True
    idempotent: bool = False
    lookup: LookupEntry | None = None
    timeout: TimeoutEntry = TimeoutEntry()
    retry: RetryEntry = RetryEntry()
    auth: AuthEntry | None = None
    health: Url | None = None
    limits: LimitsEntry = LimitsEntry()
    compensate: CompensateEntry | None = None
    cancel: Literal["location"] | CancelEntry | None = None
    requires_approval: StrictBool | AskingEntry = False
    questions: AskingEntry = AskingEntry()
    reply: Literal["http", "event"] = "http"
    enabled: bool = True
    max_reply_bytes: int = Field(1_000_000, ge=100, le=100_000_000)

    @model_validator(mode="after")
    def _can_be_kept(self) -> AgentEntry:
        """Refuse what this version would only pretend to do, and what contradicts itself."""
        if self.protocol != "http":
            raise ValueError(f"protocol {self.protocol!r} is not supported; use http")
        if self.name in CONTROL_TOOLS:
            raise ValueError(f"{self.name!r} is the name of a tool of the planner; choose another")
        if self.cancel == "location" and self.reply == "event":
            raise ValueError("cancel: location goes with jobs; an agent with reply: event needs cancel: {url: …}")
        if self.input_schema.get("type", "object") != "object":
            raise ValueError("input_schema must describe an object: a model calls tools with named arguments")
        return self

    @model_validator(mode="after")
    def _can_be_undone(self) -> AgentEntry:
        """Refuse a compensation that could never be called."""
        if self.compensate is None:
            return self
        if not self.side_effects:
            raise ValueError("compensate: an agent without side effects (side_effects: false) has nothing to undo")
        schemas = {"arguments": self.input_schema, "reply": self.output_schema or {}}
        for name, place in (self.compensate.input or {}).items():
            _, top, *rest = place.split("/")
            schema = schemas.get(top, {})
            known = schema.get("properties", {})
            field = rest[0].replace("~1", "/").replace("~0", "~") if rest else None
            if field is not None and field not in known and schema.get("additionalProperties") is False:
                which = "input_schema" if top == "arguments" else "output_schema"
                raise ValueError(f"compensate.input.{name}: {place} is never there, {which} knows no {field!r}")
        return self

    def spec(self) -> AgentSpec:
        """The entry as the flow knows it."""
        return AgentSpec(
            name=self.name,
            description=self.description.strip(),
            url=self.url,
            protocol=self.protocol,
            input_schema={"type": "object", **self.input_schema},
            output_schema=self.output_schema,
            provides=self.provides,
            requires=self.requires,
            side_effects=self.side_effects,
            idempotent=self.idempotent,
            lookup=self.lookup.url if self.lookup else None,
            timeout=self.timeout.timeout(),
            retry=RetryPolicy(**self.retry.model_dump()),
            auth=AgentAuth(**self.auth.model_dump()) if self.auth else None,
            health=self.health,
            limits=AgentLimits(**self.limits.model_dump()),
            requires_approval=bool(self.requires_approval),
            approval=self.requires_approval.rules()
            if isinstance(self.requires_approval, AskingEntry)
            else AskingRules(),
            compensate=self.compensate.spec() if self.compensate else None,
            cancel=self._cancel(),
            questions=self.questions.rules(),
            reply=self.reply,
            enabled=self.enabled,
            max_reply_bytes=self.max_reply_bytes,
        )

    def _cancel(self) -> CancelRules | None:
        if self.cancel is None:
            return None
        return CancelRules(self.cancel.url if isinstance(self.cancel, CancelEntry) else None)
