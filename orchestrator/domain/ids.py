"""Names that travel: task ids, celery ids, idempotency keys, trace ids. Pure string rules."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import uuid
from functools import lru_cache
from typing import Any
from urllib.parse import quote

MAX_TASK_ID = 200


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def new_task_id() -> str:
    """A fresh task id (UUID 4) for a message that brought none."""
    return str(uuid.uuid4())


def task_id_problem(task_id: str) -> str | None:
    """Say what is wrong with a task id, or None: 1 to 200 characters, none of them control or a lone surrogate."""
    if not 1 <= len(task_id) <= MAX_TASK_ID:
        return f"task_id must have 1 to {MAX_TASK_ID} characters, this one has {len(task_id)}"
    if task_id.isascii() and task_id.isprintable():
        return None
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in task_id):
        return "task_id must not contain control characters"
    return None


@lru_cache(maxsize=2_048)
def header_safe(task_id: str) -> str:
    """A task id as it goes into HTTP headers, Celery ids and URLs: percent-encoded."""
    return quote(task_id, safe="-._~")


def canonical_json(value: Any) -> str:
    """The one text form of a JSON value used for digests: sorted keys, no spaces, UTF-8 kept."""
    return _canonical(value)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def idempotency_key(task_id: str, step: int, index: int, agent: str, arguments: Any) -> str:
    """The stable key of one delegation: ``{task_id}:{step}:{index}:{digest of agent and arguments}``.

    The same delegation always has the same key, whichever worker sends it and however often.
    """
    return f"{header_safe(task_id)}:{step}:{index}:{digest([agent, arguments])[:32]}"


def traceparent(task_id: str, key: str) -> str:
    """A W3C traceparent: one trace a task, one span a delegation, derived so that repeats carry the same ids."""
    trace = hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    span = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"00-{trace}-{span}-01"
