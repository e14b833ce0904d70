"""What 100,000 waiting tasks cost those that move: nothing that can be measured, or a ratio that says how much.

    python -m benchmarks.waiting [--waiting 100000] [--tasks 300]

Servers of its own, made for it and removed after it. A task of this measure is taken in, claimed, waits for an event,
gets it, is claimed again and completed, all on the store alone: what a model and agents add is the same either way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.domain.context import Change, Origin
from orchestrator.domain.journal import Claim, Complete, StepCommit, Wait
from orchestrator.domain.message import EventMessage, Message, Record, TaskMessage
from orchestrator.domain.task import WaitsFor
from orchestrator.domain.wait import EventWait
from orchestrator.flow.ports import Received
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.engine import text
from orchestrator.store.migrate import upgrade

STALL = timedelta(seconds=10)
LEASE = timedelta(seconds=30)
SWEEPS = 50

_WAITING = text("""
    WITH made AS (
        INSERT INTO tasks (task_id, description, required_fields, state, waits_for, wait, next_step, due_at,
                           content_digest)
        SELECT 'waiting-' || n, 'Wait', '["a"]', 'waiting', CASE WHEN n % 4 = 0 THEN 'person' ELSE 'event' END, '{}', 2,
               CASE WHEN n % 2 = 0 THEN now() + interval '30 days' END, 'x'
        FROM generate_series(1, :count) n RETURNING task_id
    )
    INSERT INTO task_contexts (task_id, context, version)
    SELECT task_id, '{"required_fields": ["a"], "current_state": "waiting", "collected_data": {}}', 1 FROM made
""")


class Measure:
    """One database, and a partition whose offsets are counted."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.offset = 0

    def take(self, message: Message) -> None:
        """Accept one message."""
        self.offset += 1
        record = Record("tasks", 0, self.offset, 1, None, str(self.offset).encode())
        self.store.accept([Received(record, message)], due_in=STALL)

    def course(self, task_id: str) -> float:
        """A whole task; milliseconds for each of its two steps."""
        begun = time.perf_counter()
        self.take(TaskMessage(task_id, "Do it", ("a",)))
        wait = EventWait(1, "paid", {"/a": 1}, datetime.now(UTC) + timedelta(days=1))
        then = Wait(WaitsFor.EVENT, wait.until, wait.to_json(), same_step=False, reason="measured")
        self.store.commit(self.claim(task_id, 1).lease, StepCommit(then))
        self.take(EventMessage(task_id, {"a": 1}, "paid"))
        claim = self.claim(task_id, 2)
        change = Change("a", 1, Origin("event", "paid", datetime.now(UTC)))
        self.store.commit(
            claim.lease,
            StepCommit(
                Complete("measured"),
                context=claim.context.apply([change]),
                changes=(change,),
                merged_events=tuple(event.inbox_id for event in claim.events),
                ending_event=(claim.events[0].inbox_id, 1),
            ),
        )
        return (time.perf_counter() - begun) * 500

    def claim(self, task_id: str, step: int) -> Claim:
        """Take the lease, which is there to be taken."""
        claim = self.store.claim(task_id, step, "bench", LEASE)
        if not isinstance(claim, Claim):
            raise RuntimeError(f"{task_id} was not to be claimed: {claim}")
        return claim

    def sweep(self) -> float:
        """Milliseconds of a sweep that finds nothing due."""
        begun = time.perf_counter()
        self.store.ring_due(500, STALL)
        self.store.expire_events(500, LEASE)
        return (time.perf_counter() - begun) * 1000


def main() -> None:
    """Measure without, fill, measure with, print both and their ratio."""
    parser = argparse.ArgumentParser(description="What waiting tasks cost those that move.")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = EmbeddedStack(Path(folder))
        try:
            stack.start()
            url = stack.env()["DATABASE_URL"]
            upgrade(url)
            store = PostgresStore(make_engine(url, statement_timeout=300))
            measure = Measure(store)
            _medians(measure, "warm", options.tasks)
            without = _medians(measure, "without", options.tasks)
            with store.engine.begin() as connection:
                connection.execute(_WAITING, {"count": options.waiting})
            with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE"))
            among = _medians(measure, "among", options.tasks)
            store.close()
        finally:
            stack.destroy()
    print(f"{'':>12}{'alone':>12}{f'among {options.waiting:,}':>18}{'ratio':>8}")
    for what in without:
        print(f"{what:>12}{without[what]:>9.2f} ms{among[what]:>15.2f} ms{among[what] / without[what]:>8.2f}")


def _medians(measure: Measure, name: str, tasks: int) -> dict[str, float]:
    def median(one: Callable[[int], float], times: int) -> float:
        return statistics.median(one(number) for number in range(times))

    return {
        "a step": median(lambda number: measure.course(f"{name}-{number}"), tasks),
        "a sweep": median(lambda _: measure.sweep(), SWEEPS),
    }


if __name__ == "__main__":
    main()
