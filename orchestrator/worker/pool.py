"""The threads pool that can grow and shrink, so that ``--autoscale`` and Flower's buttons work as they do on prefork.

Celery's own threads pool has neither method, and its worker ends with an AttributeError when asked.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import concurrency
from celery.concurrency import thread

POOL = "orchestrator.worker.pool:TaskPool"


class TaskPool(thread.TaskPool):  # type: ignore[misc]  # celery ships no types
    """Celery's threads pool with a limit that may change while it runs.

    Threads above a lowered limit are not ended: the limit bounds how many messages the worker takes at once, and an
    idle thread costs next to nothing.
    """

    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scaling = threading.Lock()

    @property
    def num_processes(self) -> int:
        """How many tasks may run at once; Celery's name for it is that of prefork."""
        return self.limit

    def grow(self, n: int = 1) -> None:
        """Allow ``n`` more at once."""
        with self._scaling:
            self.limit += n
            # The executor starts threads as it needs them, up to this; the standard library has no public way to say.
            self.executor._max_workers = max(self.executor._max_workers, self.limit)

    def shrink(self, n: int = 1) -> None:
        """Allow ``n`` fewer at once. Raises ValueError where fewer than one would be left."""
        with self._scaling:
            if self.limit - n < 1:
                raise ValueError(f"the pool has {self.limit} threads; {n} fewer would leave none")
            self.limit -= n

    def _get_info(self) -> dict[str, Any]:
        # Flower shows a pool by the process ids in it.
        return {**super()._get_info(), "processes": sorted({self._process_id()})}

    @staticmethod
    def _process_id() -> int:
        import os

        return os.getpid()


def use_our_threads() -> None:
    """Let ``--pool threads`` mean this pool."""
    concurrency.ALIASES["threads"] = POOL
