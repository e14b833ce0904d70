"""Names that travel through the broker: Celery tasks, queues, ids. Changing one strands what is under way."""

from __future__ import annotations

import hashlib
import secrets

from orchestrator.domain.ids import header_safe
from orchestrator.domain.turns import MOST_URGENT, urgency_of

STEP = "orchestrator.step"
"""One step of one task: ``task_id``, ``step``."""
DELEGATE = "orchestrator.delegate"
"""One delegation of a parallel step: ``task_id``, ``step``, ``index``."""
CANCEL_CALL = "orchestrator.cancel_call"
"""Tell an agent that a call is not wanted any more: ``task_id``, ``step``, ``index``."""
RETRY = "orchestrator.retry"
"""A person's retry by id alone: ``task_id``."""
CANCEL = "orchestrator.cancel"
"""A person's cancel: ``task_id``."""
UNDO = "orchestrator.undo"
"""A person's undo of an ended task: ``task_id``."""
PAUSE = "orchestrator.pause"
"""A person's pause: ``task_id``."""
RESUME = "orchestrator.resume"
"""A person's resume: ``task_id``."""
RESTART = "orchestrator.restart"
"""A person's restart from the first context as it is: ``task_id``. Edits are not for messages."""
ANSWER = "orchestrator.answer"
"""A person's answer by number: ``task_id``, ``choice`` (from 1), and ``question`` where the task asks several."""
SWEEP = "orchestrator.sweep"
"""Ring what should move and does not."""

PRUNE = "orchestrator.prune"
"""Remove what is old and done."""

STEPS_QUEUE = "steps"
LATER_QUEUE = "steps-later"
"""Steps of tenants who have their share under way already; of each urgency served after ``steps``."""
LANE_QUEUES = (STEPS_QUEUE, LATER_QUEUE)
"""By lane, see `orchestrator.domain.turns`."""
DELEGATIONS_QUEUE = "delegations"
LATER_DELEGATIONS_QUEUE = "delegations-later"
DELEGATION_QUEUES = (DELEGATIONS_QUEUE, LATER_DELEGATIONS_QUEUE)
"""By lane. Queues of their own, so that a worker of a version that does not know delegations never takes one."""
CANCELS_QUEUE = "cancels"
"""What agents are told of calls that are not wanted any more: few, and what they end costs somebody's time."""
SERVED = (CANCELS_QUEUE, DELEGATIONS_QUEUE, STEPS_QUEUE, LATER_DELEGATIONS_QUEUE, LATER_QUEUE)
"""Of equal urgency in this order: in each lane what is begun before what is new."""
CONTROL_QUEUE = "control"
"""Sweeps and retries: short, and never behind a backlog of steps."""

_LONGEST_ROOT = 200


def celery_root(task_id: str) -> str:
    """The root id of all Celery tasks of a business task: its id, percent-encoded, shortened where it is very long."""
    safe = header_safe(task_id)
    if len(safe) <= _LONGEST_ROOT:
        return safe
    return f"{safe[: _LONGEST_ROOT - 17]}~{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"


def celery_id(task_id: str, step: int, index: int | None = None, *, cancels: bool = False) -> str:
    """A Celery task's id: readable, and its own for each doorbell that is rung."""
    place = f"{step}" if index is None else f"{step}.{index}"
    if cancels:
        place += "-cancel"
    return f"{celery_root(task_id)}:{place}:{secrets.token_hex(4)}"


def broker_priority(priority: int) -> int:
    """Our priority as Redis understands it: there 0 is the most urgent."""
    return MOST_URGENT - urgency_of(priority, 0)
