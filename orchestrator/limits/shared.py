"""Limits shared by all workers: every answer is one script in Redis.

Where Redis does not answer, calls are let through within this process's own bounds: work goes on, and each process
keeps to the caps and rates by itself.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from orchestrator.domain.journal import Dispatch
from orchestrator.domain.limits import Limited, LimitState, NotNow
from orchestrator.domain.turns import MOST_URGENT
from orchestrator.errors import OrchestratorError
from orchestrator.flow.limits import Permit, Wake
from orchestrator.limits import scripts
from orchestrator.limits.own import OwnBounds, interval_of, tolerance_of

log = logging.getLogger(__name__)

BEATS_A_LEASE = 3
CALM_FOR = 1.0
"""Seconds in which an agent that has just answered well, and that only a breaker watches over, is called without asking
Redis. What another worker notices of it is known here so much later; a failure here is told at once."""

AWAY_FOR = 1.0
"""Seconds in which a Redis that did not answer is not asked again."""

TRIES_A_SECOND = 20.0
"""How often those who wait for one agent try again, all together: their own pauses grow with their number."""

LONGEST_PAUSE = 60.0
FORGET_AFTER = 600.0
"""Seconds after which one that was refused and did not come again is not counted as waiting any more."""

_A_YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When calls to an agent are held back. See the settings ``ORCHESTRATOR_BREAKER_…``."""

    failures: int = 10
    """In a row, over all workers; 0: never."""
    pause: float = 10.0
    """Seconds until one call may try."""
    patience: float = 600.0
    """Seconds of failures after which waiting is given up."""


class SharedLimits:
    """Implements `orchestrator.flow.limits.Limits`. Safe to share between threads; its thread ends with `stop`.

    Args:
        client: Redis.
        prefix: of all keys.
        lease: how long a permit lasts unless renewed, so that one of a dead process frees itself.
        breaker: when agents are spared.
        wake: rings for those who may try again.
    """

    def __init__(self, client: Redis, prefix: str, lease: timedelta, breaker: BreakerRules, wake: Wake) -> None:
        self._client = client
        self._prefix = prefix
        self._lease = lease
        self._breaker = breaker
        self._wake = wake
        self._own = OwnBounds()
        self._enter = client.register_script(scripts.ENTER)
        self._leave = client.register_script(scripts.LEAVE)
        self._renew = client.register_script(scripts.RENEW)
        self._look = client.register_script(scripts.LOOK)
        self._lock = threading.Lock()
        self._held: dict[str, Limited] = {}
        self._calm_until: dict[str, float] = {}
        self._away_until = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the port

    def enter(self, what: Limited, waiter: Dispatch) -> Permit | NotNow:
        """Ask to make one call. Raises nothing."""
        if not what.bounded:
            return _Permit(self, what, "")
        if self._is_calm(what):
            return _CalmPermit(self, what)
        permit = secrets.token_hex(8)
        answer = self._ask(self._enter, what, self._question(what, permit, waiter))
        if answer is None:
            if (wait := self._own.too_fast(what)) > 0:
                return _busy(what, waiter, wait, 0)
        elif (why := answer[0].decode()) != "in":
            return self._refused(what, waiter, why, answer)
        if not self._own.enter(what):
            # Redis has forgotten what we hold: our own count has not.
            self._ask(self._leave, what, self._farewell(what, permit, None))
            return _busy(what, waiter, 0.0, 0)
        with self._lock:
            self._held[permit] = what
            self._start()
        return _Permit(self, what, permit)

    def leave(self, what: Limited, permit: str, well: bool | None) -> None:
        """Give a permit back; see `Permit.leave`."""
        if not permit:
            return
        self.note(what, well)
        with self._lock:
            if self._held.pop(permit, None) is None:
                return
        self._own.leave(what)
        answer = self._ask(self._leave, what, self._farewell(what, permit, well))
        if answer is None:
            return
        if opened := int(answer[0]):
            log.warning("limits.breaker_open", extra={"what": what.key, "failures": opened})
        if waiting := [_waiter_of(item) for item in answer[1:]]:
            try:
                self._wake(waiting)
            except OrchestratorError as error:
                # They have a due time of their own.
                log.info("limits.not_woken", extra={"what": what.key, "why": str(error)})

    def note(self, what: Limited, well: bool | None) -> None:
        """Remember how a call of something went that only a breaker watches over."""
        if well and _only_breaker(what):
            self._calm_until[what.key] = time.monotonic() + CALM_FOR
        elif well is False:
            self._calm_until.pop(what.key, None)

    def calm_call_ended(self, what: Limited, well: bool) -> None:
        """Tell of a call for which no permit was asked, where it failed, or where others have failed meanwhile."""
        if well and self._is_calm(what):
            return
        self.note(what, well)
        answer = self._ask(self._leave, what, self._farewell(what, "", well))
        if answer is not None and (opened := int(answer[0])):
            log.warning("limits.breaker_open", extra={"what": what.key, "failures": opened})

    def _is_calm(self, what: Limited) -> bool:
        return time.monotonic() < self._calm_until.get(what.key, 0.0) and _only_breaker(what)

    def look(self, names: Sequence[Limited]) -> Sequence[LimitState] | None:
        """How it stands with each; None where Redis does not answer."""
        found = []
        for what in names:
            answer = self._ask(self._look, what, [])
            if answer is None:
                return None
            open_for = answer[3].decode()
            found.append(
                LimitState(
                    in_flight=int(answer[0]),
                    waiting=int(answer[1]),
                    failures=int(answer[2]),
                    open_for=float(open_for) / 1000 if open_for else None,
                )
            )
        return found

    def stop(self) -> None:
        """End the thread and the connections; permits still held run out by themselves."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._client.close()

    # -- what is asked

    def _keys(self, what: Limited) -> list[str]:
        return [f"{self._prefix}limits:{what.key}:{part}" for part in ("slots", "rate", "breaker", "waiting", "seen")]

    def _lease_ms(self) -> int:
        return int(self._lease.total_seconds() * 1000)

    def _threshold(self, what: Limited) -> int:
        return self._breaker.failures if what.has_breaker else 0

    def _question(self, what: Limited, permit: str, waiter: Dispatch) -> list[Any]:
        return [
            permit,
            self._lease_ms(),
            what.max_concurrency or 0,
            1000 * interval_of(what),
            1000 * tolerance_of(what),
            self._threshold(what),
            _waiter_text(waiter),
            # More urgent ones come first, whenever they came.
            (MOST_URGENT - waiter.priority) * _A_YEAR_MS,
            int(1000 * FORGET_AFTER),
        ]

    def _farewell(self, what: Limited, permit: str, well: bool | None) -> list[Any]:
        verdict = "" if well is None else "well" if well else "ill"
        return [permit, what.max_concurrency or 0, verdict, self._threshold(what), int(1000 * self._breaker.pause)]

    def _ask(self, script: Any, what: Limited, arguments: Sequence[Any]) -> list[Any] | None:
        """The script's answer; None where Redis has none."""
        if time.monotonic() < self._away_until:
            return None
        try:
            answer: list[Any] = script(keys=self._keys(what), args=arguments)
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + AWAY_FOR
            log.warning("limits.redis_away", extra={"why": str(error), "then": "each process keeps to its own bounds"})
            return None
        return answer

    def _refused(self, what: Limited, waiter: Dispatch, why: str, answer: Sequence[Any]) -> NotNow:
        least, waiting = float(answer[1]) / 1000, int(answer[2])
        if why != "open":
            return _busy(what, waiter, least, waiting)
        failures, failing_for = int(answer[3]), float(answer[4]) / 1000
        given_up = failing_for >= self._breaker.patience
        then = "it is not waited for any longer" if given_up else "one call at a time tries whether it is well again"
        reason = f"{what.name}: failed {_often(failures)} in a row; {then}"
        return NotNow(f"{what.kind}_breaker_open", reason, _pause(what, waiter, least, waiting), for_good=given_up)

    # -- permits are renewed while they are held

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="permits", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._lease.total_seconds() / BEATS_A_LEASE):
            held: dict[Limited, list[str]] = defaultdict(list)
            with self._lock:
                for permit, what in self._held.items():
                    held[what].append(permit)
            for what, permits in held.items():
                self._ask(self._renew, what, [self._lease_ms(), *permits])


class _Permit:
    """Implements `orchestrator.flow.limits.Permit`."""

    def __init__(self, limits: SharedLimits, what: Limited, permit: str) -> None:
        self._limits = limits
        self._what = what
        self._permit = permit

    def leave(self, well: bool | None) -> None:
        """The call is over."""
        self._limits.leave(self._what, self._permit, well)


class _CalmPermit:
    """The right to call an agent that answers well and that nothing but a breaker holds back."""

    def __init__(self, limits: SharedLimits, what: Limited) -> None:
        self._limits = limits
        self._what = what
        self._left = False

    def leave(self, well: bool | None) -> None:
        """The call is over."""
        if not self._left and well is not None:
            self._limits.calm_call_ended(self._what, well)
        self._left = True


def _only_breaker(what: Limited) -> bool:
    return what.max_concurrency is None and what.rate is None


def _busy(what: Limited, waiter: Dispatch, least: float, waiting: int) -> NotNow:
    bounds = []
    if what.max_concurrency is not None:
        bounds.append(f"{what.max_concurrency} calls at once")
    if what.rate is not None:
        bounds.append(f"{what.rate:g} a second")
    reason = f"{what.name} is called as much as its limits allow ({', '.join(bounds)})"
    return NotNow(f"{what.kind}_at_capacity", reason, _pause(what, waiter, least, waiting))


def _pause(what: Limited, waiter: Dispatch, least: float, waiting: int) -> float:
    """Seconds until the next try: longer the more wait, shorter the more urgent."""
    tries = max(TRIES_A_SECOND, 4.0 * (what.max_concurrency or 0), 2.0 * (what.rate or 0.0))
    share = (MOST_URGENT + 1 - waiter.priority) / (MOST_URGENT + 1)
    spread = (0.2 + waiting / tries) * (0.5 + random.random()) * share  # noqa: S311 - spreading load, not a secret
    return min(LONGEST_PAUSE, least + spread)


def _often(failures: int) -> str:
    """How many failures, in words that do not change with each: an update a minute later says the same."""
    for step in (1000, 100, 10):
        if failures >= step:
            return f"{failures // step * step} times or more"
    return f"{failures} times"


def _waiter_text(waiter: Dispatch) -> str:
    return json.dumps([waiter.task_id, waiter.step, waiter.index])


def _waiter_of(raw: bytes) -> Dispatch:
    task_id, step, index = json.loads(raw)
    return Dispatch(task_id, step, index=index)
