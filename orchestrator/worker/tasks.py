"""The Celery tasks: thin. Each takes ids and numbers, lets the flow work, and says in a word how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.domain.journal import Dispatch
from orchestrator.errors import (
    AnswerRefused,
    DelegationFailed,
    DispatchFailed,
    NewerJournal,
    NotAllowed,
    StepFailed,
    StoreUnavailable,
    TaskNotFound,
)
from orchestrator.fault_points import FaultPoint, reach
from orchestrator.flow.execution import StepResult
from orchestrator.logs import mask
from orchestrator.wiring import worker_parts
from orchestrator.worker.app import app
from orchestrator.worker.memory import remember
from orchestrator.worker.names import (
    ANSWER,
    CANCEL,
    CANCEL_CALL,
    DELEGATE,
    PAUSE,
    PRUNE,
    RESTART,
    RESUME,
    RETRY,
    STEP,
    SWEEP,
    UNDO,
)
from orchestrator.worker.straight_on import shown

log = logging.getLogger(__name__)

_LONGEST_RESULT = 500

PRUNE_SECONDS = 60.0
"""How long one removal of old rows may take a worker's thread; it comes again every ten minutes."""


@app.task(name=STEP, bind=True, throws=(StepFailed,))  # type: ignore[untyped-decorator]  # celery ships no types
def step(self: Any, *, task_id: str, step: int) -> str:
    """Run one step of a business task, and those that follow it where this worker goes straight on.

    Returns:
        How it ended, for Flower: ``next step 3``, ``completed``, ``waiting: …``, ``skipped: …``, ``handed back: …``.

    Raises:
        StepFailed: the business task stopped as failed; the reason is in it, and in the journal.
    """
    parts = worker_parts()
    goes_on = parts.straight_on.slice()
    text, following = _ended(task_id, step, self.request.id, lambda: parts.runner.run(task_id, step, goes_on))
    parent_id = self.request.id
    while following is not None and following.next is not None:
        place, run = following.next, partial(parts.runner.go_on, following, goes_on)
        reach(FaultPoint.STEP_GONE_ON, task_id)
        following = None
        with shown(app, place, parent_id, self.request.hostname) as shown_step:
            parent_id = shown_step.id
            shown_step.result, following = _ended(task_id, place.step, parent_id, run)
    return text


def _ended(task_id: str, step: int, celery_id: str, run: Callable[[], StepResult]) -> tuple[str, StepResult | None]:
    """Run a step and ring for what follows; says how it ended, and gives its result where the successor is claimed.

    Raises:
        StepFailed: the business task stopped as failed.
    """
    try:
        result = run()
    except (StoreUnavailable, NewerJournal) as error:
        log.warning("step.handed_back", extra={"task_id": task_id, "step": step, "why": str(error)})
        return _text("handed back, the sweep rings again", str(error)), None
    if result.claim is None:
        reach(FaultPoint.STEP_ENDED, task_id)
    _ring(result.doorbells)
    if result.outcome == "failed":
        raise StepFailed(_text("failed", result.detail), task_id=task_id)
    if result.next is None:
        return _text(result.outcome, result.detail), None
    if result.claim is None:
        _send_successor(result.next, celery_id)
    text = _text(result.outcome, result.detail) if result.detail else f"next step {result.next.step}"
    return text, None if result.claim is None else result


@app.task(name=DELEGATE, throws=(DelegationFailed,))  # type: ignore[untyped-decorator]  # celery ships no types
def delegate(*, task_id: str, step: int, index: int) -> str:
    """Carry out one delegation of a parallel step, or do what is next for it: a retry, a poll, a look-up.

    Returns:
        How it ended, for Flower: ``succeeded: …``, ``waiting: …``, ``skipped: …``, ``fenced: …``, ``handed back, …``.

    Raises:
        DelegationFailed: the agent will not do it; what that means for its step is the step's to say.
    """
    try:
        result = worker_parts().delegations.run(Dispatch(task_id, step, index=index))
    except (StoreUnavailable, NewerJournal) as error:
        told = {"task_id": task_id, "step": step, "index": index, "why": str(error)}
        log.warning("delegation.handed_back", extra=told)
        return _text("handed back, the sweep rings again", str(error))
    reach(FaultPoint.DELEGATION_SETTLED, task_id)
    _ring(result.doorbells)
    if result.outcome == "failed":
        raise DelegationFailed(_text("failed", result.detail), task_id=task_id)
    return _text(result.outcome, result.detail)


@app.task(name=CANCEL_CALL)  # type: ignore[untyped-decorator]  # celery ships no types
def cancel_call(*, task_id: str, step: int, index: int) -> str:
    """Tell an agent that a call is not wanted any more, or find out what became of it since.

    Returns:
        How it ended, for Flower: ``canceled: …``, ``done: …``, ``telling: …``, ``asking: …``, ``refused: …``…
    """
    try:
        result = worker_parts().canceler.run(Dispatch(task_id, step, index=index, cancels=True))
    except (StoreUnavailable, NewerJournal) as error:
        told = {"task_id": task_id, "step": step, "index": index, "why": str(error)}
        log.warning("cancel.handed_back", extra=told)
        return _text("handed back, the sweep rings again", str(error))
    reach(FaultPoint.CANCEL_RECORDED, task_id)
    _ring(result.doorbells)
    return _text(result.outcome, result.detail)


@app.task(name=RETRY, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def retry(*, task_id: str) -> str:
    """Retry a failed task, as ``orchestrator task retry`` does: only what did not succeed is done again.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    doorbell = worker_parts().control.retry(task_id, who="celery", why=f"the Celery task {RETRY}")
    return f"step {doorbell.step} goes on"


@app.task(name=CANCEL, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def cancel(*, task_id: str) -> str:
    """Cancel a task, as ``orchestrator task cancel`` does: at once, or at its next boundary.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    task = worker_parts().control.cancel(task_id, who="celery", why=f"the Celery task {CANCEL}")
    return f"it is {task.state.value}" if task.state.is_terminal else "it ends at its next boundary"


@app.task(name=UNDO, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def undo(*, task_id: str) -> str:
    """Undo what an ended task did, as ``orchestrator task undo`` does.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    worker_parts().control.undo(task_id, who="celery", why=f"the Celery task {UNDO}")
    return "what it did is being undone"


@app.task(name=PAUSE, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def pause(*, task_id: str) -> str:
    """Let a task stand still, as ``orchestrator task pause`` does.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    task = worker_parts().control.pause(task_id, who="celery", why=f"the Celery task {PAUSE}")
    return f"paused before step {task.next_step} goes on"


@app.task(name=RESUME, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def resume(*, task_id: str) -> str:
    """Let a paused task go on, as ``orchestrator task resume`` does.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    doorbell = worker_parts().control.resume(task_id, who="celery", why=f"the Celery task {RESUME}")
    return f"step {doorbell.step} goes on"


@app.task(name=RESTART, throws=(TaskNotFound, NotAllowed))  # type: ignore[untyped-decorator]  # celery ships no types
def restart(*, task_id: str) -> str:
    """Begin a task anew from its first context, as ``orchestrator task restart --yes`` does.

    Raises:
        TaskNotFound: no task has this id.
        NotAllowed: its state does not fit.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    doorbell = worker_parts().control.restart(task_id, {}, who="celery", why=f"the Celery task {RESTART}")
    return f"it begins anew as step {doorbell.step}"


@app.task(name=ANSWER, throws=(TaskNotFound, AnswerRefused))  # type: ignore[untyped-decorator]  # celery ships no types
def answer(*, task_id: str, choice: int, question: str | None = None) -> str:
    """Answer what a task asks with the choice of this number, from 1; of an approval 1 approves and 2 declines.

    Raises:
        TaskNotFound: no task has this id.
        AnswerRefused: nothing is asked, or not with such choices; the question stays open.
        StoreUnavailable: PostgreSQL is away; nothing was changed.
    """
    why = f"the Celery task {ANSWER}"
    doorbell = worker_parts().answers.choose(task_id, question, choice, who="celery", why=why)
    return f"step {doorbell.step} goes on"


# Without events: a sweep every two seconds would fill Flower's list and hide the steps.
@app.task(name=SWEEP, send_events=False)  # type: ignore[untyped-decorator]  # celery ships no types
def sweep() -> str:
    """Ring the doorbells of tasks that should move and do not."""
    try:
        parts = worker_parts()
        result = parts.sweep.run()
        remember(parts.store, parts.dispatcher)
    except StoreUnavailable as error:
        log.warning("sweep.postponed", extra={"why": str(error)})
        return _text("postponed", str(error))
    return f"rung {result.dispatched}, expired events {result.expired_events}"


@app.task(name=PRUNE, send_events=False)  # type: ignore[untyped-decorator]  # celery ships no types
def prune() -> str:
    """Remove what is old and done, for a while; what is left over is removed the next time."""
    try:
        removed = worker_parts().retention.run(PRUNE_SECONDS)
    except StoreUnavailable as error:
        log.warning("retention.postponed", extra={"why": str(error)})
        return _text("postponed", str(error))
    return ", ".join(f"{kept.value} {count}" for kept, count in removed.items())


def _send_successor(doorbell: Dispatch, parent_id: str) -> None:
    """Send the next step; its work is committed, so one that the broker does not take is left to the sweep."""
    try:
        worker_parts().dispatcher.dispatch([doorbell], parent_id)
    except DispatchFailed as error:
        told = {"task_id": doorbell.task_id, "why": str(error), "then": "the sweep sends it"}
        log.warning("step.successor_not_sent", extra=told)
    else:
        reach(FaultPoint.STEP_SUCCESSOR_SENT, doorbell.task_id)


def _ring(doorbells: Sequence[Dispatch]) -> None:
    """Send; what the broker does not take is left to the sweep."""
    if not doorbells:
        return
    try:
        worker_parts().dispatcher.dispatch(doorbells)
    except DispatchFailed as error:
        told = {"task_id": doorbells[0].task_id, "why": str(error), "then": "the sweep sends them"}
        log.warning("delegation.not_sent", extra=told)


def _text(outcome: str, detail: str) -> str:
    """A line for Flower: masked and short."""
    line = f"{outcome}: {mask(detail)}" if detail else outcome
    return line if len(line) <= _LONGEST_RESULT else f"{line[: _LONGEST_RESULT - 1]}…"
