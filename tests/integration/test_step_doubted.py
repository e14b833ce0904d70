"""Steps of a doubted task: PostgreSQL went back in time, and agents may have been called in what it has forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.domain.agent import AgentSpec, AgentTimeout, Compensate
from orchestrator.domain.delegation import Delegation, DelegationState, Replied
from orchestrator.domain.ids import idempotency_key
from orchestrator.domain.message import TaskMessage
from orchestrator.domain.resolution import Outcome, Resolution
from orchestrator.domain.restore import RESTORED
from orchestrator.domain.task import TaskState, WaitsFor
from orchestrator.domain.undo import undo_key
from orchestrator.domain.value import replace
from orchestrator.flow.ports import AgentRequest
from tests.support.agents import problem, reply
from tests.support.processes import wait_for
from tests.support.step_world import World, call

SOON = AgentTimeout(1, 1, 1)
"""Of agents whose deadline is waited out."""


def restored(world: World) -> None:
    world.store.restored_by_hand(who="ann", why="a snapshot of the disk")


def called_before(world: World, agent: AgentSpec, key: str) -> None:
    """What is forgotten: the agent was called."""
    assert isinstance(world.client.call(agent, AgentRequest("t-1", 1, key, "Do it", {})), Replied)


def key_of(name: str, index: int = 0, step: int = 1) -> str:
    return idempotency_key("t-1", step, index, name, {})


def posts(world: World, path: str) -> int:
    return len(world.agent.ledger().posts(path))


def delegations(world: World) -> list[Delegation]:
    return [one for entry in world.store.history("t-1") for one in entry.delegations]


def with_lookup(world: World, name: str, *answers: dict[str, object]) -> AgentSpec:
    spec = world.add_agent(name, *answers, timeout=SOON)
    world.specs[name] = replace(spec, lookup=f"{spec.url}/replies/{{key}}")
    return world.specs[name]


@pytest.mark.parametrize("kind", [{"idempotent": True}, {"side_effects": False}])
def test_an_agent_that_may_be_called_again_is_called_as_ever(world: World, kind: dict[str, bool]) -> None:
    world.add_agent("pay", reply({"pay": 1}), **kind)
    world.submit("pay")
    restored(world)
    world.answers = [call("pay")]
    assert world.run().outcome == "completed"


def test_an_agent_without_keys_is_not_called_until_a_person_says_that_it_never_was(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}))
    world.submit("pay")
    restored(world)
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    task = world.store.task("t-1")
    assert task.waits_for is WaitsFor.PERSON
    assert "PostgreSQL was restored to an older state at" in str(task.reason)
    assert "may have been called already in what was forgotten" in str(task.reason)
    (parked,) = delegations(world)
    assert (parked.state, parked.error_code, parked.attempts) == (DelegationState.UNKNOWN, RESTORED, 0)
    assert posts(world, "/pay") == 0
    assert world.store.doubts().waiting == 1

    world.store.retry("t-1", who="ann", why="again")
    assert world.run().outcome == "waiting", "a retry says nothing of what was forgotten"
    (unknown,) = world.store.unknown_delegations("t-1")
    world.store.resolve(unknown, Resolution(Outcome.NEVER_HAPPENED), who="ann", why="asked them")
    assert world.run().outcome == "completed"
    assert posts(world, "/pay") == 1


def test_a_call_that_is_refused_after_a_persons_word_is_tried_again_without_asking_once_more(world: World) -> None:
    world.add_agent("pay", problem(503), reply({"pay": 1}))
    world.submit("pay")
    restored(world)
    world.answers = [call("pay")]
    world.run()
    (unknown,) = world.store.unknown_delegations("t-1")
    world.store.resolve(unknown, Resolution(Outcome.NEVER_HAPPENED), who="ann", why="asked them")
    assert world.run_until_it_moves_on().outcome == "completed"
    assert posts(world, "/pay") == 2


def test_a_second_restore_doubts_what_was_cleared(world: World) -> None:
    world.add_agent("pay", problem(503), reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay")]
    restored(world)
    world.run()
    (unknown,) = world.store.unknown_delegations("t-1")
    world.store.resolve(unknown, Resolution(Outcome.NEVER_HAPPENED), who="ann", why="asked them")
    world.run()
    restored(world)
    assert world.run_until_it_moves_on().outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    assert posts(world, "/pay") == 1


def test_trust_makes_the_call_that_waited_for_it(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}))
    world.submit("pay")
    restored(world)
    world.answers = [call("pay")]
    world.run()
    doorbell = world.store.trust("t-1", who="ann", why="a planned move")
    assert doorbell is not None
    assert world.run(doorbell.step).outcome == "completed"
    assert posts(world, "/pay") == 1


def test_a_call_that_waited_for_a_retry_is_doubted_as_well(world: World) -> None:
    """The journal says that it was refused; what came after is forgotten."""
    world.add_agent("pay", problem(503), reply({"pay": 1}))
    world.submit("pay")
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    restored(world)
    assert world.run_until_it_moves_on().outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    assert posts(world, "/pay") == 1


def test_an_agent_with_a_lookup_is_asked_and_its_reply_used(world: World) -> None:
    pay = with_lookup(world, "pay", reply({"pay": 7}))
    world.submit("pay")
    called_before(world, pay, key_of("pay"))
    restored(world)
    world.answers = [call("pay")]
    assert world.run().outcome == "completed"
    assert world.data()["pay"] == 7
    assert posts(world, "/pay") == 1


def test_an_agent_whose_lookup_knows_nothing_is_called_past_the_deadline_of_what_was_forgotten(world: World) -> None:
    with_lookup(world, "pay", reply({"pay": 7}))
    world.submit("pay")
    restored(world)
    world.answers = [call("pay")]
    assert world.run().outcome == "waiting"
    doubted_at = world.store.task("t-1").doubted_at
    assert doubted_at is not None
    assert delegations(world)[0].deadline_at == doubted_at + timedelta(seconds=SOON.total)
    assert world.run_until_it_moves_on().outcome == "completed"
    (done,) = delegations(world)
    assert done.sent_at is not None
    assert done.sent_at >= doubted_at
    assert posts(world, "/pay") == 1


def test_parallel_calls_go_on_where_they_may_and_wait_where_not(world: World) -> None:
    world.add_agent("pay", reply({"pay": 1}))
    world.add_agent("note", reply({"note": 1}), idempotent=True)
    asked = with_lookup(world, "ship", reply({"ship": 1}))
    with_lookup(world, "bill", reply({"bill": 1}))
    world.submit("pay", "note", "ship", "bill")
    called_before(world, asked, key_of("ship", 2))
    restored(world)
    world.answers = [call("pay", "note", "ship", "bill")]
    assert world.run().outcome == "waiting"
    assert world.run_until_it_moves_on().outcome == "waiting"
    assert world.store.task("t-1").waits_for is WaitsFor.PERSON
    assert {one.agent: one.state.value for one in delegations(world)} == {
        "pay": "unknown",
        "note": "succeeded",
        "ship": "succeeded",
        "bill": "succeeded",
    }
    doorbell = world.store.trust("t-1", who="ann", why="they have no such call")
    assert doorbell is not None
    assert world.run_until_it_moves_on().outcome == "completed"
    assert {path: posts(world, path) for path in ("/pay", "/note", "/ship", "/bill")} == dict.fromkeys(
        ("/pay", "/note", "/ship", "/bill"), 1
    )


# -- undo


def undoable(world: World, name: str, *, lookup: bool = False) -> AgentSpec:
    url = world.agent.script(f"/{name}-undo", reply({"gone": True}), idempotent=False)
    asks = f"{url}/replies/{{key}}" if lookup else None
    spec = world.add_agent(name, reply({name: 1}), timeout=SOON, compensate=Compensate(url, lookup=asks))
    undo = spec.as_undo()
    assert undo is not None
    return undo


def undo_of(world: World, name: str) -> None:
    """Let the task do it, fail, and be restored just before it is undone."""
    world.add_agent("last", problem(422))
    world.take(TaskMessage("t-1", "Do it", (name, "last"), {}, on_failure="undo"))
    world.answers = [call(name), call("last")]
    assert world.run(1).outcome == "next"
    world.run(2)
    assert world.store.task("t-1").state is TaskState.COMPENSATING


def run_until_ended(world: World) -> None:
    def ended() -> bool:
        world.run(world.store.task("t-1").next_step)
        return world.store.task("t-1").state is TaskState.FAILED

    wait_for(ended, what="the undo ended", every=0.05)


def test_a_compensation_without_keys_is_left_to_a_person(world: World) -> None:
    undoable(world, "reserve")
    undo_of(world, "reserve")
    restored(world)
    run_until_ended(world)
    (item,) = world.store.undo_items("t-1")
    assert item.compensation is not None
    assert item.compensation.error_code == RESTORED
    assert posts(world, "/reserve-undo") == 0
    world.store.undone_by_hand("t-1", None, who="ann", why="done there")
    assert all(one.is_undone for one in world.store.undo_items("t-1"))


def test_a_compensation_that_can_be_looked_up_is_and_made_only_where_it_was_not(world: World) -> None:
    undo = undoable(world, "reserve", lookup=True)
    undo_of(world, "reserve")
    called_before(world, undo, undo_key(key_of("reserve")))
    restored(world)
    run_until_ended(world)
    assert all(one.is_undone for one in world.store.undo_items("t-1"))
    assert posts(world, "/reserve-undo") == 1


def test_a_compensation_that_its_lookup_does_not_know_is_made(world: World) -> None:
    undoable(world, "reserve", lookup=True)
    undo_of(world, "reserve")
    restored(world)
    run_until_ended(world)
    assert all(one.is_undone for one in world.store.undo_items("t-1"))
    assert posts(world, "/reserve-undo") == 1
