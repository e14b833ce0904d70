"""`task questions`, `task answer`, `task approve`, `task decline`: what waits for a person, and the person's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from orchestrator.cli import parts
from orchestrator.cli.command import Command, pass_output, who_and_why
from orchestrator.cli.failures import Misuse
from orchestrator.cli.output import Output, ago, shortened
from orchestrator.cli.shapes import question_json
from orchestrator.cli.task.watch import follow
from orchestrator.cli.values import parse_pairs, strict_json
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.question import APPROVE, DECLINE, QuestionKind
from orchestrator.flow.question_port import OpenQuestion

_question = click.option(
    "--question", "ref", metavar="REF", help="Which question, where the task asks several: see `task questions`."
)
_watching = click.option("--watch", "watching", is_flag=True, help="Follow the task until it ends.")


@click.command(
    cls=Command,
    examples=["task questions", "task questions --who finance", "task questions --json | jq -r '.questions[].task_id'"],
)
@click.option("--who", help="Only what is for this role or person, or was escalated to them.")
@click.option("--task", "task_id", metavar="TASK_ID", help="Only what this task asks.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@pass_output
def questions(out: Output, who: str | None, task_id: str | None, limit: int) -> None:
    """List what waits for a person, oldest first.

    Questions of the planner, calls that need an approval (with their arguments), and what agents ask back.
    """
    with parts.question_store() as store:
        found = store.questions(task_id=task_id, who=who, limit=limit)
    if out.as_json:
        out.document({"questions": [question_json(one) for one in found]})
        return
    if not found:
        out.note("Nothing waits for a person.")
    for one in found:
        _write(out, one)


@click.command(
    cls=Command,
    examples=[
        "task answer supplier-42 --choice 'Net 30' --why 'as agreed on the phone'",
        "task answer supplier-42 credit_limit=5000 payment_days=30",
        'task answer supplier-42 --question 3.0.1 --value \'{"iban": "DE02120300000000202051"}\' --watch',
    ],
)
@click.argument("task_id")
@click.argument("pairs", metavar="[FIELD=VALUE]...", nargs=-1)
@click.option("--choice", help="One of the choices, word for word.")
@click.option("--value", metavar="JSON", help="The whole answer as JSON.")
@click.option("--text", help="The whole answer as text.")
@_question
@who_and_why
@_watching
@pass_output
def answer(
    out: Output,
    task_id: str,
    pairs: tuple[str, ...],
    choice: str | None,
    value: str | None,
    text: str | None,
    ref: str | None,
    who: str,
    why: str,
    watching: bool,
) -> int:
    """Answer what a task asks.

    The answer is checked against the question's choices or schema: one that does not fit is refused, and the question
    stays open. FIELD=VALUE pairs make an object; a single one for the field asked for is its value.
    """
    given = [one for one in (choice, value, text, pairs or None) if one is not None]
    if len(given) != 1:
        raise Misuse("give the answer once: FIELD=VALUE pairs, --choice, --value or --text")
    with parts.answers() as answers:
        if pairs:
            wanted = _the_one_field(answers.store.questions(task_id=task_id), ref)
            found: Any = parse_pairs("FIELD=VALUE", pairs)
            if wanted is not None and list(found) == [wanted]:
                found = found[wanted]
        else:
            found = choice if choice is not None else text if text is not None else _json(str(value))
        doorbell = answers.answer(task_id, ref, found, who=who, why=why)
    return _answered(out, doorbell, found, watching)


@click.command(cls=Command, examples=["task approve supplier-42", "task approve supplier-42 --question 3.1 --watch"])
@click.argument("task_id")
@_question
@who_and_why
@_watching
@pass_output
def approve(out: Output, task_id: str, ref: str | None, who: str, why: str, watching: bool) -> int:
    """Approve a call that waits for it.

    `task questions` shows the call with its arguments. It is made as recorded; the planner is not asked anew.
    """
    with parts.answers() as answers:
        doorbell = answers.answer(task_id, ref, APPROVE, who=who, why=why)
    return _answered(out, doorbell, APPROVE, watching)


@click.command(
    cls=Command, examples=["task decline supplier-42 --why 'the limit is too high: 5,000 at most'", "task decline t-7"]
)
@click.argument("task_id")
@_question
@who_and_why
@_watching
@pass_output
def decline(out: Output, task_id: str, ref: str | None, who: str, why: str, watching: bool) -> int:
    """Decline a call that waits for an approval.

    It is not made. The planner is told, with --why, and decides anew.
    """
    with parts.answers() as answers:
        doorbell = answers.answer(task_id, ref, DECLINE, who=who, why=why)
    return _answered(out, doorbell, DECLINE, watching)


def _the_one_field(found: Sequence[OpenQuestion], ref: str | None) -> str | None:
    fields = [one.question.field for one in found if ref in (None, one.question.ref)]
    return fields[0] if len(fields) == 1 else None


def _json(text: str) -> Any:
    try:
        return strict_json(text)
    except ValueError as error:
        raise Misuse(f"--value is not JSON: {error}", hint="For plain text use --text.") from error


def _answered(out: Output, doorbell: Dispatch, given: Any, watching: bool) -> int:
    task_id = doorbell.task_id
    if out.as_json:
        document = {"task_id": task_id, "step": doorbell.step, "answer": given}
        (out.document_line if watching else out.document)(document)
    else:
        out.line(
            ("answered", "green"), " ", (task_id, "bold"), f": {shortened(given, 200)}; step {doorbell.step} goes on"
        )
    if watching:
        return follow(out, task_id, appear=0)
    out.note(f"  → follow it: orchestrator task watch {parts.quoted(task_id)}")
    return 0


def _write(out: Output, one: OpenQuestion) -> None:
    question, name = one.question, parts.quoted(one.task_id)
    to = f" for {question.who}" if question.who else ""
    out.line(
        (one.task_id, "bold"), f" {question.ref}{to}, asked {ago(question.asked_at)}", (f"  {question.kind}", "dim")
    )
    out.line(f"  {question.text}")
    if one.agent is not None and question.kind is QuestionKind.APPROVAL:
        out.line(f"  {one.agent} with {shortened(dict(one.arguments or {}), 2000)}")
    if question.choices and question.kind is not QuestionKind.APPROVAL:
        out.line(f"  choices: {', '.join(question.choices)}")
    if question.schema is not None:
        out.line(f"  schema: {shortened(dict(question.schema), 1000)}")
    if fields := question.all_fields():
        out.line(f"  fills: {', '.join(fields)}")
    if question.escalated_at is not None:
        out.line((f"  escalated to {question.escalate_to} {ago(question.escalated_at)}", "yellow"))
    if question.timeout_at is not None:
        out.line((f"  until {question.timeout_at.astimezone():%Y-%m-%d %H:%M:%S}", "dim"))
    which = f" --question {parts.quoted(question.ref)}"
    if question.kind is QuestionKind.APPROVAL:
        out.line("    ", (f"orchestrator task approve {name}{which}", "cyan"))
        out.line("    ", (f"orchestrator task decline {name}{which} --why REASON", "cyan"))
        return
    form = "--choice CHOICE" if question.choices else "FIELD=VALUE" if question.all_fields() else "--text ANSWER"
    out.line("    ", (f"orchestrator task answer {name}{which} {form}", "cyan"))
