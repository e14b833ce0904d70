"""Required fields with schemas on a real store, from the message to the last update."""

from __future__ import annotations

from orchestrator.domain.context import conflicts_of
from orchestrator.domain.decision import Decision
from orchestrator.domain.message import EventMessage, TaskMessage
from orchestrator.flow.ports import PlanRequest
from tests.support.agents import reply
from tests.support.step_world import World, call

SCORE = {"type": "integer", "minimum": 0, "maximum": 100}


def submit(world: World, **data: object) -> None:
    world.take(TaskMessage("t-1", "Do it", ("name", "score"), data, field_schemas={"score": SCORE}))


def test_a_value_that_does_not_fit_keeps_the_task_going_until_one_does(world: World) -> None:
    world.add_agent("first", reply({"score": "high"}), provides={"score": "/score"})
    world.add_agent("second", reply({"score": 71}), provides={"score": "/score"})
    submit(world, name="N")
    world.answers = [call("first"), call("second")]
    assert world.run(1).outcome == "next"
    body = world.store.updates("t-1")[-1].body
    assert body["missing_fields"] == ["score"]
    assert "'high' is not of type 'integer'" in body["field_problems"]["score"]
    assert world.store.context_row("t-1")["context"]["required_fields"] == ["name", "score"], "the promised shape"
    assert world.run(2).outcome == "completed"
    assert world.asked[1].context.field_problems
    last = world.store.updates("t-1")[-1].body
    assert (last["collected_data"]["score"], last.get("field_problems")) == (71, None)
    assert world.store.context("t-1").origins["score"].name == "second"


def test_a_value_that_fits_is_not_lost_to_one_that_does_not_and_the_conflict_is_on_record(world: World) -> None:
    submit(world, score=50)

    def decide(_request: PlanRequest) -> Decision:
        world.take(EventMessage("t-1", {"score": "awful", "name": "N"}, "note"))
        return call("idle")

    world.add_agent("idle", reply({"x": 1}), provides={})
    world.answers = [decide]
    world.run(1)
    assert world.run(2).outcome == "completed"
    assert world.data() == {"score": 50, "name": "N"}
    history = [changes for _, _, changes in world.store.versions("t-1")]
    (conflict,) = conflicts_of(history)
    assert (conflict.kept, conflict.other, conflict.other_from.name) == (50, "awful", "note")
    assert "does not fit" in conflict.why
    version = world.store.context("t-1").version
    assert world.store.context("t-1", version).collected_data["score"] == 50


def test_what_a_person_set_stands_against_agents(world: World) -> None:
    world.add_agent("both", reply({"name": "X", "score": 10}), provides={"name": "/name", "score": "/score"})
    submit(world)
    world.answers = [call("both"), call("both")]
    assert world.run(1).outcome == "completed"
    world.store.rerun("t-1", 1, {"score": 80}, who="ann", why="corrected")
    assert world.run(2).outcome == "completed"
    assert world.data() == {"name": "X", "score": 80}
    assert world.store.context("t-1").origins["score"].kind == "person"
