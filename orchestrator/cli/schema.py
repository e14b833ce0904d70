"""`orchestrator schema …`: the published JSON Schemas of the messages."""

from __future__ import annotations

import sys

import click

from orchestrator.cli.command import Command, Group, pass_output
from orchestrator.cli.output import Output

NAMES = ("task", "event", "task-answer", "agent-reply", "task-update", "dead-letter")


@click.group(cls=Group)
def schema() -> None:
    """Print the JSON Schemas of the messages."""


@schema.command("list", examples=["schema list"])
@pass_output
def list_schemas(out: Output) -> None:
    """List the schemas, one for each kind of message."""
    from orchestrator.schemas import ENVELOPES, SCHEMA_VERSION, schema

    rows = [(name, SCHEMA_VERSION, schema(name)) for name in ENVELOPES]
    if out.as_json:
        out.document(
            {
                "schemas": [
                    {"name": name, "schema_version": version, "id": one["$id"], "description": one["description"]}
                    for name, version, one in rows
                ]
            }
        )
        return
    out.table(["schema", "version", "what"], [(name, str(version), one["description"]) for name, version, one in rows])


@schema.command(cls=Command, examples=["schema show task", "schema show event > event.schema.json"])
@click.argument("name", type=click.Choice(NAMES))
def show(name: str) -> None:
    """Print a schema as it is published.

    It is JSON with and without --json.
    """
    from orchestrator.schemas import ENVELOPES, schema_text

    envelope = next(one for one in ENVELOPES if one == name)
    sys.stdout.write(schema_text(envelope))
