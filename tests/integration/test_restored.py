"""PostgreSQL goes back to an older state under the whole product: no record is lost, no keyless agent acts twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from sqlalchemy import event

from orchestrator.devstack.server import Place
from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.asked import Asked, Offer
from orchestrator.domain.event_type import EventType
from orchestrator.domain.journal import Claim, Fail, StepCommit
from orchestrator.domain.server import Seen
from orchestrator.errors import StoreUnavailable
from orchestrator.flow.turn import patiently
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.migrate import upgrade
from tests.support.agents import ScriptedAgent, reply
from tests.support.intake_seen import assert_each_taken_once
from tests.support.own_servers import own_servers, product_on
from tests.support.pgbouncer import PgBouncer, program
from tests.support.processes import wait_for
from tests.support.set_back import SetBack
from tests.support.store_world import LEASE, StoreWorld
from tests.support.system import System

PROGRAMS = ("bridge", "worker", "beat")


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Servers of the test's own."""
    with own_servers(tmp_path, fsync="off") as stack:
        yield stack


@pytest.fixture
def own(own_stack: EmbeddedStack, system: System) -> Iterator[System]:
    """The product on those servers."""
    with product_on(own_stack, system, ORCHESTRATOR_LEASE="3", ORCHESTRATOR_STALL="2") as found:
        yield found


@pytest.fixture
def older(own_stack: EmbeddedStack) -> SetBack:
    """The way back."""
    return SetBack(own_stack.postgres)


def entry(agent: ScriptedAgent, name: str, **parts: Any) -> dict[str, Any]:
    """An agent with side effects that gives the field of its name."""
    url = agent.script(f"/{name}", reply({name: name}), idempotent=bool(parts.get("idempotent")))
    return {
        "name": name,
        "description": f"Gives {name}.",
        "url": url,
        "side_effects": True,
        "provides": [name],
        "timeout": {"connect": 1, "read": 2, "total": 3},
        **parts,
    }


def produce(system: System, ids: Sequence[str], field: str) -> None:
    for task_id in ids:
        system.produce_task(task_id, required_fields=[field])
    system.producer.flush()


def effects(agent: ScriptedAgent) -> dict[str, int]:
    """How often the agent acted for each task."""
    found: dict[str, int] = {}
    for key, count in agent.ledger().effects.items():
        task_id = key.split(":")[0]
        found[task_id] = found.get(task_id, 0) + count
    return found


WAYS: dict[str, Callable[[SetBack], None]] = {
    "the data folder is put back": SetBack.put_back,
    "a replica that lags takes over": SetBack.replica_takes_over,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_runs_on_loses_no_record_and_repeats_nothing_at_an_agent_without_keys(
    own: System, older: SetBack, scripted_agent: ScriptedAgent, way: str
) -> None:
    own.use_agents(entry(scripted_agent, "paid"), entry(scripted_agent, "noted", idempotent=True))
    own.start(*PROGRAMS)
    produce(own, ["before-1", "before-2"], "paid")
    own.wait_for_all(["before-1", "before-2"])
    older.keep()
    keyless, keyed = [f"paid-{number}" for number in range(4)], [f"noted-{number}" for number in range(4)]
    produce(own, keyless, "paid")
    produce(own, keyed, "noted")
    own.wait_for_all([*keyless, *keyed])

    WAYS[way](older)
    own.wait_for_all(keyed)
    for task_id in keyless:
        task = own.wait_for_state(task_id, "waiting")
        assert task.waits_for == "person"
        assert "restored to an older state" in str(task.reason)
    produce(own, ["after"], "noted")
    own.wait_for_state("after", "completed")
    assert_each_taken_once(own.store, ["before-1", "before-2", *keyless, *keyed, "after"], restores=1)
    assert effects(scripted_agent) == dict.fromkeys(["before-1", "before-2", *keyless, *keyed, "after"], 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_started_on_an_older_state_repeats_nothing_at_an_agent_without_keys(
    own: System, older: SetBack, scripted_agent: ScriptedAgent, way: str
) -> None:
    """All processes were stopped: only PostgreSQL itself and Kafka know that there was more."""
    own.use_agents(entry(scripted_agent, "paid"), entry(scripted_agent, "noted", idempotent=True))
    own.start(*PROGRAMS)
    produce(own, ["before"], "paid")
    own.wait_for_all(["before"])
    older.keep()
    produce(own, ["paid"], "paid")
    produce(own, ["noted"], "noted")
    own.wait_for_all(["paid", "noted"])
    own.processes.stop_all()

    WAYS[way](older)
    own.start(*PROGRAMS)
    own.wait_for_state("noted", "completed")
    assert own.wait_for_state("paid", "waiting").waits_for == "person"
    assert effects(scripted_agent) == {"before": 1, "paid": 1, "noted": 1}
    assert_each_taken_once(own.store, ["before", "paid", "noted"], restores=1)


def test_calls_in_flight_while_it_goes_back_are_made_once(
    own: System, older: SetBack, scripted_agent: ScriptedAgent
) -> None:
    """One is on record in the older state: its late reply settles it. The other is not: a person is asked."""
    patient = {"connect": 1, "read": 60, "total": 60}
    own.use_agents(entry(scripted_agent, "paid", timeout=patient), entry(scripted_agent, "sent", timeout=patient))
    for name in ("paid", "sent"):
        scripted_agent.script(f"/{name}", reply({name: name}, gate="open"), idempotent=False)
    own.start(*PROGRAMS)
    produce(own, ["known"], "paid")
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/paid") == 1, what="the first call is in flight")
    older.keep()
    produce(own, ["forgotten"], "sent")
    wait_for(lambda: scripted_agent.ledger().in_flight.get("/sent") == 1, 30.0, "the second call is in flight")
    older.put_back()
    own.wait_for_state("forgotten", "waiting")
    scripted_agent.open_gate("open")
    own.wait_for_state("known", "completed")
    assert own.wait_for_state("forgotten", "waiting").waits_for == "person"
    assert effects(scripted_agent) == {"known": 1, "forgotten": 1}
    assert_each_taken_once(own.store, ["known", "forgotten"], restores=1)


def test_workers_that_start_before_the_bridge_know_from_redis_that_there_was_more(
    own: System, own_stack: EmbeddedStack, older: SetBack, scripted_agent: ScriptedAgent
) -> None:
    own.use_agents(entry(scripted_agent, "paid"))
    own.start("bridge")
    produce(own, ["paid"], "paid")
    own.wait_for_state("paid", "received")
    older.keep()
    own.start("worker", "beat")
    own.wait_for_state("paid", "completed")
    own.store.compare(None)
    done = own.store.seen
    assert done is not None

    def kept() -> bool:
        with closing(redis.Redis.from_url(own_stack.valkey.url(), decode_responses=True)) as client:
            found = Seen.from_text(str(client.hget("orchestrator:seen", "postgres")))
        return found is not None and found.position >= done.position

    wait_for(kept, what="Redis knows of it")
    own.processes.stop_all()
    own.store.engine.dispose()

    older.put_back()
    own.start("worker", "beat")
    marked = "SELECT count(*) FROM restores WHERE who LIKE '%process%'"
    with closing(psycopg2.connect(own_stack.postgres.url())) as look, look.cursor() as cursor:
        look.autocommit = True

        def noticed() -> bool:
            cursor.execute(marked)
            return cursor.fetchone() == (1,)

        wait_for(noticed, what="a worker has noticed it")
    assert own.wait_for_state("paid", "waiting").waits_for == "person"
    assert effects(scripted_agent) == {"paid": 1}


def refusal(store: PostgresStore) -> str:
    """Why a claim is not to be had."""
    with pytest.raises(StoreUnavailable) as caught:
        store.claim("claimed", 1, "w", LEASE)
    return str(caught.value)


@pytest.mark.skipif(program() is None, reason="no PgBouncer here")
@pytest.mark.parametrize("way", WAYS)
def test_behind_a_pooler_whose_connections_outlive_the_server_a_transaction_notices_by_itself(
    own_stack: EmbeddedStack, older: SetBack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("orchestrator.store.server_watch.LOOK_EVERY", 3600.0)
    upgrade(own_stack.postgres.url())
    place = Place(tmp_path / "pgbouncer", tmp_path / "pgbouncer.log")
    pgbouncer = PgBouncer(own_stack.keeper, place, own_stack.postgres.url(), 2)
    pgbouncer.start()
    store = PostgresStore(make_engine(pgbouncer.url(), pool_size=1))
    world = StoreWorld(store)
    try:
        for task_id in ("claimed", "taken"):
            world.task(task_id)
        older.keep()
        patiently(lambda: world.task("forgotten"), 30.0)
        store.compare(None)
        assert store.server_watch.guard is not None
        connections: list[object] = []
        event.listen(store.engine, "connect", lambda connection, _: connections.append(connection))
        if WAYS[way] is SetBack.put_back:
            older.put_back()
        else:
            older.replica_answers()
            wait_for(lambda: "standby" in refusal(store), 30.0, "the standby is refused")
            older.promote()
        claim = patiently(lambda: store.claim("claimed", 1, "w", LEASE), 30.0)
        assert isinstance(claim, Claim)
        assert claim.task.doubted_at is not None
        assert store.task("taken").doubted_at is not None
        assert connections == []
    finally:
        store.close()
        pgbouncer.stop()


@pytest.mark.parametrize("noticed", [True, False])
def test_offers_that_an_older_state_does_not_have_are_written_again(
    own_stack: EmbeddedStack, older: SetBack, noticed: bool
) -> None:
    """A process remembers which are in the table; also where the last moment is missing, and nothing tells of it."""
    upgrade(own_stack.postgres.url())
    store = PostgresStore(make_engine(own_stack.postgres.url()))
    world = StoreWorld(store)
    offer = Offer((), (EventType("approved", "Approved.", fills={"approval": "/approval"}),))

    def ask(task_id: str) -> None:
        asked = Asked(1, 0, (1, 2, 3, 7), offer.digest)
        store.commit(world.claim(task_id=task_id).lease, StepCommit(Fail("no_route", "none"), asked=asked, offer=offer))

    world.task("before")
    world.task("after")
    older.keep()
    patiently(lambda: ask("before"), 30.0)
    assert store.offers([offer.digest]) == {offer.digest: offer}
    if noticed:
        store.compare(None)
    older.put_back()
    patiently(lambda: store.task("after"), 30.0)
    assert store.offers([offer.digest]) == {}
    ask("after")
    assert store.offers([offer.digest]) == {offer.digest: offer}
    store.close()


def test_a_standby_counts_as_away_until_it_has_taken_over(own_stack: EmbeddedStack, older: SetBack) -> None:
    """A connection to it would stay open over the promotion."""
    upgrade(own_stack.postgres.url())
    store = PostgresStore(make_engine(own_stack.postgres.url()))
    StoreWorld(store).task("t-1")
    older.keep()
    older.replica_answers()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="standby"):
            store.task("t-1")
    older.promote()
    assert store.task("t-1").doubted_at is not None
    store.close()


def test_a_pooler_is_not_suspected_where_there_is_none(database_url: str) -> None:
    store = PostgresStore(make_engine(database_url))
    store.doubts()
    assert store.seen is not None
    assert store.server_watch.guard is None, "each transaction would pay for it"
    store.close()
