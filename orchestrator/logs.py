"""Logging: one line for each thing that happened, with every secret masked.

`configure` is called once by each process (bridge, CLI, Celery's ``setup_logging`` signal). Code logs through the
standard library, with a static event name as the message and the data beside it::

    log = logging.getLogger(__name__)
    log.info("step.decided", extra={"task_id": task_id, "step": step})

Lines are for people (``text``) or one JSON object each (``json``). Text from outside cannot forge a line: what follows
a line break is indented behind a bar. `mask` removes secrets from any text, also where it goes elsewhere than to a
log (an error kept in the journal).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote

from orchestrator.settings import Settings

MASKED = "**********"

_SHORTEST_SECRET = 4
"""Shorter values would mask ordinary words."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_QUIET = (
    "amqp",
    "celery.app.trace",
    "celery.beat",
    "celery.worker.strategy",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "kafka",
    "kombu",
    "langchain",
    "langsmith",
    "openai",
    "tornado.access",
    "urllib3",
)
"""Libraries that tell at INFO what our own events tell better."""


class Mask:
    """Replaces every secret it was told of, in the forms in which secrets show up in text."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, *secrets: str) -> None:
        """Mask these values too, from now on; as written, percent-encoded and inside JSON."""
        forms = {
            form
            for secret in secrets
            if len(secret) >= _SHORTEST_SECRET
            for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])
        }
        with self._lock:
            if forms <= self._forms:
                return
            self._forms |= forms
            longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """The text with each secret replaced by asterisks."""
        return text if self._pattern is None else self._pattern.sub(MASKED, text)

    def within(self, value: Any) -> Any:
        """A JSON-like value with secrets masked in all its texts, keys included."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(str(key)): self.within(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.within(item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self(str(value))


mask = Mask()
"""The process's mask: `configure` tells it of the settings' secrets, adapters of those that they read themselves."""


class MaskingFilter(logging.Filter):
    """Masks secrets in everything that a record carries: message, arguments, extra fields, exception and stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask in place, so that handlers after this one get the masked record too."""
        record.msg = mask(_message(record))
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask(record.exc_text)
        # The exception itself holds the text unmasked, and formatters of others would print it again.
        record.exc_info = None
        if record.stack_info:
            record.stack_info = mask(record.stack_info)
        for name in record.__dict__.keys() - _STANDARD:
            setattr(record, name, mask.within(record.__dict__[name]))
        return True


class TextFormatter(logging.Formatter):
    """``2026-11-02T10:00:00.123Z INFO    step.decided task_id=T-1 step=3``, long texts below as indented blocks."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and indented ones below it where a value has several."""
        head = [_time(record), f"{record.levelname:<7}"]
        if not record.name.startswith(("orchestrator", "bridge")):
            head.append(f"[{record.name}]")
        message, *more = _visible(_message(record)).split("\n")
        blocks = list(more)
        pairs = []
        for name, value in _fields(record).items():
            if isinstance(value, str) and "\n" in value:
                blocks += [f"{name}:", *_visible(value).split("\n")]
            else:
                pairs.append(f"{name}={_inline(value)}")
        for text in (record.exc_text, record.stack_info):
            if text:
                blocks += _visible(text).split("\n")
        first = " ".join([*head, message, *pairs])
        return "\n".join([first, *(f"    | {line}" for line in blocks)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``event``, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a field that has the name of one of ours gets an underscore behind it."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "event": _message(record),
        }
        for name, value in _fields(record).items():
            line[f"{name}_" if name in line or name in {"exception", "stack"} else name] = value
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, ensure_ascii=False, default=str)


class _OurHandler(logging.StreamHandler[TextIO]):
    """The handler `configure` installs; known by its type, so that a second call replaces it."""


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logging of this process to standard error (or ``stream``), as the settings say. May be repeated."""
    mask.add(*settings.secrets())
    handler = _OurHandler(stream or sys.stderr)
    handler.addFilter(MaskingFilter())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for former in [one for one in root.handlers if isinstance(one, _OurHandler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.log_level]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.INFO if level <= logging.DEBUG else logging.WARNING))
    # Who asked for verbose prompts gets them, whatever the least level is.
    logging.getLogger("orchestrator.llm").setLevel(logging.INFO if settings.verbose else logging.NOTSET)
    logging.captureWarnings(True)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A line with the wrong arguments is still worth more than none.
        return f"{record.msg} {record.args!r}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _inline(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+", value):
        return value
    return _visible(json.dumps(value, ensure_ascii=False, default=str))


def _visible(text: str) -> str:
    """Control characters other than line breaks and tabs as escapes: they could repaint a terminal."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]",
        lambda found: f"\\u{ord(found.group()):04x}",
        text.replace("\r\n", "\n"),
    )
