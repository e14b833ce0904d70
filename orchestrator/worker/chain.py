"""The chain of a task's steps, as Celery carries it: delivery, never state.

A doorbell is a chain of one step whose root id is the task's id; a running step appends its successor, so all Celery
tasks of a business task hang under one root and carry ``task_id`` as a keyword, by which Flower finds them.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, chain
from celery.canvas import Signature

from orchestrator.domain.journal import Dispatch
from orchestrator.worker.names import (
    DELEGATE,
    DELEGATION_QUEUES,
    LANE_QUEUES,
    STEP,
    broker_priority,
    celery_id,
    celery_root,
)


def signature_of(app: Celery, doorbell: Dispatch) -> Signature:
    """One step or delegation, to be sent or appended. Immutable: what the step before returned is nothing to it."""
    place: dict[str, Any] = {"task_id": doorbell.task_id, "step": doorbell.step}
    if doorbell.index is not None:
        place["index"] = doorbell.index
    return Signature(
        STEP if doorbell.index is None else DELEGATE,
        kwargs=place,
        immutable=True,
        app=app,
        options={
            "task_id": celery_id(**place),
            "priority": broker_priority(doorbell.priority),
            "queue": (LANE_QUEUES if doorbell.index is None else DELEGATION_QUEUES)[doorbell.lane],
        },
    )


def ring(app: Celery, doorbell: Dispatch, producer: Any) -> None:
    """Send a new chain that begins with this step or delegation."""
    signature = signature_of(app, doorbell)
    chain(signature, app=app).apply_async(
        task_id=signature.options["task_id"],
        root_id=celery_root(doorbell.task_id),
        priority=signature.options["priority"],
        producer=producer,
    )


def append_successor(request: Any, app: Celery, doorbell: Dispatch) -> None:
    """Let the running Celery task be followed by this step. Celery sends the last entry of the chain next."""
    request.chain = [*(request.chain or ()), signature_of(app, doorbell)]
