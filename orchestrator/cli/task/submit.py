"""`task submit` and `task event`: messages to Kafka, the same that any producer would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output, json_text
from orchestrator.cli.shapes import without_empty
from orchestrator.cli.task.watch import follow
from orchestrator.cli.values import parse_amounts, parse_object, parse_pairs, read_bytes, strict_json
from orchestrator.domain.task import PartialFailure

Kind = Literal["tasks", "events"]

_data = click.option(
    "--data",
    "pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="A field of event_data; VALUE is JSON where it parses as such, else text. May be repeated.",
)
_data_json = click.option("--data-json", metavar="JSON", help="event_data as one JSON object; --data adds to it.")
_message_id = click.option("--message-id", help="Your own id of this message: sent twice, it counts once.")
_file = click.option(
    "--file", "path", metavar="FILE", help="The whole message as JSON from a file, or `-` for standard input."
)


@click.command(
    cls=Command,
    examples=[
        'task submit "Onboard the supplier Northwind" --require contract_id --data company_name=Northwind --watch',
        "task submit 'Draft it' --require contract_id --budget tokens=50000 --budget money=0.5",
        'task submit \'Score it\' --require name --schema \'credit_score={"type": "integer", "minimum": 0}\'',
        "task submit 'Score Acme' --require credit_score --data-json '{\"company_name\": \"Acme\"}' --priority 9",
        "task submit --file - < message.json",
    ],
)
@click.argument("description", required=False)
@click.option("--require", "required", metavar="FIELD", multiple=True, help="A field that must be known at the end.")
@click.option(
    "--schema",
    "schemas",
    metavar="FIELD=JSON",
    multiple=True,
    help="A JSON Schema that the value of a required field must fit. May be repeated.",
)
@_data
@_data_json
@click.option("--id", "task_id", help="The task's id; default: a new UUID.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is most urgent; default 4.")
@_message_id
@click.option("--tenant", help="Whom the task belongs to.")
@click.option(
    "--deadline",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"]),
    metavar="TIME",
    help="When the task must be done, ISO 8601; without an offset it is UTC.",
)
@click.option(
    "--not-before",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"]),
    metavar="TIME",
    help="When its first step may begin, ISO 8601; without an offset it is UTC.",
)
@click.option("--max-steps", type=click.IntRange(1), help="Steps this task may take; the same as --budget steps=N.")
@click.option(
    "--budget",
    "bounds",
    metavar="WHAT=N",
    multiple=True,
    help="Bound steps, delegations, tokens, money or seconds; below the installation's own. May be repeated.",
)
@click.option(
    "--allowed-agent", "allowed_agents", metavar="NAME", multiple=True, help="Use this agent only; repeatable."
)
@click.option(
    "--partial-failure",
    type=click.Choice([one.value for one in PartialFailure]),
    help="What a failed call means for its step: all must succeed, of any one suffices, collect tells the planner.",
)
@click.option(
    "--on-failure", type=click.Choice(["stop", "undo"]), help="Whether a failure leaves what was done or undoes it."
)
@_file
@click.option("--watch", "watching", is_flag=True, help="Follow the task until it ends.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="With --watch: seconds to follow it at most.")
@pass_output
def submit(
    out: Output,
    description: str | None,
    required: tuple[str, ...],
    schemas: tuple[str, ...],
    pairs: tuple[str, ...],
    data_json: str | None,
    task_id: str | None,
    priority: int | None,
    message_id: str | None,
    tenant: str | None,
    deadline: datetime | None,
    not_before: datetime | None,
    max_steps: int | None,
    bounds: tuple[str, ...],
    allowed_agents: tuple[str, ...],
    partial_failure: str | None,
    on_failure: str | None,
    path: str | None,
    watching: bool,
    timeout: float | None,
) -> int:
    """Ask for a task.

    DESCRIPTION says what is wanted, --require which fields must be known when it is done. The message goes to the
    Kafka topic of tasks, keyed by the task's id.
    """
    options = without_empty(
        {
            "task_description": description,
            "required_fields": _required_fields(required, parse_pairs("--schema", schemas)),
            "event_data": _event_data(pairs, data_json),
            "message_id": message_id,
            "priority": priority,
            "tenant": tenant,
            "deadline": _utc(deadline),
            "not_before": _utc(not_before),
            "budget": without_empty({"steps": max_steps, **parse_amounts("--budget", bounds)}),
            "allowed_agents": list(allowed_agents),
            "partial_failure": partial_failure,
            "on_failure": on_failure,
        }
    )
    if path is not None:
        if options:
            raise Misuse(f"--file holds the whole message: leave out {', '.join(sorted(options))}")
        message = _message_of(path)
    elif description is None:
        raise Misuse("a DESCRIPTION of the task is missing", hint='Try: orchestrator task submit "What is wanted".')
    else:
        message = options
    message["task_id"] = _task_id(task_id or message.get("task_id"))
    _check("task", message)
    _produce("tasks", message)
    return _sent(out, "tasks", message, watching, timeout)


@click.command(
    cls=Command,
    examples=[
        'task event supplier-42 --type supplier.approved --data \'approval={"approved_by": "M. Braun"}\'',
        "task event supplier-42 --data contact_email=sales@northwind.example --watch",
    ],
)
@click.argument("task_id", required=False)
@click.option("--type", "event_type", metavar="TYPE", help="One of the event types of events.yaml, or none.")
@_data
@_data_json
@_message_id
@_file
@click.option("--watch", "watching", is_flag=True, help="Follow the task until it ends.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="With --watch: seconds to follow it at most.")
@pass_output
def event(
    out: Output,
    task_id: str | None,
    event_type: str | None,
    pairs: tuple[str, ...],
    data_json: str | None,
    message_id: str | None,
    path: str | None,
    watching: bool,
    timeout: float | None,
) -> int:
    """Tell a task of something that happened.

    A task that waits for it goes on; one that asked a question takes it as the answer. The message goes to the Kafka
    topic of events. An event that comes before its task waits for it.
    """
    options = without_empty(
        {"event_type": event_type, "event_data": _event_data(pairs, data_json), "message_id": message_id}
    )
    if path is not None:
        if options:
            raise Misuse(f"--file holds the whole message: leave out {', '.join(sorted(options))}")
        message = _message_of(path)
    else:
        message = {"event_data": {}, **options}
    task_id = task_id or message.get("task_id")
    if task_id is None:
        raise Misuse("TASK_ID is missing: an event belongs to a task")
    message["task_id"] = _task_id(task_id)
    _check("event", message)
    _produce("events", message)
    return _sent(out, "events", message, watching, timeout)


def _required_fields(required: Sequence[str], schemas: Mapping[str, Any]) -> list[Any]:
    """Names, and objects of name and schema for those that have one."""
    from orchestrator.domain.field_schema import schema_flaw

    for name, schema in schemas.items():
        if flaw := schema_flaw(schema):
            raise Misuse(f"--schema {name}: {flaw}", hint="docs/required-fields.md says what a schema may be.")
    names = dict.fromkeys([*required, *schemas])
    return [{"name": name, "schema": schemas[name]} if name in schemas else name for name in names]


def _produce(kind: Kind, message: dict[str, Any]) -> None:
    parts.produce(parts.topic(kind), message["task_id"].encode(), json_text(message).encode())


def _sent(out: Output, kind: Kind, message: dict[str, Any], watching: bool, timeout: float | None) -> int:
    task_id = message["task_id"]
    topic = parts.topic(kind)
    if out.as_json:
        document = {"task_id": task_id, "topic": topic, "message": message}
        (out.document_line if watching else out.document)(document)
    else:
        out.line(("sent", "green"), f" {kind[:-1]} ", (task_id, "bold"), f" to the topic {topic}")
    if watching:
        return follow(out, task_id, timeout=timeout)
    out.note(f"  → follow it: orchestrator task watch {parts.quoted(task_id)}")
    return 0


def _event_data(pairs: tuple[str, ...], data_json: str | None) -> dict[str, Any]:
    data = {} if data_json is None else parse_object("--data-json", data_json)
    return {**data, **parse_pairs("--data", pairs)}


def _message_of(path: str) -> dict[str, Any]:
    raw = read_bytes(path)
    try:
        message = strict_json(raw)
    except ValueError as error:
        raise Misuse(f"{'standard input' if path == '-' else path} is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Misuse(f"{'standard input' if path == '-' else path} must hold one JSON object")
    return message


def _task_id(given: Any) -> str:
    from orchestrator.domain.ids import new_task_id, task_id_problem

    if given is None:
        return new_task_id()
    if not isinstance(given, str):
        raise Misuse(f"task_id must be text, this is {json_text(given)}")
    if problem := task_id_problem(given):
        raise Misuse(problem)
    return given


def _check(envelope: Literal["task", "event"], message: dict[str, Any]) -> None:
    """Refuse here what the bridge would only set aside as a dead letter."""
    from orchestrator.schemas import problem

    if wrong := problem(envelope, message):
        raise Misuse(
            f"this is no {envelope} message: {wrong}",
            hint=f"`orchestrator schema show {envelope}` has what it may hold.",
        )


def _utc(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
