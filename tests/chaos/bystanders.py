"""Those who do their part until the very end: people who answer what is asked, and the agents that reply by events."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from orchestrator.domain.question import APPROVE, DECLINE, QuestionKind
from orchestrator.errors import AnswerRefused, OrchestratorError
from orchestrator.store import PostgresStore, make_engine
from tests.chaos.cast import answer_of, approves
from tests.chaos.traffic import CONFIRM, Sent, storm_producer
from tests.chaos.world import World

EVERY = 0.2
"""Seconds between two looks."""


class Bystander:
    """Looks for something to do again and again, in a thread of its own, until told to stop."""

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        self._look = look
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, and end."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY):
            self._look()
        self._look()


class Answerers:
    """Answer each question soon after it was asked, by what the cast says of its task. Their doorbells are lost."""

    def __init__(self, database_url: str, stall: float, words: dict[str, float]) -> None:
        engine = make_engine(database_url, application="orchestrator-cli", pool_size=1)
        self._store = PostgresStore(engine, stall=timedelta(seconds=stall))
        self._words = words
        self._bystander = Bystander("answerers", self._look)

    def stop(self) -> None:
        """Answer no more."""
        self._bystander.stop()
        self._store.close()

    def _look(self) -> None:
        with contextlib.suppress(OrchestratorError):  # PostgreSQL is away: later
            for one in self._store.questions(limit=1000):
                said = APPROVE if approves(one.task_id) else DECLINE
                answer = said if one.question.kind is QuestionKind.APPROVAL else answer_of(one.task_id)
                with contextlib.suppress(AnswerRefused):  # it has ended meanwhile, or the first try came through
                    self._store.answer(one.task_id, one.question.ref, answer, who="chaos", why="the storm")
                    self._words[one.task_id] = time.monotonic()


class Repliers:
    """Send what agents reply by an event, some of it twice."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._topic = world.servers.topic("events")
        self._producer = storm_producer(world.servers.kafka)
        self._sent: list[Sent] = []
        self._known = 0
        self._bystander = Bystander("repliers", self._look)

    def stop(self) -> None:
        """Send no more; returns when the broker has confirmed all."""
        self._bystander.stop()
        until = time.monotonic() + CONFIRM
        for sent in self._sent:
            sent.confirmed(until)
        self._producer.close()

    def _look(self) -> None:
        for sent in self._sent:
            sent.again_if_refused()
        for reply in self._world.witness.replies(self._known):
            self._known += 1
            data = {"token": reply["token"], "status": "succeeded", "output": reply["output"]}
            message = {"task_id": reply["task_id"], "event_type": "agent.reply", "event_data": data}
            for _ in range(2 if self._known % 5 == 0 else 1):
                value = json.dumps(message).encode()
                self._sent.append(Sent(self._producer, self._topic, value, reply["task_id"].encode()))
