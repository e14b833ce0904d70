"""Waits on the real stack: by the guide alone, through kills and an emptied Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import text

from tests.support.agents import ScriptedAgent, job, poll
from tests.support.documents import commands, save_files, type_in
from tests.support.llm import LlmServer, says, tool
from tests.support.processes import wait_for
from tests.support.system import System


def test_a_wait_by_the_guide_alone_with_everything_killed_in_between(system: System) -> None:
    document = "docs/waiting.md"
    save_files(document, system.folder, {})
    system.env["ORCHESTRATOR_EVENTS"] = str(system.folder / "events.yaml")
    bridge, worker = system.start_one("bridge"), system.start_one("worker")
    system.start("beat")
    export, submit, show, other, delivered = commands(document)
    assert export.startswith("export")
    type_in(submit, system.folder, system.env)
    system.wait_for_state("parcel-7", "waiting")
    shown = type_in(show, system.folder, system.env)
    assert "waiting for the event parcel.reported" in shown and "/parcel = P-7" in shown

    bridge.kill()
    worker.kill()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as broker:
        broker.flushdb()
    system.start("bridge", "worker")

    type_in(other, system.folder, system.env)
    wait_for(lambda: system.data("parcel-7").get("status") == "lost", what="the other parcel's event is merged")
    task = system.wait_for_state("parcel-7", "waiting")
    assert task.wait["event_type"] == "parcel.reported" and task.wait["match"] == {"/parcel": "P-7"}
    assert task.wait["timeout_code"] == "parcel_lost"
    assert "completed" in type_in(delivered, system.folder, system.env)
    assert system.data("parcel-7")["delivered_at"] == "2026-11-24"
    # The other parcel's event asked nobody: one wait, and the end.
    assert len(system.store.history("parcel-7")) == 2


def test_an_approval_by_the_guide_alone_with_the_worker_killed_in_between(system: System) -> None:
    document = "docs/asking-people.md"
    save_files(document, system.folder, {})
    system.env["ORCHESTRATOR_AGENTS"] = str(system.folder / "agents.yaml")
    worker = system.start_one("worker")
    system.start("bridge", "beat")
    _, submit, questions, approve = commands(document)
    type_in(submit, system.folder, system.env)
    system.wait_for_state("mail-1", "waiting")
    worker.kill()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as broker:
        broker.flushdb()
    shown = type_in(questions, system.folder, system.env)
    assert "sales@northwind.example" in shown and "orchestrator task approve mail-1" in shown
    system.start("worker")
    assert "completed" in type_in(approve, system.folder, system.env)
    (step,) = system.store.history("mail-1")
    assert step.questions[0].why == "the contract is signed"
    assert len(step.delegations) == 1 and step.delegations[0].attempts == 1


def test_an_answer_over_kafka_and_a_wrong_one_before_it(system: System) -> None:
    document = "docs/asking-people.md"
    save_files(document, system.folder, {})
    system.env["ORCHESTRATOR_AGENTS"] = str(system.folder / "agents.yaml")
    system.start("bridge", "worker", "beat")
    _, submit, _, _ = commands(document)
    type_in(submit, system.folder, system.env)
    system.wait_for_state("mail-1", "waiting")
    wait_for(lambda: system.store.questions(task_id="mail-1"), what="the question")
    system.produce_event("mail-1", "task.answer", answer="perhaps")
    letters = wait_for(lambda: system.store.dead_letters(), what="the wrong answer is set aside")
    assert [letter.reason for letter in letters] == ["answer_refused"]
    system.produce_event("mail-1", "task.answer", question="1.0", answer="approve", by="M. Okafor")
    system.wait_for_state("mail-1", "completed")
    assert system.store.history("mail-1")[0].questions[0].answered_by == "M. Okafor"


def test_delays_and_deadlines_by_the_guide(system: System) -> None:
    export = "export ORCHESTRATOR_EVENTS=$PWD/events.yaml"
    save_files("docs/waiting.md", system.folder, {})
    system.env["ORCHESTRATOR_EVENTS"] = str(system.folder / "events.yaml")
    system.start("bridge", "worker", "beat")
    later, shown, cancel, dated = commands("docs/delays-and-late-answers.md")
    type_in(later, system.folder, system.env)
    system.wait_for_state("report-1", "received")
    assert "begins " in type_in(shown, system.folder, system.env)
    type_in(cancel, system.folder, system.env)
    type_in(f"{export}; {dated}", system.folder, system.env)
    task = system.wait_for_state("parcel-8", "failed")
    assert task.reason_code == "deadline_passed"

    begin = datetime.now(UTC) + timedelta(seconds=2)
    system.produce_task("later-1", required_fields=["a"], event_data={"a": 1}, not_before=begin.isoformat())
    system.wait_for_state("later-1", "completed")
    (ended,) = [row.created_at for row in _last_update(system, "later-1")]
    assert ended >= begin


def _last_update(system: System, task_id: str) -> list[Any]:
    with system.store.engine.begin() as connection:
        query = "SELECT created_at FROM outbox WHERE task_id = :id AND kind = 'update' ORDER BY id DESC LIMIT 1"
        return list(connection.execute(text(query), {"id": task_id}))


def test_an_agent_that_replies_by_an_event_with_everything_killed_in_between(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    url = scripted_agent.script("/appraise", {"status": 202, "body": {}})
    system.use_agents(
        {
            "name": "appraise",
            "description": "Appraises.",
            "url": url,
            "provides": ["appraised_value"],
            "reply": "event",
            "timeout": {"total": 604_800},
        }
    )
    bridge, worker = system.start_one("bridge"), system.start_one("worker")
    system.start("beat")
    system.produce_task("house-7", required_fields=["appraised_value"])
    system.wait_for_state("house-7", "waiting")
    bridge.kill()
    worker.kill()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as broker:
        broker.flushdb()
    (asked,) = scripted_agent.ledger().posts("/appraise")
    token = asked.body["context"]["reply_token"]
    system.produce_event("house-7", "agent.reply", token=token, output={"appraised_value": "410000 EUR"})
    system.start("bridge", "worker")
    system.wait_for_state("house-7", "completed")
    assert system.data("house-7") == {"appraised_value": "410000 EUR"}
    assert len(scripted_agent.ledger().posts("/appraise")) == 1


def test_an_agent_that_asks_back_with_the_worker_killed_before_the_answer(
    system: System, scripted_agent: ScriptedAgent
) -> None:
    body = {"status": "input_required", "question": "Which account?", "choices": ["Main", "Savings"]}
    asks = {"status": 200, "body": {**body, "answer_url": "/answers"}}
    url = scripted_agent.script("/pay", job(asks, poll("succeeded", {"payment_id": "P-1"})))
    scripted_agent.script("/answers", {"status": 202, "body": {}})
    system.use_agents({"name": "pay", "description": "Pays.", "url": url, "provides": ["payment_id"]})
    worker = system.start_one("worker")
    system.start("bridge", "beat")
    system.produce_task("pay-1", required_fields=["payment_id"])
    wait_for(lambda: system.store.questions(task_id="pay-1"), what="the agent's question", timeout=60)
    worker.kill()
    with redis.Redis.from_url(system.env["REDIS_URL"]) as broker:
        broker.flushdb()
    type_in("orchestrator task answer pay-1 --choice Savings", system.folder, system.env)
    system.start("worker")
    system.wait_for_state("pay-1", "completed")
    (told,) = scripted_agent.ledger().posts("/answers")
    assert told.body["answer"] == "Savings"


def test_a_model_asks_a_person_who_answers_by_a_celery_task(system: System, llm_server: LlmServer) -> None:
    system.env |= {
        "ORCHESTRATOR_MODEL": "openai:gpt-test",
        "OPENAI_BASE_URL": llm_server.api_url,
        "OPENAI_API_KEY": "sk-test-1234567890",
    }
    asked = tool(
        "ask_human", question="Which terms?", choices=["Net 30", "Net 60"], field="terms", who="sales", reason="r"
    )
    llm_server.script(says(tool("ask_human", question="Which terms?", choices=["one"], reason="r")), says(asked))
    system.start("bridge", "beat", "worker")
    system.produce_task("terms-1", required_fields=["terms"])
    (found,) = wait_for(lambda: system.store.questions(task_id="terms-1"), what="the question", timeout=60)
    assert (found.question.who, found.question.choices) == ("sales", ("Net 30", "Net 60"))
    updates = [update for update in system.read("task-updates", 2) if update["state"] == "waiting"]
    assert updates[-1]["questions"][0]["fields"] == ["terms"]
    kwargs = '{"task_id": "terms-1", "choice": 2}'
    type_in(f"celery -A orchestrator call orchestrator.answer --kwargs '{kwargs}'", system.folder, system.env)
    system.wait_for_state("terms-1", "completed")
    assert system.data("terms-1") == {"terms": "Net 60"}
    assert system.store.context("terms-1").origins["terms"].kind == "person"
