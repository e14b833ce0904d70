"""Every error the project raises, in one tree.

Each says what happened, to which task where there is one, and what to do about it (``hint``). ``code`` is a short
stable name for machines: it goes into ``--json`` output, the journal, dead letters and logs.

::

    OrchestratorError
    ├── ConfigurationError          a setting or file is wrong: mend it and start again
    │   ├── RegistryError           agents.yaml does not say what it must
    │   ├── EventTypesError         events.yaml does not say what it must
    │   ├── CasesError              a file of cases for `orchestrator eval` does not say what it must
    │   └── SchemaOutOfDate         the database lacks migrations: `orchestrator db upgrade`
    ├── DevStackError               the embedded servers could not be started or kept
    ├── RetryableError              trying again later may help; carries ``retry_after`` where the other side named it
    │   ├── StoreUnavailable        PostgreSQL cannot be reached or refuses for now
    │   ├── OffsetsForgotten        PostgreSQL knows less of a partition than it had confirmed: read it again
    │   ├── DispatchFailed          the Celery broker did not take a message (the sweep sends it again)
    │   ├── KafkaUnavailable        the Kafka broker cannot be reached or did not confirm
    │   ├── PlannerUnavailable      the model's provider is away, slow or limits our rate
    │   ├── NewerJournal            a newer version wrote what this one does not know: left to a newer worker
    │   └── AtCapacity              our own limits let no further question to the model through just now
    ├── PermanentError              trying the same again cannot help
    │   ├── InvalidMessage          a record is not a message: it becomes a dead letter
    │   ├── TooManyBadRecords       a flood of records that are no messages: the bridge stops rather than go on
    │   ├── BadAnswer               the planner's answer is not a usable decision (it is asked again, within a bound)
    │   ├── PlannerRefused          the provider refuses: key, quota, model name, content, context too long
    │   ├── BudgetExhausted         what is left of a task's budget does not cover the next call
    │   ├── NoRoute                 the rules planner sees no agent or event that leads to a required field
    │   ├── TaskNotFound            no task has this id
    │   ├── AnswerRefused           a person's answer does not fit the question, which stays open
    │   ├── DeadLetterNotFound      no dead letter has this id
    │   └── NotAllowed              what a person asked for does not fit the task's state
    ├── PublisherEnded              the bridge's process that publishes updates ended by itself: the bridge stops
    ├── LeaseLost                   another worker took the task over; nothing of ours was written
    ├── StepFailed                  a step ended with its task failed: how Flower is told, the journal has the rest
    ├── DelegationFailed            a delegation of a parallel step failed: how Flower is told
    └── InjectedFault               a test armed a fault point with ``raise``; never in production
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.domain.decision import Usage


class OrchestratorError(Exception):
    """Base of all our errors.

    Args:
        message: what happened, to what.
        hint: what to do about it, as one sentence; shown by the CLI on a line of its own.
        task_id: the business task it happened to.
    """

    code = "error"

    usage: Usage | None = None
    """What it cost to learn this, where an answer of a model (or a call of unknown outcome) was paid for."""

    def __init__(self, message: str, *, hint: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.task_id = task_id


class ConfigurationError(OrchestratorError):
    """A setting is missing or wrong; the message names it and never shows a secret's value."""

    code = "configuration"


class RegistryError(ConfigurationError):
    """agents.yaml is missing, unreadable or breaks its schema; the message names agent and key."""

    code = "agents_file"


class EventTypesError(ConfigurationError):
    """events.yaml is missing, unreadable or breaks its schema; the message names event type and key."""

    code = "events_file"


class CasesError(ConfigurationError):
    """A file of cases is missing, unreadable or breaks its form; the message names case and key."""

    code = "cases_file"


class SchemaOutOfDate(ConfigurationError):
    """The database's tables are older (or newer) than this program; run ``orchestrator db upgrade``."""

    code = "schema_out_of_date"


class DevStackError(OrchestratorError):
    """An embedded server could not be started, or another stack uses the same data folder."""

    code = "dev_stack"


class RetryableError(OrchestratorError):
    """Something is away for now.

    Args:
        retry_after: seconds the other side asked us to wait, where it did.
    """

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        task_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.retry_after = retry_after


class StoreUnavailable(RetryableError):
    """PostgreSQL cannot be reached, is restarting, or timed a statement out."""

    code = "store_unavailable"


class OffsetsForgotten(RetryableError):
    """PostgreSQL went back to an older state: it knows less of these partitions than it has confirmed.

    Args:
        places: (topic, partition) of each.
    """

    code = "offsets_forgotten"

    def __init__(self, message: str, *, places: frozenset[tuple[str, int]]) -> None:
        super().__init__(message, hint="They are read again from where it knows them.")
        self.places = places


class DispatchFailed(RetryableError):
    """A Celery message could not be sent; nothing is lost, the sweep sends it again."""

    code = "dispatch_failed"


class KafkaUnavailable(RetryableError):
    """The Kafka broker cannot be reached or did not confirm a record in time."""

    code = "kafka_unavailable"


class PlannerUnavailable(RetryableError):
    """The model's provider is away, slow, or limits our rate (``planner_rate_limited``, with ``retry_after``)."""

    code = "planner_unavailable"


class NewerJournal(RetryableError):
    """A task's journal holds values of a newer version; nothing was changed, a worker of that version goes on."""

    code = "newer_journal"


class AtCapacity(RetryableError):
    """As many questions are with the model, or went there of late, as our settings allow; none was asked."""

    code = "model_at_capacity"


class PermanentError(OrchestratorError):
    """Trying the same again cannot help."""

    code = "permanent"


class InvalidMessage(PermanentError):
    """A Kafka record is not a message we know.

    Args:
        reason: a stable name for the kind of defect, such as ``not_json`` or ``too_large``.
    """

    code = "invalid_message"

    def __init__(self, message: str, *, reason: str, task_id: str | None = None) -> None:
        super().__init__(message, task_id=task_id)
        self.reason = reason


class TooManyBadRecords(PermanentError):
    """So many bad records came in a row that something is wrong with their producer or our settings."""

    code = "too_many_bad_records"


class BadAnswer(PermanentError):
    """The planner's answer cannot be used; the text goes back to it so that it can do better."""

    code = "bad_decision"


class PlannerRefused(PermanentError):
    """The provider refuses this request for good.

    ``code`` tells the cases apart: ``planner_quota``, ``planner_context_too_long``, ``planner_declined`` (a filter, or
    the model itself), and ``planner_refused`` for the rest (key, name of the model, a request it does not take).
    """

    code = "planner_refused"


class BudgetExhausted(PermanentError):
    """What is left of the task's budget does not cover the next call; the message says what is left and needed.

    Args:
        reason: the reason code of the task, such as ``budget_tokens``.
    """

    code = "budget"

    def __init__(self, message: str, *, reason: str, hint: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.code = reason


class NoRoute(PermanentError):
    """No enabled agent and no event type leads to a field that is still missing."""

    code = "no_route"


class TaskNotFound(PermanentError):
    """No task has this id."""

    code = "task_not_found"


class DeadLetterNotFound(PermanentError):
    """No dead letter has this id, or it was discarded."""

    code = "dead_letter_not_found"


class NotAllowed(PermanentError):
    """What was asked does not fit the task's present state; the message names both."""

    code = "not_allowed"


class AnswerRefused(PermanentError):
    """Nothing is asked, or the answer does not fit what is; the question stays as it was."""

    code = "answer_refused"


class PublisherEnded(OrchestratorError):
    """The bridge's process that publishes updates ended by itself."""

    code = "publisher_ended"


class LeaseLost(OrchestratorError):
    """Another worker holds the task now (epoch or step moved on): stop, and write nothing more as its holder."""

    code = "lease_lost"


class StepFailed(OrchestratorError):
    """A step ended with its task failed: raised by the Celery task, so that Flower shows a failure with its reason."""

    code = "step_failed"


class DelegationFailed(OrchestratorError):
    """A delegation of a parallel step failed for good: raised by its Celery task; the step says what that means."""

    code = "delegation_failed"


class InjectedFault(OrchestratorError):
    """A fault point that a test armed with ``raise``: stands for a defect of ours at that place."""

    code = "injected_fault"
