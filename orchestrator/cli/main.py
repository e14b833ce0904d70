"""The `orchestrator` command: which commands there are, and how every run of it ends.

Commands are registered by name and imported when called, so that `orchestrator --help` costs next to nothing. Nothing
that a command does belongs here, only how errors, a closed pipe and Ctrl-C end it: see `failures` for the exit codes.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from orchestrator import __version__
from orchestrator.cli.failures import EXIT_CODES, FAILED, INTERRUPTED, PIPE_CLOSED, failure_of, masked
from orchestrator.cli.output import Output
from orchestrator.errors import OrchestratorError

COMMANDS = {
    "dev": ("orchestrator.cli.dev", "Run everything on this machine."),
    "db": ("orchestrator.cli.db", "Look after the tables in PostgreSQL."),
    "task": ("orchestrator.cli.task", "Everything that a person does with tasks."),
    "agent": ("orchestrator.cli.agent", "Look at the registry of agents and at their health."),
    "dead-letter": ("orchestrator.cli.dead_letter", "Look at records set aside; put them back or discard them."),
    "eval": ("orchestrator.cli.evaluate", "Judge a model or a prompt by cases."),
    "schema": ("orchestrator.cli.schema", "Print the JSON Schemas of the messages."),
    "doctor": ("orchestrator.cli.doctor", "Check settings, servers, model, agents and processes."),
}
"""Name → (module that has the command under its own name, one line of help)."""


class PipeClosed(Exception):
    """Whoever read our output has enough: end quietly."""


class LazyCommands(click.Group):
    """The top group: knows every command by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name.replace("-", "_"), None) or module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Add the exit codes, which are the same for every command."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; help is printed in here."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            raise PipeClosed from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise PipeClosed from error
        return result


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrator")
def cli() -> None:
    """Durable orchestration of business tasks over HTTP agents.

    Every command has --help with examples, and --json for one JSON document on standard output.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are told on standard error."""
    out = Output(as_json="--json" in _options(arguments))
    for stream in (sys.stdout, sys.stderr):
        # A task's text may hold what the terminal's encoding does not.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    try:
        result = cli.main(list(arguments), prog_name="orchestrator", standalone_mode=False, obj=out)
    except PipeClosed:
        return _leave_pipe()
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (click.ClickException, OrchestratorError) as error:
        failure = failure_of(error)
        out.failure(failure)
        return failure.exit_code
    except Exception as error:  # noqa: BLE001 - a defect of ours ends here too: masked, and with a defined exit code
        if not out.as_json:
            sys.stderr.write(masked(traceback.format_exc()))
        out.failure(failure_of(error))
        return FAILED
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def _options(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments before `--`: errors of usage come before any option is parsed, and must know about --json."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _leave_pipe() -> int:
    # Python flushes at exit and would complain about the pipe once more.
    sys.stdout = None
    return PIPE_CLOSED
