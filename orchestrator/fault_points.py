"""Named places between two commits or effects, where a test lets a process die: how "nothing lost" is proved.

Off by default: `reach` then costs one look at a global. ``ORCHESTRATOR_FAULTS`` arms them for a process::

    ORCHESTRATOR_FAULTS="delegation.marked:kill,sweep.marked:pause=3:times=2"

Actions: ``kill`` (SIGKILL to this process itself), ``pause=SECONDS``, ``raise``. ``times=N``: how often at most (1).
``only=TEXT``: where this is at hand only (a task's id). With ``ORCHESTRATOR_FAULTS_FOLDER`` each firing leaves a file
``NAME.NUMBER`` there, and ``times`` counts over all processes and their restarts; without it, for each process.

What belongs in here: the names, each with what has happened and what has not, and their firing. Each has a row in
docs/failure-semantics.md and in ``tests/faults/failure_table.yaml``, and a test that fires it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from orchestrator.errors import ConfigurationError, InjectedFault

log = logging.getLogger(__name__)

Action = Literal["kill", "pause", "raise"]


class FaultPoint(StrEnum):
    """Every fault point. A name says what has just happened."""

    BRIDGE_DECODED = "bridge.decoded"
    """A batch was read and decoded; nothing of it is written."""
    BRIDGE_COMMITTED = "bridge.committed"
    """PostgreSQL has the batch; Kafka's offsets are behind, no doorbell has rung."""
    BRIDGE_OFFSETS_SENT = "bridge.offsets_sent"
    """The offsets are on their way to Kafka; no doorbell has rung."""
    BRIDGE_SET_BACK = "bridge.set_back"
    """The group's offset in Kafka is set back to where reading begins, before which PostgreSQL knows all; nothing is
    read."""
    OUTBOX_READ = "outbox.read"
    """Rows to publish are in hand; none has been sent."""
    OUTBOX_SENT = "outbox.sent"
    """The broker confirmed the rows; they are not marked as published."""
    STEP_RECEIVED = "step.received"
    """A worker took the doorbell; the task is not claimed."""
    STEP_CLAIMED = "step.claimed"
    """The lease is taken; nothing has been done."""
    BUDGET_RESERVED = "budget.reserved"
    """What a question to the model may cost is reserved; the question has not left."""
    STEP_PLANNED = "step.planned"
    """The planner answered; its decision is not recorded."""
    DELEGATION_MARKED = "delegation.marked"
    """A delegation is in flight in the journal; its request has not left."""
    DELEGATION_ANSWERED = "delegation.answered"
    """The agent acted and answered; its reply is not recorded."""
    DELEGATION_SETTLED = "delegation.settled"
    """A delegation of a parallel step is settled; no doorbell has rung, neither for the next nor for the step."""
    ANSWER_IN_HAND = "answer.in_hand"
    """A person's answer is to go to the agent that asked; it is not marked as sent, and has not left."""
    ANSWER_MARKED = "answer.marked"
    """The answer to an agent that is told once is marked as sent in the journal; it has not left."""
    ANSWER_TAKEN = "answer.taken"
    """The agent has taken the answer; that is not recorded."""
    UNDO_MARKED = "undo.marked"
    """A compensation is in flight in the journal; its request has not left."""
    UNDO_ANSWERED = "undo.answered"
    """The agent has undone and answered; that is not recorded."""
    UNDO_RECORDED = "undo.recorded"
    """A compensation is recorded; the next has not begun."""
    CANCEL_CLAIMED = "cancel.claimed"
    """A worker has a call in hand that is not wanted any more; its agent has not been told."""
    CANCEL_ANSWERED = "cancel.answered"
    """The agent was told and has answered; that is not recorded."""
    CANCEL_RECORDED = "cancel.recorded"
    """What the agent said is recorded; an undo that waits for it has not been rung for."""
    STEP_ENDED = "step.ended"
    """The step's last commit is written; its successor's doorbell has not rung."""
    STEP_GONE_ON = "step.gone_on"
    """The step's last commit is written and has claimed its successor for the same worker; nothing of that is done."""
    STEP_SUCCESSOR_SENT = "step.successor_sent"
    """The successor's doorbell has rung; the step's own message is not acknowledged."""
    SWEEP_MARKED = "sweep.marked"
    """Due tasks are marked as rung; their doorbells have not rung."""
    CONTROL_WRITTEN = "control.written"
    """A person's retry, rerun or settlement is written; the doorbell has not rung."""
    REWIND_WRITTEN = "rewind.written"
    """Offsets to be read again from are in PostgreSQL; the group has its own still."""
    RESTORE_MARKED = "restore.marked"
    """PostgreSQL was found to be older than it was; every task is marked as doubted, and that is not committed."""
    DEAD_LETTER_PRODUCED = "dead_letter.produced"
    """A dead letter's record is in its topic again; that is not noted."""


@dataclass
class Fault:
    """What happens at one fault point."""

    point: FaultPoint
    action: Action
    seconds: float = 0.0
    times: int = 1
    only: str | None = None
    folder: Path | None = None
    _fired: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def strike(self, about: str) -> None:
        """Do it, where it is meant and its turn has not passed.

        Raises:
            InjectedFault: the action is ``raise``.
        """
        if (self.only is not None and about != self.only) or not self._takes_its_turn(about):
            return
        log.warning("fault.fired", extra={"point": self.point.value, "action": self.action, "about": about})
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "pause":
                time.sleep(self.seconds)
            case "raise":
                raise InjectedFault(f"the fault point {self.point} was told to raise", task_id=about or None)

    def _takes_its_turn(self, about: str) -> bool:
        with self._lock:
            if self.folder is None:
                self._fired += 1
                return self._fired <= self.times
            return any(_left(self.folder / f"{self.point}.{number}", about) for number in range(1, self.times + 1))


def _left(marker: Path, about: str) -> bool:
    try:
        with marker.open("x", encoding="utf-8") as file:
            file.write(about)
    except FileExistsError:
        return False
    return True


_armed: Mapping[FaultPoint, Fault] | None = None
_armed_by: tuple[str | None, Path | None] | None = None


def reach(point: FaultPoint, about: str = "") -> None:
    """Mark a place in production code; does nothing unless a test has armed it.

    Args:
        point: which place it is.
        about: the task's id, where one is at hand.
    """
    if _armed is not None and (fault := _armed.get(point)) is not None:
        fault.strike(about)


def arm(text: str | None, folder: Path | None = None) -> None:
    """Arm this process as ``ORCHESTRATOR_FAULTS`` says; None or nothing disarms it.

    Raises:
        ConfigurationError: the text does not say what it must.
    """
    global _armed, _armed_by  # one switch a process, so that `reach` costs nothing while it is off
    if _armed_by == (text, folder):
        return
    faults = parse_faults(text or "", folder)
    _armed, _armed_by = {fault.point: fault for fault in faults} or None, (text, folder)
    if faults:
        log.warning("faults.armed", extra={"points": [fault.point.value for fault in faults]})


def parse_faults(text: str, folder: Path | None = None) -> list[Fault]:
    """Read ``NAME:ACTION[:times=N][:only=TEXT]``, several separated by commas.

    Raises:
        ConfigurationError: naming the part that is wrong.
    """
    return [_parse_one(part.strip(), folder) for part in text.split(",") if part.strip()]


def _parse_one(text: str, folder: Path | None) -> Fault:
    name, *parts = text.split(":")
    try:
        fault = Fault(FaultPoint(name), _action(parts[0].partition("=")[0]), folder=folder)
        if fault.action == "pause":
            fault.seconds = float(parts[0].partition("=")[2])
        for option in parts[1:]:
            word, _, value = option.partition("=")
            if word == "times":
                fault.times = int(value)
            elif word == "only":
                fault.only = value
            else:
                raise ValueError(f"{word!r} is neither times nor only")
    except (ValueError, IndexError) as error:
        raise ConfigurationError(
            f"ORCHESTRATOR_FAULTS: {text!r} is no fault: {error}",
            hint="Write NAME:kill, NAME:pause=SECONDS or NAME:raise, then :times=N or :only=TASK. For tests only.",
        ) from error
    return fault


def _action(word: str) -> Action:
    match word:
        case "kill" | "pause" | "raise":
            return word
        case _:
            raise ValueError(f"{word!r} is neither kill nor pause nor raise")
