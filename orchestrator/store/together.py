"""Calls that come while another one is under way go together with the next: one message, one commit, one wait.

A process under load has several threads that want to commit at the same moment. Whoever comes first leads: it takes
what waits, sends all of it, hands out the answers and lets the next one lead. Alone, a call waits for nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Apart(Exception):
    """Raised by who runs calls together: nothing came of any, since one is in the way; each is to be run alone."""


class Together(Generic[Asked, Answer]):
    """Calls of one kind; shared by threads.

    Args:
        run: runs these calls, all or none of them, and returns their answers in the same order; may raise `Apart`.
        alone: runs one call that holds nobody up.
        at_once: how many batches are under way at most.
        most: how many calls a batch has at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Asked]], Sequence[Answer]],
        alone: Callable[[Asked], Answer],
        *,
        at_once: int,
        most: int,
    ) -> None:
        self._run = run
        self._alone = alone
        self._at_once = at_once
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Asked, Answer]] = deque()
        self._under_way = 0

    @property
    def waiting(self) -> int:
        """How many calls wait for those under way."""
        return len(self._waiting)

    def call(self, asked: Asked) -> Answer:
        """Run one call, with others or alone.

        Raises:
            Exception: what ``run`` or ``alone`` raised.
        """
        mine: _Call[Asked, Answer] = _Call(asked)
        if not self._leads(mine):
            try:
                mine.signal.wait()
            except BaseException:
                self._leave(mine)
                raise
        if not mine.ended:
            self._lead(mine)
        return mine.answers[0] if mine.answers else self._alone(asked)

    def _leads(self, mine: _Call[Asked, Answer]) -> bool:
        """Whether a call that has just come goes at once; else it waits to be answered, or to be told to lead."""
        with self._lock:
            if self._under_way >= self._at_once:
                self._waiting.append(mine)
                return False
            self._under_way += 1
            return True

    def _lead(self, mine: _Call[Asked, Answer]) -> None:
        batch = [mine]
        with self._lock:
            while self._waiting and len(batch) < self._most:
                batch.append(self._waiting.popleft())
                batch[-1].taken = True
        try:
            answers = self._run([one.asked for one in batch])
            if len(answers) != len(batch):
                raise AssertionError(f"{len(answers)} answers to {len(batch)} calls")
            for one, answer in zip(batch, answers, strict=True):
                one.answers.append(answer)
        except Apart:
            pass  # none has an answer: each runs alone
        except Exception:
            if len(batch) == 1:
                raise
            # Each runs alone, and learns in its own name what is wrong, if it is anything of its own.
        finally:
            self._let_next_lead()
            for one in batch[1:]:
                one.ended = True
                one.signal.come()

    def _leave(self, mine: _Call[Asked, Answer]) -> None:
        """Wait no longer; whoever was just told to lead hands that on."""
        with self._lock:
            waits = mine in self._waiting
            if waits:
                self._waiting.remove(mine)
        if not waits and not mine.taken:
            self._let_next_lead()

    def _let_next_lead(self) -> None:
        with self._lock:
            if not self._waiting:
                self._under_way -= 1
                return
            following = self._waiting.popleft()
        following.signal.come()


class _Call(Generic[Asked, Answer]):
    """One call, and what became of it."""

    __slots__ = ("answers", "asked", "ended", "signal", "taken")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: list[Answer] = []
        """Its answer; none where what it was run with failed."""
        self.taken = False
        """Whether another one that leads has taken it along."""
        self.ended = False
        """Whether another one led and is through with it."""
        self.signal = Signal()


class Signal:
    """What a call waits for: to be answered, or to lead."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Until it has come."""
        self._lock.acquire()

    def come(self) -> None:
        """Once."""
        self._lock.release()
