"""The one hand that a storm needs: a person settles what is unknown at agents that can tell nothing, by the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass

import psycopg2

from tests.chaos.cast import BY_NAME, Kind
from tests.chaos.world import World
from tests.support.command import Command

_PARKED = """
    SELECT d.task_id, d.step_number || '.' || d.index, d.agent, d.idempotency_key
    FROM delegations d JOIN tasks t USING (task_id)
    WHERE d.state = 'unknown' AND t.state = 'waiting' AND t.waits_for = 'person'
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """A delegation that nobody but a person can settle."""

    task_id: str
    ref: str
    agent: str
    key: str

    @property
    def by_right(self) -> bool:
        """Whether its agent neither honours keys nor offers a look-up."""
        return BY_NAME[self.agent].kind is Kind.BARE


def settle_what_is_unknown(world: World) -> list[Parked]:
    """Say of each such delegation what the agent did, with `orchestrator task resolve`; returns them."""
    connection = psycopg2.connect(world.stack.postgres.url())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_PARKED)
            parked = [Parked(*row) for row in cursor.fetchall()]
    finally:
        connection.close()
    done = {(entry["agent"], entry["key"]): entry["output"] for entry in world.witness.ledger()}
    orchestrator = Command(dict(world.env), world.folder)
    for one in parked:
        output = done.get((one.agent, one.key))
        word = ("--never-happened",) if output is None else ("--succeeded", "--reply", json.dumps(output))
        orchestrator("task", "resolve", one.task_id, "--delegation", one.ref, *word, "--why", "the ledger")
    return parked
