"""How errors are told: the text for a person, the JSON for a script, and the exit code of each kind of error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from orchestrator.errors import ConfigurationError, OrchestratorError, RetryableError

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = 3
INTERRUPTED = 130
PIPE_CLOSED = 141

EXIT_CODES = {
    OK: "Done; what was asked about is well.",
    FAILED: "What was asked about failed, is not there, or may not be done now (a watched task that failed, an unknown "
    "task, a retry of a task that runs, a simulated task that goes another way, "
    "a score below --min-score).",
    USAGE: "The command line or a setting is wrong.",
    UNAVAILABLE: "A server (PostgreSQL, Redis, Kafka) is away: try again later.",
    INTERRUPTED: "Interrupted by Ctrl-C.",
    PIPE_CLOSED: "The reader of the output closed it early, as `… | head` does.",
}
"""Exit code → what it means."""


class Misuse(click.UsageError):
    """A wrong command line, with what to do about it.

    Args:
        message: what is wrong.
        hint: what to do instead; without one, the command's help is pointed to.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is shown."""

    code: str
    message: str
    hint: str | None = None
    task_id: str | None = None
    exit_code: int = FAILED

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` puts on standard error."""
        return {
            "error": {"code": self.code, "message": self.message, "hint": self.hint, "task_id": self.task_id},
        }


def failure_of(error: Exception) -> Failure:
    """How an error is shown; secrets of the settings are masked in it."""
    if isinstance(error, OrchestratorError):
        hint = None if error.hint is None else masked(error.hint)
        return Failure(error.code, masked(str(error)), hint, error.task_id, _exit_code(error))
    if isinstance(error, click.ClickException):
        return Failure("usage", masked(error.format_message()), _usage_hint(error), None, USAGE)
    return Failure(
        "defect",
        masked(f"unexpected {type(error).__name__}: {error}"),
        "This is a defect of the orchestrator: please report it with what stands above.",
    )


def masked(text: str) -> str:
    """The text without the secrets of the settings, where these could be read."""
    from orchestrator.logs import mask

    return mask(text)


def _exit_code(error: OrchestratorError) -> int:
    if isinstance(error, ConfigurationError):
        return USAGE
    return UNAVAILABLE if isinstance(error, RetryableError) else FAILED


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, Misuse) and error.hint:
        return masked(error.hint)
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"See `{context.command_path if context else 'orchestrator'} --help`."
