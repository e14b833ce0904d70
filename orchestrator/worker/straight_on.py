"""Going straight on: a worker that has finished a step does the task's next one itself, for a while, without a message.

Each step stays a step: journaled, fenced, ended at its boundary by a cancel, a pause or a worker that stops, and shown
in Flower as a Celery task of its own, with an id, under the one before it. ``ORCHESTRATOR_STRAIGHT_ON`` turns it on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.turns import PLACES, place_of
from orchestrator.errors import DispatchFailed, StepFailed
from orchestrator.flow.execution import GoesOn
from orchestrator.worker.chain import received_event, ring_of
from orchestrator.worker.events import tell

log = logging.getLogger(__name__)

_BEFORE_ALL = -1

LOOK_EVERY = 0.25
"""Seconds for which it is known what waits in the broker."""


class StraightOn:
    """Says whether a worker goes straight on. One a process, shared by its threads.

    Args:
        seconds: how long a worker stays with one task at most; 0: never longer than a step.
        waiting: how many messages wait in the broker that come before any step (sweeps, people's commands, cancels),
            and all others by place (`orchestrator.flow.ports.Dispatcher.waiting`).
    """

    def __init__(self, seconds: float, waiting: Callable[[], tuple[int, Sequence[int]]]) -> None:
        self._seconds = seconds
        self._waiting = waiting
        self._first = 0
        """The first place in which something waits."""
        self._looked_at = float("-inf")
        self._looking = threading.Lock()

    def slice(self) -> GoesOn:
        """A slice of time for one task, beginning now."""
        if self._seconds <= 0:
            return lambda _: False
        ends_at = time.monotonic() + self._seconds

        def goes_on(following: Dispatch) -> bool:
            return time.monotonic() < ends_at and not self._before(place_of(following.priority, following.lane))

        return goes_on

    def _before(self, place: int) -> bool:
        """Whether something waits that would be served before this place."""
        if time.monotonic() - self._looked_at > LOOK_EVERY and self._looking.acquire(blocking=False):
            try:
                commands, counts = self._waiting()
                first = next((place for place, count in enumerate(counts) if count), len(counts))
                self._first = _BEFORE_ALL if commands else first
            except DispatchFailed:
                # Without a broker nothing more urgent can be served either; the work at hand goes on.
                self._first = PLACES
            except Exception:
                # A reply in hand is to be committed, whatever ails the broker's library.
                log.warning("straight_on.not_known_what_waits", exc_info=True)
                self._first = _BEFORE_ALL
            finally:
                self._looked_at = time.monotonic()
                self._looking.release()
        return self._first < place


@contextmanager
def shown(app: Celery, doorbell: Dispatch, parent_id: str, hostname: str) -> Iterator[Shown]:
    """Show a step as a Celery task of its own: received, started, and how it ended. (Nothing was sent.)

    `StepFailed` ends here: it is how this step ended, and no matter of the Celery task in whose message it ran.
    """
    ring = ring_of(doorbell, parent_id)
    step = Shown(ring.celery_id)
    tell(app, hostname, [("task-received", received_event(ring)), ("task-started", {"uuid": step.id})])
    begun = time.monotonic()

    def ended(kind: str, **how: Any) -> None:
        tell(app, hostname, [(kind, {"uuid": step.id, **how})])

    try:
        yield step
    except StepFailed as error:
        ended("task-failed", exception=repr(error), traceback="")
    except BaseException as error:
        ended("task-failed", exception=repr(error), traceback="")
        raise
    else:
        ended("task-succeeded", result=repr(step.result), runtime=time.monotonic() - begun)


class Shown:
    """A step as Flower sees it."""

    def __init__(self, celery_id: str) -> None:
        self.id = celery_id
        self.result = ""
        """How it ended."""
