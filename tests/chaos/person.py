"""The people of a storm: they pause, resume and cancel tasks while it rages, and settle by the ledger what is unknown.

The latter, at agents that can tell nothing, is the one hand that a storm needs.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import psycopg2

from orchestrator.domain.delegation import DelegationState
from orchestrator.domain.journal import Dispatch
from orchestrator.domain.task import TaskState
from orchestrator.errors import NotAllowed, StoreUnavailable, TaskNotFound
from orchestrator.flow.control import Control
from orchestrator.store import PostgresStore, make_engine
from tests.chaos.cast import BY_NAME, Kind
from tests.chaos.plan import Deed
from tests.chaos.world import World
from tests.support.command import Command

WHO = {"who": "chaos", "why": "the storm"}
TRY_FOR = 60.0
"""Seconds for which somebody who finds PostgreSQL away, or the task not there yet, tries again."""

_PARKED = """
    SELECT d.task_id, d.step_number || '.' || d.index, d.agent, d.idempotency_key
    FROM delegations d JOIN tasks t USING (task_id)
    WHERE d.state = 'unknown' AND t.state = 'waiting' AND t.waits_for = 'person'
"""


class _Deaf:
    """A broker that hears nothing: whatever a person does must be found by the sweep."""

    def dispatch(self, doorbells: Sequence[Dispatch]) -> None:
        """Lose them."""

    def waiting(self) -> Sequence[int]:
        """Nothing."""
        return ()


class _NotYet(Exception):
    """What is to be disturbed has not begun."""


class People:
    """Do what is planned, and remember what was accepted.

    Args:
        words: takes when (monotonic) each task was last told something.
        stall: seconds after which their doorbells, all of which are lost, are rung by the sweep.
    """

    def __init__(self, database_url: str, stall: float, words: dict[str, float]) -> None:
        engine = make_engine(database_url, application="orchestrator-cli")
        self._store = PostgresStore(engine, stall=timedelta(seconds=stall))
        self._control = Control(self._store, _Deaf())
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="person")
        self._stopped = threading.Event()
        self.paused: set[str] = set()
        """Tasks that stood still for a while."""
        self.canceled: dict[str, bool] = {}
        """Tasks that somebody tried to cancel: whether with an undo. They may have ended before."""
        self._words = words
        self.restarted: Counter[str] = Counter()
        """Tasks that somebody had begin anew, or tried to, and how often: what their agents did before stays done."""
        self.ended: set[str] = set()
        """Those of them that were told to be canceled at once."""

    def run(self, deeds: Sequence[Deed], began: float) -> None:
        """Do each at its time (seconds after ``began``, monotonic)."""
        for deed in deeds:
            if self._stopped.wait(max(0.0, began + deed.at - time.monotonic())):
                return
            self._pool.submit(self._do, deed)

    def stop(self) -> None:
        """Do nothing more."""
        self._stopped.set()

    def finish(self) -> None:
        """The storm is over: let go on what is paused still."""
        self._pool.shutdown(wait=True)
        for task in self._store.tasks(limit=100_000):
            if task.paused:
                self._do(Deed(0.0, "resume", task.task_id))
        self._store.close()

    def _do(self, deed: Deed) -> None:
        give_up_at = time.monotonic() + TRY_FOR
        while True:
            try:
                return self._try(deed)
            except NotAllowed:
                return None  # it has ended, or the first try came through
            except (StoreUnavailable, TaskNotFound, _NotYet):
                if time.monotonic() > give_up_at or self._stopped.wait(0.2):
                    return None

    def _has_a_job(self, task_id: str) -> bool:
        """Whether an agent that can be told is at a job of this task, or the task has ended before one was."""
        if self._store.task(task_id).state.is_terminal:
            return True
        under_way = [
            call
            for entry in self._store.history(task_id)
            for call in entry.delegations
            if call.state is DelegationState.IN_FLIGHT and call.remote_url
        ]
        return any(BY_NAME[call.agent].cancels for call in under_way)

    def _try(self, deed: Deed) -> None:
        self._tell(deed)
        self._words[deed.task_id] = time.monotonic()

    def _tell(self, deed: Deed) -> None:
        match deed.what:
            case "pause":
                self.paused.add(deed.task_id)
                self._control.pause(deed.task_id, **WHO)
            case "resume":
                self._control.resume(deed.task_id, **WHO)
            case "restart":
                self.restarted[deed.task_id] += 1
                self._control.restart(deed.task_id, {}, **WHO)
            case "cancel its job" if not self._has_a_job(deed.task_id):
                raise _NotYet
            case _:
                undo = deed.what == "cancel and undo"
                self.canceled[deed.task_id] = undo
                if self._control.cancel(deed.task_id, **WHO, undo=undo).state is TaskState.CANCELED:
                    self.ended.add(deed.task_id)


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
    connection = psycopg2.connect(world.servers.database_url)
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
