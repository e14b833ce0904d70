"""Striking: each planned fault at its time, in a thread of its own, undone after its time."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence

import psycopg2
import redis

from tests.chaos.plan import Fault
from tests.chaos.world import World

Tell = Callable[[str], None]


class Striker:
    """Carries a plan out."""

    def __init__(self, world: World, tell: Tell) -> None:
        self._world = world
        self._tell = tell
        self._stopped = threading.Event()
        self.struck: list[Fault] = []
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
            _BLOWS[fault.kind](self._world, fault)
            self.struck.append(fault)
        except Exception as error:  # noqa: BLE001  # told at the end; the storm goes on
            self.failures.append(f"{fault}: {error!r}")


def _kill(world: World, fault: Fault) -> None:
    world.processes[fault.target].kill()


def _pause(world: World, fault: Fault) -> None:
    process = world.processes[fault.target]
    process.signal(signal.SIGSTOP)
    time.sleep(fault.lasts)
    process.signal(signal.SIGCONT)


def _deploy(world: World, fault: Fault) -> None:
    process = world.processes[fault.target]
    process.stop()
    process.start()


def _second_bridge(world: World, fault: Fault) -> None:
    bridge = world.start("second bridge")
    time.sleep(fault.lasts)
    bridge.stop(grace=0.0 if fault.hard else 20.0)


def _redis(world: World) -> redis.Redis:
    return redis.Redis.from_url(world.stack.valkey.url(), socket_timeout=10)


def _flush(world: World, fault: Fault) -> None:
    with contextlib.suppress(redis.ConnectionError), _redis(world) as client:
        client.flushall()


def _cut_redis(world: World, fault: Fault) -> None:
    with contextlib.suppress(redis.ConnectionError), _redis(world) as client:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def _hang_redis(world: World, fault: Fault) -> None:
    process = world.stack.valkey.process
    process.signal(signal.SIGSTOP)
    time.sleep(fault.lasts)
    process.signal(signal.SIGCONT)


def _kill_redis(world: World, fault: Fault) -> None:
    world.stack.valkey.kill()
    time.sleep(fault.lasts)
    world.stack.valkey.start()


def _kill_postgres(world: World, fault: Fault) -> None:
    world.stack.postgres.kill()
    time.sleep(fault.lasts)
    world.stack.postgres.start()


def _restart_postgres(world: World, fault: Fault) -> None:
    world.stack.postgres.stop()
    world.stack.postgres.start()


def _cut_postgres(world: World, fault: Fault) -> None:
    admin = psycopg2.connect(world.stack.postgres.admin_url(), connect_timeout=5)
    try:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'orchestrator'")
    finally:
        admin.close()


def _kill_kafka(world: World, fault: Fault) -> None:
    world.kafka.kill()
    time.sleep(fault.lasts)
    world.kafka.start()


_BLOWS: dict[str, Callable[[World, Fault], None]] = {
    "worker.kill": _kill,
    "worker.pause": _pause,
    "worker.deploy": _deploy,
    "bridge.kill": _kill,
    "bridge.pause": _pause,
    "beat.kill": _kill,
    "bridge.second": _second_bridge,
    "redis.flush": _flush,
    "redis.cut": _cut_redis,
    "redis.kill": _kill_redis,
    "redis.hang": _hang_redis,
    "postgres.kill": _kill_postgres,
    "postgres.restart": _restart_postgres,
    "postgres.cut": _cut_postgres,
    "kafka.kill": _kill_kafka,
}
