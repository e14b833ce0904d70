"""What all commands have in common: `--json`, help that ends with examples, and options used by several."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from orchestrator.cli.output import Output

F = TypeVar("F", bound=Callable[..., Any])

pass_output = click.make_pass_decorator(Output, ensure=True)
"""Gives the command its `Output` as first argument."""


class Command(click.Command):
    """A command with `--json`, and examples at the end of its help.

    Args:
        examples: command lines without the leading ``orchestrator``.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_ask_for_json,
                help="Print JSON for programs.",
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the examples as they are, unwrapped: they are for copying."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{' ' * formatter.current_indent}orchestrator {example}\n")


class Group(click.Group):
    """The commands of one noun."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which they are defined: what is needed most comes first."""
        return list(self.commands)


def _ask_for_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Output).as_json = True


def who_and_why(function: F) -> F:
    """Add ``--who`` and ``--why``: what a person does is audited."""
    function = click.option("--why", default="", help="Why, for the audit.")(function)
    return click.option("--who", default=whoami, show_default="you", help="Who does it, for the audit.")(function)


def whoami() -> str:
    """The user's name; their number where the machine has no name for them, as in a container."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"
