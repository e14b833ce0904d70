"""Steps on a real PostgreSQL against a real HTTP agent: what is written when, and what a second execution finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from orchestrator.agents import HttpAgentClient
from orchestrator.store import PostgresStore, make_engine

from orchestrator.domain.agent import AgentSpec, AgentTimeout
from orchestrator.domain.decision import AgentCall, Decision, DecisionKind, FieldRecord, Usage
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import Lease
from orchestrator.domain.message import EventMessage, Message, Record, TaskMessage
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.errors import BadAnswer, NoRoute, PlannerUnavailable
from orchestrator.flow.ports import PlanRequest, Received, Taken
from orchestrator.flow.step import StepLimits, StepResult, StepRunner
from tests.support.agents import ScriptedAgent, job, lost_reply, poll, problem, reply
from tests.support.stack import wait_for

Answer = Decision | Exception | Callable[[PlanRequest], Decision]
USAGE = Usage("scripted", prompt_version="test")


def call(*agents: str, **arguments: Any) -> Decision:
    return Decision(DecisionKind.CALL, "because", USAGE, calls=tuple(AgentCall(name, arguments) for name in agents))


class World:
    """A store, an agent, a planner whose answers the test gives, and a runner over them."""

    def __init__(self, store: PostgresStore, agent: ScriptedAgent) -> None:
        self.store = store
        self.agent = agent
        self.specs: dict[str, AgentSpec] = {}
        self.answers: list[Answer] = []
        self.asked: list[PlanRequest] = []
        self.limits = StepLimits(planner_retry=RetryPolicy(3, 0.01, 0.02))
        self.client = HttpAgentClient(concurrency=4)
        self._offset = 0

    # -- the ports that the test plays itself

    def get(self, name: str | None) -> Any:
        return self.specs.get(name or "")

    def enabled(self, allowed: Sequence[str] | None = None) -> Sequence[AgentSpec]:
        return [spec for spec in self.specs.values() if allowed is None or spec.name in allowed]

    def hold(self, _lease: Lease) -> Any:
        return nullcontext(lambda: False)

    def decide(self, request: PlanRequest) -> Decision:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Decision) else answer(request)

    # -- what a test does

    def add_agent(self, name: str, *answers: dict[str, Any], **parts: Any) -> AgentSpec:
        url = self.agent.script(f"/{name}", *answers, idempotent=bool(parts.get("idempotent")))
        defaults: dict[str, Any] = {
            "provides": {name: f"/{name}"},
            "retry": RetryPolicy(3, 0.01, 0.02),
            "timeout": AgentTimeout(1, 2, 5),
        }
        self.specs[name] = AgentSpec(name, f"Gives {name}.", url, **{**defaults, **parts})
        return self.specs[name]

    def take(self, message: Message) -> Taken:
        self._offset += 1
        record = Record("tasks", 0, self._offset, 1, None, repr(message).encode())
        (taken,) = self.store.accept([Received(record, message)], due_in=timedelta(seconds=30))
        return taken

    def submit(self, *required: str, **data: Any) -> str:
        self.take(TaskMessage("t-1", "Do it", required, data))
        return "t-1"

    def run(self, step: int = 1, task_id: str = "t-1") -> StepResult:
        class NoEventTypes:
            def get(self, _name: str | None) -> EventType | None:
                return None

            def all(self) -> Sequence[EventType]:
                return []

        runner = StepRunner(
            store=self.store,
            planner=self,
            agents=self,
            event_types=NoEventTypes(),
            client=self.client,
            leases=self,
            owner="test",
            limits=self.limits,
        )
        return runner.run(task_id, step)

    def run_until_it_moves_on(self, step: int = 1) -> StepResult:
        """Run the step whenever it is due, until it no longer waits for a retry or an agent."""
        results: list[StepResult] = []

        def moved_on() -> bool:
            result = self.run(step)
            if result.outcome != "skipped":
                results.append(result)
            task = self.store.task("t-1")
            return task.waits_for not in {WaitsFor.RETRY, WaitsFor.AGENT} and task.state is not TaskState.PROCESSING

        wait_for(moved_on, what="the step moved on")
        return results[-1]

    def data(self) -> dict[str, Any]:
        return dict(self.store.context("t-1").collected_data)


@pytest.fixture
def world(database_url: str, scripted_agent: ScriptedAgent) -> Iterator[World]:
    engine = make_engine(database_url)
    yield World(PostgresStore(engine), scripted_agent)
    engine.dispose()


def test_a_step_decides_delegates_and_writes_down_what_came_back(world: World) -> None:
    world.add_agent("score", reply({"score": 80}))
    world.submit("score", name="Acme")
    world.answers = [call("score", name="Acme")]

    result = world.run()

    assert result.outcome == "completed"
    assert world.data() == {"name": "Acme", "score": 80}
    origin = world.store.context("t-1").origins["score"]
    assert (origin.kind, origin.name, origin.step, origin.pointer) == ("agent", "score", 1, "/score")
    (entry,) = world.store.history("t-1")
    assert entry.step.decision is not None and entry.step.decision.reason == "because"
    assert entry.delegations[0].reply == {"score": 80}
    assert world.store.context_row("t-1")["context"]["current_state"] == "completed"


def test_the_next_step_is_named_while_fields_are_missing(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a", "b")
    world.answers = [call("a")]
    result = world.run()
    assert result.outcome == "next"
    assert result.next is not None and (result.next.task_id, result.next.step) == ("t-1", 2)


def test_a_doorbell_for_a_step_that_is_done_ends_quietly(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a", "b")
    world.answers = [call("a")]
    world.run()
    assert world.run().outcome == "skipped"
    assert len(world.agent.ledger().posts("/a")) == 1


def test_several_calls_are_carried_out_one_after_another(world: World) -> None:
    for name in "abc":
        world.add_agent(name, reply({name: name.upper()}))
    world.submit("a", "b", "c")
    world.answers = [call("a", "b", "c")]
    assert world.run().outcome == "completed"
    assert world.data() == {"a": "A", "b": "B", "c": "C"}
    assert [seen.path for seen in world.agent.ledger().requests if seen.method == "POST"] == ["/a", "/b", "/c"]


def test_a_busy_agent_is_called_again_under_the_same_key_and_the_decision_stands(world: World) -> None:
    world.add_agent("a", problem(503, retry_after=0), reply({"a": 1}))
    world.submit("a")
    world.answers = [call("a")]
    first = world.run()
    assert first.outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.RETRY

    assert world.run_until_it_moves_on().outcome == "completed"

    posts = world.agent.ledger().posts("/a")
    assert len(posts) == 2 and posts[0].key == posts[1].key
    assert len(world.asked) == 1


def test_an_agent_that_answers_later_is_polled(world: World) -> None:
    world.add_agent("a", job(poll("running"), poll("succeeded", {"a": 1})))
    world.submit("a")
    world.answers = [call("a")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.state, task.waits_for) == (TaskState.WAITING, WaitsFor.AGENT)
    assert world.run_until_it_moves_on().outcome == "completed"
    assert len(world.agent.ledger().posts("/a")) == 1


def test_an_agent_that_stays_away_fails_the_step_and_a_retry_goes_on(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.add_agent("b", problem(503), problem(503), problem(503), reply({"b": 2}))
    world.submit("a", "b")
    world.answers = [call("a", "b")]
    world.run()
    failed = world.run_until_it_moves_on()
    assert failed.outcome == "failed"
    task = world.store.task("t-1")
    assert task.state is TaskState.FAILED and task.next_step == 1
    assert "b" in (task.reason or "") and "attempt 3 of 3" in (task.reason or "")

    dispatch = world.store.retry("t-1", who="ann", why="b is back")
    assert (dispatch.task_id, dispatch.step) == ("t-1", 1)
    assert world.run().outcome == "completed"
    assert len(world.agent.ledger().posts("/a")) == 1
    assert world.data() == {"a": 1, "b": 2}


def test_a_lost_reply_of_a_careless_agent_waits_for_a_person_and_is_never_repeated(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert (task.waits_for, task.reason_code) == (WaitsFor.PERSON, "outcome_unknown")
    assert world.run().outcome == "skipped"
    world.store.retry("t-1", who="ann", why="look again")
    assert world.run().outcome == "waiting"
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_lost_reply_of_an_agent_that_honours_keys_has_one_effect(world: World) -> None:
    world.add_agent("pay", lost_reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    assert world.run_until_it_moves_on().outcome == "completed"
    ledger = world.agent.ledger()
    assert len(ledger.posts("/pay")) == 2 and ledger.doubled == []


def test_a_lost_reply_is_looked_up_where_the_agent_offers_it(world: World) -> None:
    spec = world.add_agent("pay", lost_reply({"pay": 1}))
    world.specs["pay"] = replace(spec, lookup=f"{spec.url}/replies/{{key}}")
    world.submit("pay")
    world.answers = [call("pay")]
    world.run()
    assert world.run_until_it_moves_on().outcome == "completed"
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_a_crash_after_the_decision_carries_out_the_recorded_one(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}), idempotent=True)
    world.submit("pay")
    world.answers = [call("pay")]
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=200))

    class Killed(BaseException):
        """Stands for the end of the process between commit and request."""

    send = world.client.call
    world.client.call = lambda *_: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]  # dies once
    with pytest.raises(Killed):
        world.run()
    world.client.call = send  # type: ignore[method-assign]  # and is whole again

    result = wait_for(lambda: (r := world.run()).outcome != "skipped" and r, what="the lease ended")
    assert isinstance(result, StepResult) and result.outcome == "completed"
    assert len(world.asked) == 1
    assert world.agent.ledger().doubled == []


def test_a_fenced_worker_writes_nothing_but_its_late_reply_settles_the_delegation(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}, gate="go"))
    world.submit("pay")
    world.answers = [call("pay")]
    world.limits = replace(world.limits, lease_for=timedelta(milliseconds=100))
    send = world.client.call
    overtaken: list[StepResult] = []

    def overtaken_while_calling(agent: AgentSpec, request: Any) -> Any:
        world.client.call = send  # type: ignore[method-assign]  # only the first call is overtaken
        result = wait_for(lambda: (r := world.run()).outcome != "skipped" and r, what="the lease ended")
        assert isinstance(result, StepResult)
        overtaken.append(result)
        world.agent.open_gate("go")
        return send(agent, request)

    world.client.call = overtaken_while_calling  # type: ignore[method-assign]  # see above
    assert world.run().outcome == "fenced"
    assert overtaken[0].outcome == "waiting"
    assert world.store.history("t-1")[0].delegations[0].state is DelegationState.SUCCEEDED
    assert wait_for(lambda: (r := world.run()).outcome == "completed" and r, what="the late reply completes the task")
    assert len(world.agent.ledger().posts("/pay")) == 1


def test_events_that_came_meanwhile_are_merged_before_the_planner_is_asked(world: World) -> None:
    world.submit("approval")
    world.take(EventMessage("t-1", {"approval": "yes"}, "approved"))
    assert world.run().outcome == "completed"
    assert world.asked == []
    assert world.store.context("t-1").origins["approval"].kind == "event"


def test_an_event_wakes_the_task_that_waits_for_it(world: World) -> None:
    world.submit("approval")
    wait = {"event_type": "approved", "timeout_seconds": 3600}
    world.answers = [Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details=wait)]
    assert world.run().outcome == "waiting"
    assert world.run(2).outcome == "skipped"
    taken = world.take(EventMessage("t-1", {"approval": "yes"}, "approved"))
    assert taken.dispatch is not None and taken.dispatch.step == 2
    assert world.run(2).outcome == "completed"


def test_an_event_that_comes_while_the_planner_decides_to_wait_is_not_lost(world: World) -> None:
    world.submit("approval")

    def decide(_request: PlanRequest) -> Decision:
        world.take(EventMessage("t-1", {"approval": "yes"}, "approved"))
        return Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details={"event_type": "approved"})

    world.answers = [decide]
    world.run()
    assert wait_for(lambda: world.run(2).outcome == "completed", what="the event ended the wait")


def test_a_wait_that_times_out_tells_the_planner(world: World) -> None:
    world.submit("approval")
    wait = {"event_type": "approved", "timeout_seconds": 0.05}
    world.answers = [
        Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details=wait),
        Decision(DecisionKind.FAIL, "nobody approved", USAGE, details={"code": "not_approved"}),
    ]
    world.run()
    result = wait_for(lambda: (r := world.run(2)).outcome != "skipped" and r, what="the wait is over")
    assert isinstance(result, StepResult) and result.detail == "not_approved: nobody approved"
    assert [request.wait_timed_out for request in world.asked] == [False, True]


def test_a_field_recorded_from_an_earlier_reply_is_checked_and_keeps_its_origin(world: World) -> None:
    world.add_agent("text", reply({"letter": "We grant a limit of 5000 EUR."}), provides={})
    world.submit("limit")
    world.answers = [
        call("text"),
        Decision(
            DecisionKind.RECORD, "from memory", USAGE, records=(FieldRecord("limit", "1.0", value=9000, quote="9000"),)
        ),
        Decision(
            DecisionKind.RECORD,
            "the letter says so",
            USAGE,
            records=(FieldRecord("limit", "1.0", value=5000, quote="a limit of 5000 EUR"),),
        ),
    ]
    assert world.run().outcome == "next"
    assert world.run(2).outcome == "completed"
    assert world.data() == {"limit": 5000}
    origin = world.store.context("t-1").origins["limit"]
    assert (origin.name, origin.step, origin.quote) == ("text", 1, "a limit of 5000 EUR")


def test_a_planner_that_is_away_is_asked_again_and_then_the_step_fails(world: World) -> None:
    world.add_agent("a", reply({"a": 1}))
    world.submit("a")
    world.answers = [PlannerUnavailable("429 from the provider") for _ in range(3)]
    assert world.run().outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.RETRY
    failed = world.run_until_it_moves_on()
    assert failed.detail.startswith("planner_unavailable: 429 from the provider")
    world.store.retry("t-1", who="ann", why="it is back")
    world.answers = [call("a")]
    assert world.run().outcome == "completed"


@pytest.mark.parametrize("error", [NoRoute("nobody gives a"), BadAnswer("rubbish")])
def test_a_planner_without_an_answer_fails_the_step_with_its_reason(world: World, error: Exception) -> None:
    world.submit("a")
    world.answers = [error, error, error]
    result = world.run()
    assert result.outcome == "failed"
    assert str(error) in (world.store.task("t-1").reason or "")


def test_a_cancel_before_the_call_takes_it_back(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}))
    world.submit("pay")

    def decide(_request: PlanRequest) -> Decision:
        world.store.cancel("t-1", who="ann", why="changed my mind")
        return call("pay")

    world.answers = [decide]
    assert world.run().outcome == "canceled"
    assert world.agent.ledger().posts("/pay") == []
    assert world.store.history("t-1")[0].delegations[0].state is DelegationState.PENDING


def test_steps_are_bounded(world: World) -> None:
    world.add_agent("a", reply({"b": 1}))
    world.limits = replace(world.limits, max_steps=2)
    world.submit("a")
    world.answers = [call("a"), call("a")]
    assert [world.run(step).outcome for step in (1, 2, 3)] == ["next", "next", "failed"]
    assert world.store.task("t-1").reason_code == "step_limit"


def test_a_step_that_keeps_losing_its_worker_is_set_aside(world: World) -> None:
    world.submit("a")
    world.limits = replace(world.limits, max_lost_leases=2, lease_for=timedelta(milliseconds=30))

    class Killed(BaseException):
        """Stands for the end of the process."""

    def decide(_request: PlanRequest) -> Decision:
        raise Killed

    world.answers = [decide] * 10

    def executed() -> StepResult | None:
        try:
            result = world.run()
        except Killed:
            return None
        return result if result.outcome != "skipped" else None

    result = wait_for(executed, what="the step is set aside")
    assert result is not None and result.detail.startswith("poison: step 1 lost its worker 2 times")
    assert len(world.asked) == 2


def test_a_context_that_grows_too_large_fails_the_task_and_keeps_the_reply(world: World) -> None:
    world.add_agent("a", reply({"a": "x" * 20_000}))
    world.limits = replace(world.limits, max_context_bytes=10_000)
    world.submit("a")
    world.answers = [call("a")]
    assert world.run().detail.startswith("context_too_large")
    assert world.data() == {}
    assert world.store.history("t-1")[0].delegations[0].state is DelegationState.SUCCEEDED


def test_going_back_opens_a_new_step_from_the_chosen_context(world: World) -> None:
    world.add_agent("a", reply({"a": 1}), reply({"a": 5}))
    world.add_agent("b", reply({"b": 2}))
    world.submit("a", "b", name="wrong")
    world.answers = [call("a"), call("b")]
    world.run()
    assert world.run(2).outcome == "completed"

    dispatch = world.store.rerun("t-1", 1, {"name": "right"}, who="ann", why="typo")
    assert dispatch.step == 3
    assert world.data() == {"name": "right"}
    world.answers = [call("a"), call("b")]
    assert world.run(3).outcome == "next"
    assert world.run(4).outcome == "completed"
    assert world.asked[2].history == []
    assert world.data() == {"name": "right", "a": 5, "b": 2}
    assert world.store.context("t-1", 3).collected_data == {"name": "wrong", "a": 1, "b": 2}
