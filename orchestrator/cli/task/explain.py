"""`task explain`: why each step was as it was, for people who do not read code."""

from __future__ import annotations

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output


@click.command(
    cls=Command,
    examples=[
        "task explain supplier-42",
        "task explain supplier-42 --step 3",
        "task explain supplier-42 --step 3 --prompt",
        "task explain supplier-42 --json | jq -r '.steps[] | \"\\(.step): \\(.choice) (\\(.reason))\"'",
    ],
)
@click.argument("task_id")
@click.option("--step", type=click.IntRange(1), help="This step only, with nothing shortened.")
@click.option("--prompt", "with_prompt", is_flag=True, help="The question as the model read it, word for word.")
@pass_output
def explain(out: Output, task_id: str, step: int | None, with_prompt: bool) -> None:
    """Explain a task step by step.

    For each step: what was known, what could be chosen, the choice, the reason, what it cost, and what came back. All
    from the journal: no model and no agent is asked.
    """
    from orchestrator.cli.task.explain_text import explanation_json, write_explanation
    from orchestrator.flow.explain import explain as explained_of
    from orchestrator.flow.past import Past

    with parts.store() as store:
        explanation = explained_of(Past.load(store, task_id))
    steps = [one for one in explanation.steps if step in (None, one.entry.step.number)]
    if step is not None and not steps:
        numbers = ", ".join(str(one.entry.step.number) for one in explanation.steps) or "none yet"
        raise Misuse(f"task {task_id!r} has no step {step}", hint=f"Its steps: {numbers}.")
    prompts = {one.entry.step.number: parts.question(one.question.request) for one in steps} if with_prompt else {}
    if out.as_json:
        out.document(explanation_json(explanation, steps, prompts))
    else:
        write_explanation(out, explanation, steps, prompts, in_full=step is not None)
