"""Asking a model many things, some side by side, and telling of each as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from orchestrator.cli.output import Output
from orchestrator.errors import NotAllowed, OrchestratorError, TaskNotFound

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")


def side_by_side(
    out: Output,
    what: str,
    names: Sequence[Name],
    act: Callable[[Name], Found],
    tell: Callable[[Name, Found | OrchestratorError], None],
    *,
    at_once: int,
) -> OrchestratorError | None:
    """Do it to each; what stopped it before all were done, if anything did.

    A key that is wrong, or a provider that stays away, stops it: the others would fare no better. What cannot be done
    to one thing alone is told as its result.

    Args:
        out: a terminal is told how far it is.
        what: for that, such as ``tasks decided again``.
        names: the things.
        act: does it.
        tell: is given each result, one at a time.
        at_once: how many side by side.
    """
    waiting = list(reversed(names))
    going: dict[Future[Found], Name] = {}
    stopped: OrchestratorError | None = None
    with ThreadPoolExecutor(at_once) as threads, out.status() as status:
        while going or (waiting and stopped is None):
            while waiting and stopped is None and len(going) < at_once:
                name = waiting.pop()
                going[threads.submit(act, name)] = name
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                name = going.pop(future)
                try:
                    tell(name, future.result())
                except (NotAllowed, TaskNotFound) as error:
                    tell(name, error)
                except OrchestratorError as error:
                    stopped = stopped or error
                status(f"{len(names) - len(waiting) - len(going)} of {len(names)} {what}")
    return stopped
