"""Tasks as the command line tells of them: what is new, what to do now, what may be repeated. Pure values only."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.cli.output import Output, json_text
from orchestrator.cli.task.advice import advice
from orchestrator.cli.task.control import may_be_repeated
from orchestrator.cli.task.news import News, Watching
from orchestrator.cli.task.render import show_json, write_end, write_task, write_versions
from orchestrator.cli.task.render_news import news_line
from orchestrator.domain.agent import AgentSpec
from orchestrator.domain.context import Change, Context, Origin
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, Usage
from orchestrator.domain.delegation import Delegation, DelegationState
from orchestrator.domain.journal import HistoryEntry, Step, StepState
from orchestrator.domain.task import Task, TaskState, WaitsFor
from orchestrator.domain.value import replace
from orchestrator.flow.ports import OutboxRow

START = datetime(2026, 11, 2, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_task(state: TaskState = TaskState.PROCESSING, **more: Any) -> Task:
    made = Task("T 1", "Score Acme", ("score", "contract"), state, 1, at(0), at(1))
    return replace(made, **more)


def a_delegation(state: DelegationState = DelegationState.SUCCEEDED, **more: Any) -> Delegation:
    settled = state not in {DelegationState.PENDING, DelegationState.IN_FLIGHT}
    made = Delegation(
        "T 1", 1, 0, "scorer", {"company": "Acme"}, "score it", "T%201:1:0:abc", state, attempts=1, sent_at=at(2),
        finished_at=at(3) if settled else None, reply={"score": 80} if state is DelegationState.SUCCEEDED else None,
    )  # fmt: skip
    return replace(made, **more)


def an_entry(
    state: StepState = StepState.FINISHED, *delegations: Delegation, number: int = 1, **more: Any
) -> HistoryEntry:
    usage = Usage("rules:", tokens_in=10, tokens_out=5, seconds=0.5)
    calls = tuple(AgentCall(one.agent, one.arguments) for one in delegations)
    kind = DecisionKind.CALL if calls else DecisionKind.WAIT_FOR_EVENT
    decision = Decision(kind, "the score is missing", usage, calls)
    ended = None if state is StepState.OPEN else at(4)
    step = Step("T 1", number, state, decision, 1, 1, None, at(1), at(1.5), ended)
    return HistoryEntry(replace(step, **more), delegations)


def a_context(**values: Any) -> Context:
    origin = Origin("agent", "scorer", at(3), step=1)
    return Context(2, ("score", "contract"), values, dict.fromkeys(values, origin))


def an_update(number: int, state: str, **more: Any) -> OutboxRow:
    body = {"task_id": "T 1", "state": state, "step": 1, "occurred_at": at(number).isoformat(), **more}
    return OutboxRow(number, "update", "T 1", body)


def told(news: list[News]) -> list[tuple[str, str]]:
    return [(one.event, str(one.data.get("state", one.data.get("field", one.data.get("kind"))))) for one in news]


# -- what is new


def test_each_thing_is_told_once_and_in_its_order() -> None:
    watching = Watching()
    first = watching.look(
        a_task(), a_context(), [an_entry(StepState.OPEN, a_delegation(DelegationState.IN_FLIGHT))],
        [an_update(0, "received"), an_update(1, "processing")],
    )  # fmt: skip
    assert told(first) == [
        ("state", "received"),
        ("state", "processing"),
        ("decided", "call"),
        ("delegation", "in_flight"),
    ]
    assert watching.last_update == 1
    second = watching.look(a_task(), a_context(score=80), [an_entry(StepState.FINISHED, a_delegation())], [])
    assert told(second) == [("delegation", "succeeded"), ("field", "score"), ("step", "finished")]
    assert watching.look(a_task(), a_context(score=80), [an_entry(StepState.FINISHED, a_delegation())], []) == []


def test_another_attempt_and_another_value_are_news() -> None:
    watching = Watching()
    flying = a_delegation(DelegationState.IN_FLIGHT)
    watching.look(a_task(), a_context(score=80), [an_entry(StepState.OPEN, flying)], [])
    again = watching.look(
        a_task(), a_context(score=81), [an_entry(StepState.OPEN, replace(flying, attempts=2, error="503"))], []
    )
    assert [(one.event, one.data.get("attempts", one.data.get("value"))) for one in again] == [
        ("delegation", 2),
        ("field", 81),
    ]


def test_a_wait_between_two_looks_is_told_from_the_updates() -> None:
    watching = Watching()
    watching.look(a_task(), a_context(), [], [])
    news = watching.look(a_task(), a_context(), [], [an_update(2, "waiting", waits_for="retry", reason="agent down")])
    assert [one.data["reason"] for one in news if one.data["state"] == "waiting"] == ["agent down"]


def test_a_delegation_not_yet_sent_is_no_news() -> None:
    pending = a_delegation(DelegationState.PENDING, attempts=0, sent_at=None)
    assert told(Watching().look(a_task(), a_context(), [an_entry(StepState.OPEN, pending)], [])) == [
        ("state", "processing"),
        ("decided", "call"),
    ]


def test_a_failed_step_that_is_retried_is_told_again() -> None:
    watching = Watching()
    failed = an_entry(StepState.FAILED, error="agent down", error_code="agent_down")
    assert ("step", "failed") in told(watching.look(a_task(TaskState.FAILED), a_context(), [failed], []))
    watching.look(a_task(), a_context(), [an_entry(StepState.OPEN)], [])
    assert ("step", "failed") in told(watching.look(a_task(TaskState.FAILED), a_context(), [failed], []))


def test_every_kind_of_news_has_a_line_and_is_json() -> None:
    failed = a_delegation(DelegationState.FAILED, error="HTTP 422", error_code="agent_rejected", attempts=3)
    entry = an_entry(StepState.FAILED, failed, error="scorer: HTTP 422", error_code="agent_rejected")
    task = a_task(TaskState.FAILED, reason="scorer: HTTP 422", reason_code="agent_rejected")
    news = Watching().look(task, a_context(score=80), [entry], [])
    assert {one.event for one in news} == {"state", "decided", "delegation", "step", "field"}
    lines = ["".join(part if isinstance(part, str) else part[0] for part in news_line(one)) for one in news]
    text = "\n".join(lines)
    assert "decided: scorer — the score is missing" in text
    assert "1.0 scorer failed, attempt 3 in 1.0 s: HTTP 422" in text
    assert "score = 80  (agent scorer)" in text
    assert "task failed: scorer: HTTP 422" in text
    for one in news:
        json.loads(json_text({"event": one.event, **one.data}))


# -- what to do now


def commands(task: Task, *history: HistoryEntry) -> list[str]:
    return [one.command.removeprefix("orchestrator ") for one in advice(task, history)]


def test_a_failed_task_can_be_retried_corrected_and_its_agent_checked() -> None:
    failed = an_entry(StepState.FAILED, a_delegation(DelegationState.FAILED, error="down"))
    assert commands(a_task(TaskState.FAILED), failed) == [
        "task retry 'T 1'",
        "task rerun 'T 1' --step 1 --set FIELD=VALUE",
        "agent check scorer",
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"waits_for": WaitsFor.EVENT, "wait": {"event_type": "supplier.approved"}},
            "task event 'T 1' --type supplier.approved --data FIELD=VALUE",
        ),
        ({"waits_for": WaitsFor.PERSON, "wait": {"question": "Which one?"}}, "task questions --task 'T 1'"),
        ({"waits_for": WaitsFor.RETRY}, "task retry 'T 1'"),
        ({"waits_for": WaitsFor.AGENT}, "task watch 'T 1'"),
    ],
)
def test_a_waiting_task_is_given_what_it_waits_for(more: dict[str, Any], expected: str) -> None:
    assert commands(a_task(TaskState.WAITING, **more))[0] == expected


def test_an_unknown_outcome_is_not_simply_sent_again() -> None:
    lost = an_entry(StepState.OPEN, a_delegation(DelegationState.UNKNOWN, error="reply lost"))
    found = advice(a_task(TaskState.WAITING, waits_for=WaitsFor.PERSON), [lost])
    assert "scorer may have acted" in found[0].why
    assert [one.command for one in found] == [
        "orchestrator task resolve 'T 1' --succeeded --reply JSON",
        "orchestrator task resolve 'T 1' --never-happened",
        "orchestrator task resolve 'T 1' --failed",
    ]


def test_ended_tasks() -> None:
    assert commands(a_task(TaskState.COMPLETED), an_entry()) == []
    assert commands(a_task(TaskState.CANCELED), an_entry(number=3)) == ["task rerun 'T 1' --step 3"]
    assert commands(a_task(TaskState.CANCELED)) == []


# -- what a rerun may repeat


def test_only_calls_that_acted_since_that_step_may_be_repeated() -> None:
    reader = AgentSpec("reader", "", "http://a", side_effects=False)
    mailer = AgentSpec("mailer", "", "http://a", side_effects=True)
    history = [
        an_entry(StepState.FINISHED, a_delegation(agent="mailer"), number=1),
        an_entry(StepState.FINISHED, a_delegation(agent="mailer"), number=2, superseded=True),
        an_entry(
            StepState.FAILED,
            a_delegation(agent="reader"),
            a_delegation(DelegationState.FAILED, agent="mailer", index=1),
            a_delegation(DelegationState.UNKNOWN, agent="mailer", index=2),
            a_delegation(agent="mailer", index=3),
            a_delegation(agent="forgotten", index=4),
            number=3,
        ),
    ]
    known = {"reader": reader, "mailer": mailer}
    assert [one.index for one in may_be_repeated(history, 2, known)] == [2, 3, 4]
    assert [one.index for one in may_be_repeated(history, 2, None)] == [0, 2, 3, 4]
    assert may_be_repeated(history, 4, known) == []


# -- showing


def test_show_tells_what_is_missing_from_whom_and_what_now(capsys: pytest.CaptureFixture[str]) -> None:
    failed = a_delegation(DelegationState.FAILED, error="HTTP 503", error_code="agent_busy", attempts=4)
    task = a_task(TaskState.FAILED, reason="scorer: HTTP 503", reason_code="agent_busy", ended_at=at(9))
    entry = an_entry(StepState.FAILED, failed, error="scorer: HTTP 503", error_code="agent_busy")
    write_task(Output(), task, a_context(score=80), [entry], details=True)
    text = capsys.readouterr().out
    assert "failed" in text
    assert "why: scorer: HTTP 503 [agent_busy]" in text
    assert "agent scorer, step 1" in text
    assert "missing: contract" in text
    assert "decided: scorer — the score is missing" in text
    assert "4 attempts" in text
    assert '{"company": "Acme"}' in text
    assert "orchestrator task retry 'T 1'" in text


def test_show_tells_since_when_a_task_waits(capsys: pytest.CaptureFixture[str]) -> None:
    task = a_task(TaskState.WAITING, waits_for=WaitsFor.EVENT, wait={"event_type": "supplier.approved"})
    write_task(Output(), task, a_context(), [an_entry()], details=False)
    text = capsys.readouterr().out
    assert "waiting for the event supplier.approved, since 2026-" in text
    assert "decided: wait for event — the score is missing" in text


def test_show_json_has_the_context_row_as_it_is() -> None:
    row = {
        "id": 5,
        "task_id": "T 1",
        "context": {"required_fields": ["score"]},
        "created_at": at(0),
        "updated_at": at(1),
    }
    document = json.loads(json_text(show_json(a_task(), a_context(score=80), row, [an_entry()])))
    assert document["context"] == {
        **row,
        "created_at": "2026-11-02T10:00:00.000000Z",
        "updated_at": "2026-11-02T10:00:01.000000Z",
    }
    assert document["missing_fields"] == ["contract"]
    assert document["fields"][0]["origin"]["name"] == "scorer"
    assert document["steps"][0]["reason"] == "the score is missing"
    assert document["next"] == [{"why": "to follow it", "command": "orchestrator task watch 'T 1'"}]


def test_history_tells_what_each_version_changed(capsys: pytest.CaptureFixture[str]) -> None:
    message = Origin("message", "event_data", at(0))
    person = Origin("person", "ann", at(5))
    write_versions(
        Output(),
        [
            (1, at(0), [Change("company", "Acme", message)]),
            (2, at(5), [Change("company", "Acme AG", person), Change("score", None, person, removed=True)]),
        ],
    )
    text = capsys.readouterr().out
    assert "company = Acme  (the task's message)" in text
    assert "company = Acme AG  (person ann)" in text
    assert "score removed" in text


def test_the_end_tells_the_required_fields(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"context": {"required_fields": ["score", "contract"], "collected_data": {"score": 80}}}
    write_end(Output(), a_task(TaskState.COMPLETED, ended_at=at(75)), [an_entry()], row)
    text = capsys.readouterr().out
    assert "completed after 1 min 15 s" in text
    assert "score = 80" in text
    assert "contract missing" in text
