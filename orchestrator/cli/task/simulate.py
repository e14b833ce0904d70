"""`task simulate`: ended tasks decided again, by another model or prompt, against what is on record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import FAILED, failure_of
from orchestrator.cli.output import Output
from orchestrator.cli.side_by_side import side_by_side
from orchestrator.cli.task.many import is_many, many_of, many_options, meant
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.flow.simulate import Simulation

_ENDED = tuple(state for state in TaskState if state.is_terminal)


@click.command(
    cls=Command,
    examples=[
        "task simulate supplier-42 --model anthropic:claude-haiku-4-5",
        "task simulate supplier-42 --prompt my-prompt.md",
        "task simulate --state failed --since 7d --model openai:gpt-5 --limit 50 --yes",
        "task simulate --state completed --model rules: --yes --json | jq '.tasks[] | select(.verdict == \"other\")'",
    ],
)
@click.argument("task_id", required=False)
@click.option("--model", metavar="PROVIDER:MODEL", help="Who decides now; default: the first model of the settings.")
@click.option(
    "--prompt",
    metavar="FILE",
    help="A file with other instructions, or the number of a version that ships; default: the one decided with then.",
)
@click.option(
    "--at-once", type=click.IntRange(1, 50), default=4, show_default=True, help="Tasks decided again side by side."
)
@many_options
@pass_output
def simulate(
    out: Output, /, task_id: str | None, model: str | None, prompt: str | None, at_once: int, **filters: Any
) -> int:
    """Decide ended tasks again, with another model or prompt.

    Each question is put as it was then, and answered by the replies on record: no agent is called, nothing is written.
    Tells the first choice that differs, then and now, how it would go on as far as the record covers it, and what both
    cost. Exit code 0: every choice is the same; 1: one differs, or could not be decided again. Instead of TASK_ID,
    filters mean many tasks: ended ones where no --state is said. The model is asked and costs what it costs.
    """
    from orchestrator.cli.task.simulate_text import simulations_json, write_one, write_row, write_sum
    from orchestrator.flow.simulate import Verdict

    many = many_of(**filters)
    if is_many(task_id, many):
        ids = [task.task_id for task in meant(out, "simulate", many, _ENDED)]
        if not ids:
            return 0
    else:
        ids = [str(task_id)]
    told: list[Simulation] = []
    left: dict[str, OrchestratorError] = {}

    def tell(one: str, found: Simulation | OrchestratorError) -> None:
        if isinstance(found, OrchestratorError):
            left[one] = found
        else:
            told.append(found)
        if task_id is None and not out.as_json:
            write_row(out, one, found)

    with parts.trial(model, prompt) as trial, parts.store() as store:
        limits = parts.trial_limits(trial.name)

        def one_task(one: str) -> Simulation:
            return simulated(store, one, trial.ask, limits)

        stopped = side_by_side(out, "tasks decided again", ids, one_task, tell, at_once=at_once)
    if task_id is not None and left:
        raise left[task_id]
    if out.as_json:
        out.document(simulations_json(trial.name, prompt, told, left, stopped))
    elif task_id is not None and told:
        write_one(out, told[0])
    elif told:
        write_sum(out, told, left)
    if stopped is not None:
        if not out.as_json:
            out.failure(failure_of(stopped))
        return failure_of(stopped).exit_code
    return 0 if not left and all(one.verdict is Verdict.SAME for one in told) else FAILED


def simulated(store: parts.Store, task_id: str, ask: Callable[..., Any], limits: Any) -> Simulation:
    """Decide one task again.

    Raises:
        TaskNotFound: there is no such task.
        NotAllowed: it has not ended.
    """
    from orchestrator.flow.past import Past
    from orchestrator.flow.simulate import simulate as decide_again

    past = Past.load(store, task_id)
    if not past.task.state.is_terminal:
        raise NotAllowed(
            f"task {task_id!r} is {past.task.state.value}: only a task that has ended can be decided again",
            hint=f"Follow it with `orchestrator task watch {parts.quoted(task_id)}`.",
            task_id=task_id,
        )
    return decide_again(past, ask, limits)
