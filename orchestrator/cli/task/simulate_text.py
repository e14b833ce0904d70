"""A simulation in words and as JSON. Only words and colours, no I/O but through `Output`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cli.output import Output, Part, duration, shortened
from orchestrator.cli.shapes import task_json
from orchestrator.cli.task.explain_text import choice_words, spent_json, usage_words
from orchestrator.cli.task.render_news import state_part
from orchestrator.domain.decision import Decision
from orchestrator.domain.task import TaskState
from orchestrator.errors import OrchestratorError
from orchestrator.flow.divergence import Choice, NoChoice
from orchestrator.flow.explain import Costs
from orchestrator.flow.on_record import Ending
from orchestrator.flow.simulate import Simulation, StepSimulated, Verdict, then_of
from orchestrator.flow.trial import Tryout

_LABEL = 10
_SHORT, _FULL = 160, 20_000

_VERDICTS: Mapping[Verdict, Part] = {
    Verdict.SAME: ("the same", "green"),
    Verdict.OTHER: ("goes another way", "yellow"),
    Verdict.NOT_ON_RECORD: ("not on record", "red"),
}


def write_one(out: Output, found: Simulation) -> None:
    """A task: each step, the first difference in full, how it ends, and both costs side by side."""
    task = found.task
    out.line((task.task_id, "bold"), "  ", state_part(task.state.value), "  decided again: ", _VERDICTS[found.verdict])
    out.line(f"  {task.description}")
    beyond = False
    for one in found.steps:
        if beyond:
            _write_beyond(out, one)
            continue
        _write_step(out, one)
        beyond = one is found.difference
        if beyond and len(found.steps) > found.steps.index(one) + 1:
            out.line()
            out.line("From here on with the answers on record, as far as they go:")
    out.line()
    out.line(_ending_words(found))
    out.line()
    _write_costs(out, found)


def _write_step(out: Output, one: StepSimulated) -> None:
    out.line()
    if one.comparison is None or one.now is None:
        out.line((f"Step {one.number}", "bold"), f": {one.note}; nobody was asked")
        return
    same = one.comparison.same
    out.line(
        (f"Step {one.number}", "bold"), ": ", ("the same choice", "green") if same else ("another choice", "yellow")
    )
    if same:
        _fact(out, "choice", _choice(one.now.choice))
    else:
        _write_both(out, one, one.now)
    for told in one.comparison.differences:
        _fact(out, "differs", told)
    for told in one.comparison.wording:
        _fact(out, "wording", told)
    for complaint in one.now.complaints:
        _fact(out, "sent back", shortened(complaint, 300))
    if one.note:
        _fact(out, "prompt", one.note)
    _write_sources(out, one)


def _write_both(out: Output, one: StepSimulated, now: Tryout) -> None:
    if one.then is not None:
        then = then_of(one.then)
        _fact(out, "then", _choice(then))
        _fact(out, "  why", _why(then))
        if one.then.step.decision is not None:
            _fact(out, "  by", usage_words(one.then.step.decision.usage))
    _fact(out, "now", _choice(now.choice))
    _fact(out, "  why", _why(now.choice))
    _fact(out, "  by", usage_words(now.usage))


def _write_beyond(out: Output, one: StepSimulated) -> None:
    if one.now is None:
        return
    out.line((f"Step {one.number}", "bold"), f": {_choice(one.now.choice)}")
    _fact(out, "why", _why(one.now.choice))
    _write_sources(out, one)


def _write_sources(out: Output, one: StepSimulated) -> None:
    if one.sources:
        _fact(out, "answered", f"by {', '.join(one.sources)} on record")


def _ending_words(found: Simulation) -> str:
    if found.verdict is Verdict.SAME:
        return f"Ends as it did: {ending_words(found.ending)}."
    if found.ending is None:
        return f"Unknown from here on: {found.unknown}."
    then = ending_words(Ending(found.task.state, found.task.reason_code or "", found.task.reason or ""))
    now = ending_words(found.ending)
    return f"Ends {now} after {_count(len(found.steps))} (then {then}, after {_count(found.steps_then)})."


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def ending_words(ending: Ending | None) -> str:
    """`completed`, or `failed (no_route)`."""
    if ending is None:
        return "unknown"
    return f"{ending.state.value} ({ending.code})" if ending.state is TaskState.FAILED else ending.state.value


def _write_costs(out: Output, found: Simulation) -> None:
    rows: list[Sequence[Part]] = [_cost_row("then", found.then), _cost_row("now", found.now)]
    if found.difference is not None:
        rows += [
            _cost_row("then, up to the difference", found.then_compared),
            _cost_row("now, up to the difference", found.now_compared),
        ]
    _cost_table(out, rows)


def _cost_table(out: Output, rows: Sequence[Sequence[Part]]) -> None:
    out.table(["", "decisions", "answers", "tokens in", "tokens out", "in vain", "cost", "time"], rows)


def _cost_row(name: str, costs: Costs) -> Sequence[Part]:
    cost = "-" if costs.cost is None else f"{costs.cost:.4f}"
    cost += f" and {costs.unpriced} unpriced" if costs.unpriced else ""
    return [
        name,
        str(costs.decisions),
        str(costs.answers),
        f"{costs.tokens_in:,}",
        f"{costs.tokens_out:,}",
        f"{costs.tokens_in_vain:,}",
        cost,
        duration(costs.seconds),
    ]


def _choice(choice: Choice) -> str:
    if isinstance(choice, NoChoice):
        return f"none that can be used ({choice.code})"
    return choice_words(choice, _SHORT)


def _why(choice: Choice) -> str:
    return choice.reason if isinstance(choice, Decision) else choice.why


def _fact(out: Output, label: str, text: str) -> None:
    out.line((f"  {label:<{_LABEL}}", "dim"), text)


# -- many -------------------------------------------------------------------------------------------------------------


def write_row(out: Output, task_id: str, found: Simulation | OrchestratorError) -> None:
    """One of many, on a line."""
    if isinstance(found, OrchestratorError):
        out.line(("not tried", "red"), "  ", (task_id, "bold"), f"  {found}")
        return
    parts: list[Part] = [_VERDICTS[found.verdict], "  ", (task_id, "bold")]
    if (difference := found.difference) is not None and difference.comparison is not None:
        told = "; ".join(difference.comparison.differences)
        parts.append(f"  step {difference.number}: {shortened(told, _SHORT)}")
        end = f"now {ending_words(found.ending)}" if found.ending else "what follows is unknown"
        parts.append(f" ({end})")
    elif found.unknown:
        parts.append(f"  {found.unknown}")
    out.line(*parts)


def write_sum(out: Output, told: Sequence[Simulation], left: Mapping[str, OrchestratorError]) -> None:
    """What many came to."""
    out.line()
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in _counts(told, left).items() if number)
    number = len(told) + len(left)
    out.line(f"{number} task{'' if number == 1 else 's'}: {counts}")
    out.line()
    _cost_table(
        out,
        [
            _cost_row("then", _sum([one.then for one in told])),
            _cost_row("now", _sum([one.now for one in told])),
            _cost_row("then, steps decided twice", _sum([one.then_compared for one in told])),
            _cost_row("now, steps decided twice", _sum([one.now_compared for one in told])),
        ],
    )


def _counts(told: Sequence[Simulation], left: Mapping[str, OrchestratorError]) -> dict[str, int]:
    counts = {verdict.value: sum(one.verdict is verdict for one in told) for verdict in Verdict}
    return counts | {"not_tried": len(left)}


def _sum(costs: Sequence[Costs]) -> Costs:
    known = [one.cost for one in costs if one.cost is not None]
    return Costs(
        decisions=sum(one.decisions for one in costs),
        answers=sum(one.answers for one in costs),
        tokens_in=sum(one.tokens_in for one in costs),
        tokens_out=sum(one.tokens_out for one in costs),
        tokens_in_vain=sum(one.tokens_in_vain for one in costs),
        cost=sum(known) if known else None,
        unpriced=sum(one.unpriced for one in costs),
        seconds=sum(one.seconds for one in costs),
    )


# -- for programs -----------------------------------------------------------------------------------------------------


def simulations_json(
    model: str,
    prompt: str | None,
    told: Sequence[Simulation],
    left: Mapping[str, OrchestratorError],
    stopped: OrchestratorError | None,
) -> dict[str, Any]:
    """The document of ``task simulate --json``; ``stopped`` says why not all were tried, where something stopped it."""
    return {
        "model": model,
        "prompt": prompt,
        **_counts(told, left),
        "stopped": None if stopped is None else {"code": stopped.code, "message": str(stopped)},
        "then": spent_json(_sum([one.then for one in told])),
        "now": spent_json(_sum([one.now for one in told])),
        "tasks": [_simulation_json(one) for one in told],
        "left": [{"task_id": one, "code": error.code, "error": str(error)} for one, error in left.items()],
    }


def _simulation_json(found: Simulation) -> dict[str, Any]:
    difference = found.difference
    return {
        "task_id": found.task.task_id,
        "verdict": found.verdict.value,
        "task": task_json(found.task),
        "difference": None if difference is None else _step_json(difference),
        "ending": None
        if found.ending is None
        else {"state": found.ending.state.value, "reason_code": found.ending.code, "reason": found.ending.reason},
        "unknown": found.unknown or None,
        "costs": {
            "then": spent_json(found.then),
            "now": spent_json(found.now),
            "then_compared": spent_json(found.then_compared),
            "now_compared": spent_json(found.now_compared),
        },
        "steps": [_step_json(one) for one in found.steps],
    }


def _step_json(one: StepSimulated) -> dict[str, Any]:
    return {
        "step": one.number,
        "then": None if one.then is None or one.comparison is None else _choice_json(then_of(one.then)),
        "now": None if one.now is None else _choice_json(one.now.choice),
        "model": None if one.now is None else one.now.usage.model,
        "prompt_version": None if one.now is None else one.now.usage.prompt_version,
        "same": None if one.comparison is None else one.comparison.same,
        "differences": [] if one.comparison is None else list(one.comparison.differences),
        "wording": [] if one.comparison is None else list(one.comparison.wording),
        "complaints": [] if one.now is None else list(one.now.complaints),
        "answered_by": list(one.sources),
        "note": one.note or None,
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    if isinstance(choice, NoChoice):
        return {"kind": None, "code": choice.code, "reason": choice.why, "words": _choice(choice)}
    return choice.to_json() | {"words": choice_words(choice, _FULL)}
