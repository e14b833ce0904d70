"""An explanation in words and as JSON. Only words and colours, no I/O but through `Output`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.cli.output import Output, Part, duration, json_text, shortened
from orchestrator.cli.shapes import change_json, delegation_seconds, fields_json, step_json, task_json
from orchestrator.cli.task.render import origin_words
from orchestrator.cli.task.render_news import state_part
from orchestrator.domain.context import Change, has_value
from orchestrator.domain.decision import Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import Tried
from orchestrator.domain.question import Question, QuestionState
from orchestrator.domain.task import TaskState
from orchestrator.flow.decide import CORRECTED
from orchestrator.flow.explain import Costs, Explanation, StepExplained, in_vain

Prompts = Mapping[int, Mapping[str, Any]]
"""Step number → the question as a model reads it."""

_NOT_ANSWERED: Mapping[QuestionState, str] = {
    QuestionState.OPEN: "not answered yet",
    QuestionState.TIMED_OUT: "and nobody answered in time",
    QuestionState.WITHDRAWN: "and nobody needed to answer any more",
    QuestionState.ANSWERED: "answered",
    QuestionState.SETTLED: "answered",
}

_LABEL = 17
_SHORT, _FULL = 160, 20_000


def write_explanation(
    out: Output, explanation: Explanation, steps: Sequence[StepExplained], prompts: Prompts, *, in_full: bool
) -> None:
    """The task in a few lines, then its steps."""
    task = explanation.task
    out.line((task.task_id, "bold"), "  ", state_part(task.state.value))
    out.line(f"  {task.description}")
    _fact(out, "Wanted", ", ".join(task.required_fields) or "no field in particular: the planner says when it is done")
    if task.reason and task.state is not TaskState.COMPLETED:
        _fact(out, "Why it stands so", task.reason)
    if explanation.context.missing_fields:
        _fact(out, "Still missing", ", ".join(explanation.context.missing_fields))
    _fact(out, "Cost", spent_words(explanation.spent))
    for one in steps:
        out.line()
        _write_step(out, one, _FULL if in_full else _SHORT, everything=in_full)
        if (prompt := prompts.get(one.entry.step.number)) is not None:
            _write_prompt(out, one, prompt)


def spent_words(spent: Costs) -> str:
    """`3 decisions, 3 answers, 3,060 tokens in, 140 out, 0.0012 USD, in 4.1 s`."""
    if not spent.decisions and not spent.tokens_in_vain:
        return "no decision was made"
    words = f"{_count(spent.decisions, 'decision')}, {_count(spent.answers, 'answer')}"
    if spent.tokens:
        words += f", {spent.tokens_in:,} tokens in, {spent.tokens_out:,} out"
        words += f", {spent.tokens_in_vain:,} in vain" if spent.tokens_in_vain else ""
        words += "" if spent.cost is None else f", {spent.cost:.4f} USD"
        if spent.unpriced:
            words += f" (price of {_count(spent.unpriced, 'decision')} not known)"
        return f"{words}, in {duration(spent.seconds)}"
    return f"{words}, no tokens"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- a step -----------------------------------------------------------------------------------------------------------


def _write_step(out: Output, one: StepExplained, length: int, *, everything: bool) -> None:
    step, request, decision = one.entry.step, one.question.request, one.entry.step.decision
    heading: list[Part] = [(f"Step {step.number}", "bold"), ": ", (happened(one), "bold")]
    if step.superseded:
        heading.append(("  (given up by a rerun)", "dim"))
    out.line(*heading)
    if everything:
        known = [_value(name, value, one, length) for name, value in one.known.collected_data.items()]
        _facts(out, "Known", known or ["nothing yet"])
    else:
        _facts(out, "New", [_news(change, length) for change in one.news] or ["nothing"])
    _fact(out, "Missing", ", ".join(one.known.missing_fields) or "nothing")
    if step.asked is not None or decision is not None:
        _fact(out, "Could choose", _offered(one))
        if request.wait_timed_out:
            _fact(out, "Was told", "the last wait ended by its time-out")
        for complaint in request.complaints:
            _fact(out, "Sent back", shortened(complaint, max(length, 300)))
    if decision is not None:
        _fact(out, "Choice", choice_words(decision, length))
        _fact(out, "Why", decision.reason)
        if corrected := decision.details.get(CORRECTED):
            _fact(out, "Was corrected", f"{', '.join(corrected)}: the planner gave another value than what is known")
        _fact(out, "Chosen by", usage_words(decision.usage))
    for tried in in_vain(step):
        _fact(out, "In vain", _tried_words(tried, max(length, 300)))
    for question in one.entry.questions:
        _fact(out, "Was asked", _question_words(question, max(length, 300)))
    for delegation in one.entry.delegations:
        _fact(out, "Came back", _came_back(delegation, length))
    if (event := one.entry.ended_by) is not None:
        _fact(
            out, "Came back", f"the event {event.event_type or '(of no type)'}: {shortened(event.event_data, length)}"
        )
    _facts(out, "Learned", [f"{change.field} = {shortened(change.value, length)}" for change in one.learned])
    if step.error:
        _fact(out, "Went wrong", f"{step.error} [{step.error_code}]" if step.error_code else step.error)


def happened(one: StepExplained) -> str:
    """A step in a few words: ``credit_score was asked``."""
    decision = one.entry.step.decision
    if decision is None:
        if one.entry.step.error:
            return "no choice could be made"
        return "every field was there, nothing had to be chosen" if one.known.is_complete else "not decided yet"
    match decision.kind:
        case DecisionKind.CALL:
            verb = "was" if len(decision.calls) == 1 else "were"
            return f"{_listed(call.agent for call in decision.calls)} {verb} asked"
        case DecisionKind.RECORD:
            return f"{_listed(record.field for record in decision.records)} taken from an earlier reply"
        case DecisionKind.FINISH:
            return "declared done"
        case DecisionKind.WAIT_FOR_EVENT:
            return "waited for an event"
        case DecisionKind.ASK_HUMAN:
            return "a person was asked"
        case DecisionKind.FAIL:
            return "given up"


def choice_words(decision: Decision, length: int = _SHORT) -> str:
    """The choice as a sentence without a subject: ``ask credit_score: "Score it", with registration_number = …``."""
    match decision.kind:
        case DecisionKind.CALL:
            return "; ".join(
                f"ask {call.agent}{f': “{shortened(call.task, length)}”' if call.task else ''}"
                f"{_with(call.arguments, length)}"
                for call in decision.calls
            )
        case DecisionKind.RECORD:
            return "; ".join(_record_words(record, length) for record in decision.records)
        case DecisionKind.FINISH:
            return "finish: the task is done"
        case DecisionKind.WAIT_FOR_EVENT:
            seconds = decision.details.get("timeout_seconds")
            at_most = "" if seconds is None else f", {duration(float(seconds))} at most"
            return f"wait for the event {decision.details.get('event_type') or '(of any type)'}{at_most}"
        case DecisionKind.ASK_HUMAN:
            return f"ask a person: “{shortened(str(decision.details.get('question', '')), max(length, 300))}”"
        case DecisionKind.FAIL:
            return f"give the task up ({decision.details.get('code') or 'without a code'})"


def usage_words(usage: Usage) -> str:
    """Who chose, and what that cost."""
    who = usage.model or "an unknown planner"
    if usage.prompt_version:
        who += f" (prompt {usage.prompt_version})"
    if not (usage.tokens_in or usage.tokens_out):
        return f"{who}, no tokens" if usage.model.startswith("rules:") else f"{who} in {duration(usage.seconds)}"
    words = f"{who} in {duration(usage.seconds)}: {usage.tokens_in:,} tokens in, {usage.tokens_out:,} out"
    words += ", price not known" if usage.cost is None else f", {usage.cost:.4f} USD"
    return words if usage.answers == 1 else f"{words}, for {usage.answers} answers"


def _with(arguments: Mapping[str, Any], length: int) -> str:
    pairs = ", ".join(f"{name} = {shortened(value, length)}" for name, value in arguments.items())
    return f", with {pairs}" if pairs else ""


def _record_words(record: FieldRecord, length: int) -> str:
    place = (
        f"the place {record.pointer or 'as a whole'}"
        if record.pointer is not None
        else f"the words “{shortened(record.quote or '', length)}”"
    )
    return f"take {record.field} from reply {record.delegation}, {place}"


def _offered(one: StepExplained) -> str:
    if not one.question.exact:
        return "not on record (decided by an earlier version, or its offer was removed)"
    agents = ", ".join(agent.name for agent in one.question.request.agents) or "no agent"
    events = ", ".join(kind.name for kind in one.question.request.event_types)
    return f"{agents}; to wait for an event{f' ({events})' if events else ''}, to ask a person, to give up"


def _came_back(delegation: Delegation, length: int) -> str:
    words = f"{delegation.ref} {delegation.agent}"
    if (seconds := delegation_seconds(delegation)) is not None:
        words += f" after {duration(seconds)}"
    if delegation.attempts > 1:
        words += f", {delegation.attempts} attempts"
    match delegation.state:
        case DelegationState.SUCCEEDED | DelegationState.COMPENSATED:
            undone = ", undone since" if delegation.state is DelegationState.COMPENSATED else ""
            return f"{words}{undone}: {shortened(delegation.reply, length)}"
        case DelegationState.UNKNOWN:
            return f"{words}: its reply was lost, it may have acted ({delegation.error})"
        case DelegationState.FAILED:
            return f"{words}: failed, {delegation.error} [{delegation.error_code}]"
        case DelegationState.PENDING | DelegationState.IN_FLIGHT:
            return f"{words}: nothing yet ({delegation.state.value.replace('_', ' ')})"


def _tried_words(tried: Tried, length: int) -> str:
    error = shortened(tried.error, length)
    words = error if error.startswith(tried.model) else f"{tried.model}: {error}"
    words += f" [{tried.code}]"
    if not tried.tokens:
        return words
    price = "price not known" if tried.cost is None else f"{tried.cost:.4f} USD"
    return f"{words}, {tried.tokens:,} tokens, {price}"


def _question_words(question: Question, length: int) -> str:
    """Whom, what, and what they said."""
    what = f"{question.who or 'a person'}: “{shortened(question.text, length)}”"
    if question.answered_by is None:
        return f"{what}, {_NOT_ANSWERED[question.state]}"
    why = f" ({shortened(question.why, length)})" if question.why else ""
    return f"{what}; {question.answered_by} answered: {shortened(question.answer, length)}{why}"


def _news(change: Change, length: int) -> str:
    if change.removed or not has_value(change.value):
        return f"{change.field} is no longer known"
    return f"{change.field} = {shortened(change.value, length)}  ({origin_words(change.origin)})"


def _value(name: str, value: Any, one: StepExplained, length: int) -> str:
    origin = one.known.origins.get(name)
    return f"{name} = {shortened(value, length)}" + (f"  ({origin_words(origin)})" if origin else "")


def _listed(names: Iterable[str]) -> str:
    *first, last = dict.fromkeys(names)
    return f"{', '.join(first)} and {last}" if first else last


def _fact(out: Output, label: str, text: str) -> None:
    out.line((f"  {label:<{_LABEL}}", "dim"), text)


def _facts(out: Output, label: str, texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        _fact(out, "" if number else label, text)


def _write_prompt(out: Output, one: StepExplained, prompt: Mapping[str, Any]) -> None:
    kind = "as it was asked" if one.question.exact else "without what was on offer, which is not on record"
    out.line((f"  The question {kind}, in prompt {prompt['prompt_version']}:", "dim"))
    tools = "\n".join(json_text(tool["function"]) for tool in prompt["tools"])
    for title, text in (("instructions", prompt["system"]), ("tools", tools), ("data", prompt["user"])):
        out.line((f"  --- {title}", "dim"))
        for line in text.rstrip().splitlines():
            out.line(f"  {line}")


# -- for programs -----------------------------------------------------------------------------------------------------


def explanation_json(explanation: Explanation, steps: Sequence[StepExplained], prompts: Prompts) -> dict[str, Any]:
    """The document of ``task explain --json``."""
    return {
        "task": task_json(explanation.task),
        "missing_fields": list(explanation.context.missing_fields),
        "spent": spent_json(explanation.spent),
        "steps": [_step_json(one, prompts.get(one.entry.step.number)) for one in steps],
    }


def spent_json(spent: Costs) -> dict[str, Any]:
    """What decisions cost together."""
    return {
        "decisions": spent.decisions,
        "answers": spent.answers,
        "tokens_in": spent.tokens_in,
        "tokens_out": spent.tokens_out,
        "tokens_in_vain": spent.tokens_in_vain,
        "cost": spent.cost,
        "unpriced": spent.unpriced,
        "seconds": spent.seconds,
    }


def _step_json(one: StepExplained, prompt: Mapping[str, Any] | None) -> dict[str, Any]:
    request, decision = one.question.request, one.entry.step.decision
    document = step_json(one.entry) | {
        "happened": happened(one),
        "choice": None if decision is None else choice_words(decision, _FULL),
        "known": fields_json(one.known),
        "missing_fields": list(one.known.missing_fields),
        "new": [change_json(change) for change in one.news],
        "learned": [change_json(change) for change in one.learned],
        "question": {
            "exact": one.question.exact,
            "agents": [
                {
                    "name": agent.name,
                    "description": agent.description,
                    "provides": dict(agent.provides),
                    "requires": dict(agent.requires),
                }
                for agent in request.agents
            ],
            "event_types": [kind.name for kind in request.event_types],
            "steps_shown": [entry.step.number for entry in request.history],
            "wait_timed_out": request.wait_timed_out,
            "complaints": list(request.complaints),
        },
    }
    return document if prompt is None else document | {"prompt": dict(prompt)}
