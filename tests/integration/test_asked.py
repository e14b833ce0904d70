"""A question that a planner was put can be put again from the journal alone, whatever has happened since."""

from __future__ import annotations

from orchestrator.domain.asked import Asked, Offer
from orchestrator.domain.decision import Decision, DecisionKind, FieldRecord
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import Fail, StepCommit
from orchestrator.domain.message import EventMessage
from orchestrator.domain.value import replace
from orchestrator.errors import BadAnswer, PlannerUnavailable
from orchestrator.flow.past import Past
from orchestrator.flow.ports import PlanRequest
from orchestrator.llm.question import question_of
from tests.support.agents import reply
from tests.support.stack import wait_for
from tests.support.step_world import USAGE, World, call
from tests.support.store_world import StoreWorld


def assert_rebuilt(world: World, asked: dict[int, PlanRequest]) -> None:
    """Every step's question, as a model would read it, is the one that was put."""
    past = Past.load(world.store, "t-1")
    for entry in past.history:
        question = past.question(entry)
        assert question.exact
        put = asked[entry.step.number]
        assert question_of(question.request) == question_of(put)
        assert question.request.context.collected_data == put.context.collected_data
        assert question.request.context.origins == put.context.origins


def test_every_question_of_a_long_course_can_be_put_again(world: World) -> None:
    # Keys that PostgreSQL would put into another order: a model reads them as they are written.
    schema = {"type": "object", "properties": {"zone": {"type": "string"}, "a": {"type": "integer"}, "mm": {}}}
    world.add_agent("letter", reply({"letter": "A limit of 5000 EUR."}), provides={}, input_schema=schema)
    provides = {"score": "/score", "rating_of_it": "/rating", "age": "/age"}
    world.add_agent("score", reply({"score": 1}), reply({"score": 2}), provides=provides)
    world.submit("limit", "score", company="Acme")
    asked: dict[int, PlanRequest] = {}

    def seen() -> None:
        asked[world.asked[-1].step] = world.asked[-1]

    # An event that is merged before the question, a bad answer, a provider that is away, a wait that times out.
    world.take(EventMessage("t-1", {"hint": "be quick"}, "note"))
    world.answers = [BadAnswer("the answer calls no tool"), call("letter")]
    world.run()
    seen()
    assert asked[1].complaints == ("the answer calls no tool",)
    world.take(EventMessage("t-1", {"hint": "slow is fine"}, "note"))
    world.answers = [
        PlannerUnavailable("busy"),
        Decision(DecisionKind.WAIT_FOR_EVENT, "wait", USAGE, details={"event_type": "x", "timeout_seconds": 0.05}),
    ]
    world.run(2)
    wait_for(lambda: world.run(2).outcome != "skipped", what="the planner is back")
    seen()
    record = FieldRecord("limit", "1.0", value=5000, quote="limit of 5000 EUR")
    world.answers = [Decision(DecisionKind.RECORD, "there", USAGE, records=(record,))]
    wait_for(lambda: world.run(3).outcome != "skipped", what="the wait is over")
    seen()
    assert asked[3].wait_timed_out
    world.answers = [call("score")]
    assert world.run(4).outcome == "completed"
    seen()
    assert_rebuilt(world, asked)

    # A rerun gives steps up and edits the context; agents.yaml changes meanwhile.
    world.store.rerun("t-1", 3, {"company": "Acme AG"}, who="ann", why="renamed")
    world.specs["score"] = replace(world.specs["score"], description="Scores better than before.")
    world.answers = [Decision(DecisionKind.RECORD, "there", USAGE, records=(record,))]
    assert world.run(5).outcome == "next"
    seen()
    assert [entry.step.number for entry in asked[5].history] == [1, 2]
    world.answers = [call("score")]
    assert world.run(6).outcome == "completed"
    seen()
    assert_rebuilt(world, asked)
    course = [entry.step.number for entry in Past.load(world.store, "t-1").course]
    assert course == [1, 2, 5, 6]


def test_the_question_of_a_step_that_failed_is_kept_too(world: World) -> None:
    world.submit("a")
    world.answers = [BadAnswer("no tool"), BadAnswer("no tool again"), BadAnswer("still none")]
    assert world.run().outcome == "failed"
    (entry,) = world.store.history("t-1")
    assert entry.step.asked is not None
    assert entry.step.asked.complaints == ("no tool", "no tool again")
    assert_rebuilt(world, {1: world.asked[-1]})


def test_what_people_and_events_said_stands_in_the_question_that_is_put_again(world: World) -> None:
    world.event_types["approved"] = EventType("approved", "Approved.", fills={"approval": "/by"}, timeout_seconds=60)
    world.add_agent("score", reply({"score": 1}))
    world.submit("approval", "limit", "score")
    asked: dict[int, PlanRequest] = {}
    wait = Decision(DecisionKind.WAIT_FOR_EVENT, "wait", USAGE, details={"event_type": "approved"})
    person = Decision(DecisionKind.ASK_HUMAN, "ask", USAGE, details={"question": "How much?", "field": "limit"})
    world.answers = [wait, person, call("score")]
    assert world.run(1).outcome == "waiting"
    asked[1] = world.asked[-1]
    world.take(EventMessage("t-1", {"by": "ann"}, "approved"))
    assert world.run(2).outcome == "waiting"
    asked[2] = world.asked[-1]
    world.store.answer("t-1", None, 5000, who="bob", why="agreed")
    assert world.run(3).outcome == "completed"
    asked[3] = world.asked[-1]
    assert '"ended_by_event"' in question_of(asked[2])["user"]
    assert '"by": "bob"' in question_of(asked[3])["user"]
    assert_rebuilt(world, asked)


def test_an_offer_is_kept_once_and_by_its_content(store_world: StoreWorld) -> None:
    store = store_world.store
    event_type = EventType("approved", "Approved.", fills={"approval": "/approval"})
    offer = Offer((), (event_type,))
    for number in (1, 2):
        store_world.task(f"t-{number}")
        claim = store_world.claim(task_id=f"t-{number}")
        # Another process has written it already: no error, one row.
        store.kept_offers.clear()
        asked = Asked(1, 0, (1, 2, 3, 7), offer.digest, complaints=("no",))
        store.commit(claim.lease, StepCommit(Fail("no_route", "none"), asked=asked, offer=offer))
        assert store.history(f"t-{number}")[0].step.asked == asked
    assert store_world.sql("SELECT count(*) FROM offers")[0][0] == 2
    assert store.offers([offer.digest, "not there"]) == {offer.digest: offer}
    assert store.offers([]) == {}


def test_a_step_of_an_earlier_version_has_no_question_on_record(world: World, store_world: StoreWorld) -> None:
    world.add_agent("score", reply({"score": 1}))
    world.submit("score", company="Acme")
    world.answers = [call("score")]
    world.run()
    store_world.sql("UPDATE steps SET asked = NULL")
    past = Past.load(world.store, "t-1")
    question = past.question(past.history[0])
    assert not question.exact
    assert question.request.agents == ()
    assert question.request.context.collected_data == {"company": "Acme"}
