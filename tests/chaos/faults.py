"""Striking: each planned fault at its time, in a thread of its own, undone after its time."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module

from tests.chaos.plan import Fault
from tests.chaos.world import World

Tell = Callable[[str], None]


class Striker:
    """Carries a plan out."""

    def __init__(self, world: World, tell: Tell) -> None:
        self._world = world
        self._tell = tell
        self._stopped = threading.Event()
        self._busy: dict[str, threading.Lock] = defaultdict(threading.Lock)
        """A target is struck again only when it is whole: starting a server may take longer than was planned."""
        self.struck: list[Fault] = []
        self.over: list[tuple[Fault, float]] = []
        """Each with the moment (monotonic) at which it was undone."""
        self.failures: list[str] = []
        """Faults that could not be carried out or undone: defects of the storm itself."""

    def run(self, faults: Sequence[Fault], began: float) -> None:
        """Strike at each fault's time (seconds after ``began``, monotonic); returns when all is undone."""
        threads = []
        for fault in faults:
            if self._stopped.wait(max(0.0, began + fault.at - time.monotonic())):
                break
            thread = threading.Thread(target=self._strike, args=(fault,), name=fault.kind)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Strike no more."""
        self._stopped.set()

    def _strike(self, fault: Fault) -> None:
        self._tell(f"{fault.at:6.1f} s  {fault.kind}" + (f" for {fault.lasts:.1f} s" if fault.lasts else ""))
        try:
            with self._busy[fault.target]:
                _BLOWS[fault.kind](self._world, fault)
            self.struck.append(fault)
            self.over.append((fault, time.monotonic()))
        except Exception as error:  # noqa: BLE001  # told at the end; the storm goes on
            self.failures.append(f"{fault}: {error!r}")


def _kill(world: World, fault: Fault) -> None:
    world.processes[fault.target].kill()


def _pause(world: World, fault: Fault) -> None:
    process = world.processes[fault.target]
    process.signal(signal.SIGSTOP)
    time.sleep(fault.lasts)
    process.signal(signal.SIGCONT)


def _publisher(world: World, fault: Fault) -> None:
    """The process that publishes for the bridge; there is none while the bridge starts."""
    with contextlib.suppress(psutil.NoSuchProcess):  # either has just died
        for process in psutil.Process(world.processes[fault.target].pid).children():
            if fault.kind == "publisher.kill":
                process.kill()
                continue
            process.suspend()
            time.sleep(fault.lasts)
            process.resume()


def _deploy(world: World, fault: Fault) -> None:
    process = world.processes[fault.target]
    process.stop()
    process.start()


def _second_bridge(world: World, fault: Fault) -> None:
    bridge = world.start("second bridge")
    time.sleep(fault.lasts)
    bridge.stop(grace=0.0 if fault.hard else 20.0)


def _switched(world: World, fault: Fault) -> None:
    """A server ended at once, and away for a while."""
    switch = world.servers.switches[fault.target]
    switch.kill()
    time.sleep(fault.lasts)
    switch.start()


_BLOWS: dict[str, Callable[[World, Fault], None]] = {
    "worker.kill": _kill,
    "worker.pause": _pause,
    "worker.deploy": _deploy,
    "bridge.kill": _kill,
    "bridge.pause": _pause,
    "publisher.kill": _publisher,
    "publisher.pause": _publisher,
    "beat.kill": _kill,
    "bridge.second": _second_bridge,
    "redis.flush": lambda world, _: world.servers.flush_redis(),
    "redis.cut": lambda world, _: world.servers.cut_redis(),
    "redis.kill": _switched,
    "redis.hang": lambda world, fault: world.servers.hang_redis(fault.lasts),
    "redis.restart": lambda world, _: world.servers.forget_redis(),
    "postgres.kill": _switched,
    "postgres.restart": lambda world, fault: world.servers.restart_postgres(fault.hard),
    "postgres.cut": lambda world, _: world.servers.cut_postgres(),
    "postgres.full": lambda world, fault: world.servers.fill_postgres(fault.lasts),
    "kafka.kill": _switched,
}
