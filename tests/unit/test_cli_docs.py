"""docs/cli.md says what the commands have. Written anew by ``python -m tests.unit.test_cli_docs``."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchestrator.cli.command import Command
from orchestrator.cli.failures import EXIT_CODES
from orchestrator.cli.main import COMMANDS, cli

DOC = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
REWRITE = "python -m tests.unit.test_cli_docs"

INTRO = """\
# The command line

`orchestrator …`, or `python -m orchestrator …`. It reads the same [settings](settings.md) as the processes.

- **`--json`** on any command prints one JSON document on standard output and nothing else (`task watch`, and `--watch`:
  one document a line). An error is then `{"error": {"code", "message", "hint", "task_id"}}` on standard error.
- Without it, errors are two lines on standard error: what happened, and `→` what to do. Secrets of the settings are
  never shown. Colours and progress only on a terminal.
- A value in `NAME=VALUE` is JSON where it parses as JSON (`5`, `true`, `{"a": 1}`), else text; `'"5"'` is the text 5.
- What people do (`answer`, `approve`, `decline`, `retry`, `rerun`, `skip`, `cancel`, `undo`, `undone`, `restart`,
  `pause`, `resume`, `resolve`, `trust`, `db restored`, `replay`, `discard`) is audited with `--who` (you) and `--why`;
  `task show --audit` shows it.
- Logs appear on standard error from `WARNING` on (never with `--json`), or as `ORCHESTRATOR_LOG_LEVEL` says where it is
  set.

## Exit codes

"""


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, as it is typed without ``orchestrator``, in the order of the help."""
    context = click.Context(cli, info_name="orchestrator")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                yield f"{name} {inner}", command.commands[inner]
        elif command is not None:
            yield name, command


def document() -> str:
    """The whole of docs/cli.md."""
    codes = ["| code | meaning |", "|---|---|", *(f"| {code} | {words} |" for code, words in EXIT_CODES.items())]
    return INTRO + "\n".join(codes) + "\n\n" + "\n\n".join(_section(*one) for one in all_commands()) + "\n"


def _section(name: str, command: click.Command) -> str:
    assert isinstance(command, Command)
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    usage = " ".join([name, *(_argument(one) for one in arguments)])
    lines = [f"## `{usage}`", "", *_paragraphs(command.help or "")]
    options = [one for one in command.params if isinstance(one, click.Option) and "--json" not in one.opts]
    if options:
        lines += ["| option | what |", "|---|---|", *(_option(one) for one in options), ""]
    return "\n".join([*lines, *(f"    orchestrator {example}" for example in command.examples)])


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    words = option.help or ""
    if isinstance(option.type, click.Choice):
        words += " One of " + ", ".join(f"`{choice}`" for choice in option.type.choices) + "."
    if option.show_default is True:
        words += f" Default: {option.default:g}."
    kind = option.metavar or option.type.name.split()[0].upper()
    return f"| `{option.opts[0] if option.is_flag else f'{option.opts[0]} {kind}'}` | {words} |"


def _paragraphs(help_text: str) -> list[str]:
    return [
        line for block in help_text.strip().split("\n\n") for line in (*textwrap.wrap(" ".join(block.split()), 118), "")
    ]


ALL = dict(all_commands())


def test_the_document_is_true() -> None:
    assert DOC.read_text(encoding="utf-8") == document(), f"a command has changed: run `{REWRITE}`"


def test_the_promised_commands_are_there() -> None:
    promised = {
        "dev": "",
        "db": "upgrade current prune restored",
        "task": "submit list show watch explain simulate export questions answer approve decline "
        "retry rerun skip cancel undo undone restart pause resume resolve trust event",
        "agent": "list check",
        "dead-letter": "list show replay discard",
        "eval": "",
        "schema": "list show",
        "doctor": "",
    }
    expected = {f"{noun} {verb}".strip() for noun, verbs in promised.items() for verb in verbs.split() or [""]}
    assert set(ALL) == expected


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example_and_json(name: str) -> None:
    command = ALL[name]
    context = click.Context(command, info_name=f"orchestrator {name}")
    text = command.get_help(context)
    assert "Examples:" in text
    assert f"  orchestrator {name}" in text
    assert "--json" in text
    assert not command.get_short_help_str(60).endswith("..."), "the first sentence must fit into a list"


@pytest.mark.parametrize(
    ("name", "example"),
    [(name, example) for name, command in ALL.items() if isinstance(command, Command) for example in command.examples],
)
def test_an_example_is_a_command_line_that_parses(name: str, example: str) -> None:
    words = shlex.split(example, comments=True)
    for stop in ("|", ">", "<"):
        words = words[: words.index(stop)] if stop in words else words
    assert " ".join(words[: len(name.split())]) == name
    ALL[name].make_context(f"orchestrator {name}", words[len(name.split()) :])


def test_a_short_help_is_the_same_before_and_after_the_command_is_loaded() -> None:
    context = click.Context(cli, info_name="orchestrator")
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == line


if __name__ == "__main__":
    DOC.write_text(document(), encoding="utf-8")
