"""The course of a task over its steps: events, waits, failures, bounds, and going back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.domain.budget import Budget
from orchestrator.domain.decision import Decision, DecisionKind, FieldRecord
from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.message import EventMessage
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.value import replace
from orchestrator.errors import BadAnswer, NoRoute, PlannerUnavailable
from orchestrator.flow.ports import PlanRequest
from orchestrator.flow.step import StepResult
from tests.support.agents import reply
from tests.support.stack import wait_for
from tests.support.step_world import USAGE, World, call


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
    world.limits = replace(world.limits, budget=Budget(steps=2))
    world.submit("a")
    world.answers = [call("a"), call("a")]
    assert [world.run(step).outcome for step in (1, 2, 3)] == ["next", "next", "failed"]
    assert world.store.task("t-1").reason_code == "budget_steps"


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


def test_an_event_of_another_type_is_merged_and_the_wait_goes_on_without_asking_the_planner(world: World) -> None:
    world.answers = [
        Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details={"event_type": "approved"}),
        Decision(DecisionKind.FINISH, "done", USAGE),
    ]
    world.submit("b")
    assert world.run().outcome == "waiting"
    taken = world.take(EventMessage("t-1", {"seen_by": "ann"}, "note"))
    assert taken.dispatch is not None
    assert world.run(2).outcome == "waiting"
    assert world.data()["seen_by"] == "ann"
    assert len(world.asked) == 1
    assert world.store.task("t-1").waits_for is WaitsFor.EVENT
    assert world.store.history("t-1")[-1].step.error is None

    world.take(EventMessage("t-1", {"b": 2}, "approved"))
    assert world.run(2).outcome == "completed"


def test_a_wait_that_is_over_stays_over_though_the_planner_was_away(world: World) -> None:
    world.answers = [
        Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details={"event_type": "approved"}),
        PlannerUnavailable("away"),
        Decision(DecisionKind.FAIL, "gave up", USAGE, details={"code": "no_use"}),
    ]
    world.submit("b", "c")
    assert world.run().outcome == "waiting"
    world.take(EventMessage("t-1", {"b": 2}, "approved"))
    assert world.run(2).outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.RETRY
    world.take(EventMessage("t-1", {"note": 1}, "note"))
    world.run_until_it_moves_on(2)
    assert len(world.asked) == 3


def test_events_that_end_no_wait_use_up_none_of_the_planners_attempts(world: World) -> None:
    world.answers = [
        Decision(DecisionKind.WAIT_FOR_EVENT, "needs approval", USAGE, details={"event_type": "approved"}),
        PlannerUnavailable("away"),
    ]
    world.submit("b", "c")
    assert world.run().outcome == "waiting"
    for number in range(5):
        world.take(EventMessage("t-1", {"note": number}, "note"))
        assert world.run(2).outcome == "waiting"
    world.take(EventMessage("t-1", {"b": 2}, "approved"))
    assert world.run(2).outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.RETRY
