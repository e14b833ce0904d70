"""What PostgreSQL holds after the bridge took records in, as tests of the bridge count it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from orchestrator.store import PostgresStore
from orchestrator.store.engine import text


def scalar(store: PostgresStore, query: str, **parameters: Any) -> Any:
    """The one value that a query gives."""
    return store.transact(lambda connection: connection.execute(text(query), parameters).scalar_one())


def execute(store: PostgresStore, statement: str, **parameters: Any) -> None:
    """Change something by hand, as a restore would."""
    store.transact(lambda connection: connection.execute(text(statement), parameters))


def accepted(store: PostgresStore) -> int:
    """How many tasks there are."""
    return int(scalar(store, "SELECT count(*) FROM tasks"))


def unpublished(store: PostgresStore) -> int:
    """How many updates and dead letters Kafka has not confirmed yet."""
    return int(scalar(store, "SELECT count(*) FROM outbox WHERE published_at IS NULL"))


def assert_each_taken_once(store: PostgresStore, task_ids: Collection[str], *, restores: int = 0) -> None:
    """Each of these tasks, and no other: one record, one first context, one first update; no dead letter.

    And PostgreSQL was found to be older than it was so many times.
    """
    wanted = Counter(dict.fromkeys(task_ids, 1))
    for what, query in {
        "tasks": "SELECT task_id FROM tasks",
        "records": "SELECT task_id FROM inbox WHERE kind = 'task' AND state = 'accepted'",
        "contexts": "SELECT task_id FROM context_versions WHERE version = 1",
        "updates": "SELECT task_id FROM outbox WHERE kind = 'update' AND body ->> 'state' = 'received'",
    }.items():
        found = _task_ids(store, query)
        assert found == wanted, f"{what}: missing {wanted - found}, too many {found - wanted}"
    assert scalar(store, "SELECT count(*) FROM dead_letters") == 0
    assert scalar(store, "SELECT count(*) FROM restores") == restores, "an alarm for nothing, or none"


def _task_ids(store: PostgresStore, query: str) -> Counter[str]:
    return Counter(store.transact(lambda connection: connection.execute(text(query)).scalars().all()))
