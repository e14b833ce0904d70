"""`orchestrator eval`: how well a model or a prompt chooses, by a file of cases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import FAILED, Misuse, failure_of
from orchestrator.cli.output import Output
from orchestrator.cli.side_by_side import side_by_side
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.flow.judge import Judged

_MOST_VARIANTS = 2


@click.command(
    "eval",
    cls=Command,
    examples=[
        "eval",
        "eval my-cases.yaml --model openai:gpt-5-mini --model anthropic:claude-haiku-4-5",
        "eval my-cases.yaml --prompt 2 --prompt my-prompt.md --min-score 0.9",
        "eval --starter > my-cases.yaml",
        "eval my-cases.yaml --json | jq '.variants[].score'",
    ],
)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--model",
    "models",
    metavar="PROVIDER:MODEL",
    multiple=True,
    help="Who chooses; default: the first model of the settings. Twice: both are compared.",
)
@click.option(
    "--prompt",
    "prompts",
    metavar="FILE",
    multiple=True,
    help="A file with other instructions, or the number of a version that ships. Twice: both are compared.",
)
@click.option("--min-score", type=click.FloatRange(0, 1), help="Exit code 1 where a score is less than this (0 to 1).")
@click.option("--case", "wanted", metavar="NAME", multiple=True, help="Only this case; * stands for any text.")
@click.option("--at-once", type=click.IntRange(1, 50), default=4, show_default=True, help="Cases asked side by side.")
@click.option("--starter", is_flag=True, help="Print the cases that ship, and ask nobody.")
@pass_output
def command(
    out: Output,
    file: Path | None,
    models: tuple[str, ...],
    prompts: tuple[str, ...],
    min_score: float | None,
    wanted: tuple[str, ...],
    at_once: int,
    starter: bool,
) -> int:
    """Judge a model or a prompt by cases.

    Each case is a question with the choices that are right for it. Tells the score, tokens, time and cost, of two
    models or prompts side by side, with the cases in which they differ. Without FILE the cases that ship are asked. No
    server is needed, and no agent is called; the model is asked and costs what it costs. Exit code 1: a score is less
    than --min-score.
    """
    from orchestrator.cli.evaluate_text import reports_json, write_reports
    from orchestrator.flow.judge import judge, report_of

    if starter:
        sys.stdout.write(parts.starter_cases())
        return 0
    variants = _variants(models, prompts)
    cases = [case for case in parts.cases(file) if not wanted or any(fnmatchcase(case.name, one) for one in wanted)]
    if not cases:
        raise Misuse(f"no case is called {' or '.join(wanted)}", hint="Names are those under `name:`; * is any text.")
    by_name = {case.name: case for case in cases}
    judged: list[dict[str, Judged]] = [{} for _ in variants]

    def tell(place: tuple[int, str], found: Judged | OrchestratorError) -> None:
        if isinstance(found, OrchestratorError):
            raise found
        judged[place[0]][place[1]] = found

    with parts.trials(variants) as trials:

        def ask(place: tuple[int, str]) -> Judged:
            case = by_name[place[1]]
            return judge(case, trials[place[0]].ask(case.request))

        places = [(number, case.name) for case in cases for number in range(len(variants))]
        stopped = side_by_side(out, "questions asked", places, ask, tell, at_once=at_once)
        names = [_name(trial.name, prompt) for trial, (_, prompt) in zip(trials, variants, strict=True)]
    reports = [report_of(cases, one) for one in judged]
    if out.as_json:
        out.document(reports_json(names, reports, cases, min_score, stopped))
    else:
        write_reports(out, names, reports, cases)
    if stopped is not None:
        if not out.as_json:
            out.failure(failure_of(stopped))
        return failure_of(stopped).exit_code
    below = [name for name, report in zip(names, reports, strict=True) if report.score < (min_score or 0)]
    if below:
        out.note(f"less than --min-score {min_score:g}: {', '.join(below)}")
    return FAILED if below else 0


def _variants(models: Sequence[str], prompts: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Model and prompt of each that is tried: two models, two prompts, or two of each in their order."""
    if max(len(models), len(prompts)) > _MOST_VARIANTS:
        raise Misuse("at most two models or two prompts can be compared at once")
    count = max(len(models), len(prompts), 1)
    named: list[str | None] = [*models] or [None]
    read: list[str | None] = [*prompts] or [None]
    return list(zip(named * (count // len(named)), read * (count // len(read)), strict=True))


def _name(model: str, prompt: str | None) -> str:
    if prompt is None:
        return model
    return f"{model} with prompt {prompt}" if prompt.isdigit() else f"{model} with {Path(prompt).name}"
