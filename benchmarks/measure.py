"""Counting what a run used: processor time and memory by group of processes, commits and WAL of PostgreSQL."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module
import psycopg2

MIB = 1024 * 1024


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def cpu_seconds(pids: list[int]) -> float:
    """Processor time, user and system, of these processes and their descendants, ended ones included."""
    total = 0.0
    for pid in pids:
        for process in _family(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib(pids: list[int]) -> float:
    """Memory of these processes, what they share counted once (PSS)."""
    total = 0
    for pid in pids:
        for process in _family(pid):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total / MIB


@dataclass(slots=True)
class Usage:
    """What happened between the start and the end of `measured`; CPU in seconds, memory in MiB."""

    cpu: dict[str, float] = field(default_factory=dict)
    peak_mib: float = 0.0
    commits: int = 0
    wal_bytes: int = 0
    wal_syncs: int = 0
    calls: int = 0
    """Messages that Redis got commands for, where a broker is measured."""


class Database:
    """PostgreSQL's own counters."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def counters(self) -> Mapping[str, int]:
        """Commits of this database, bytes of WAL and how often it was synced, since the server began to count."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(
                "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),"
                " pg_current_wal_lsn() - '0/0'::pg_lsn,"
                " (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal' AND context = 'normal')"
            )
            row: Any = cursor.fetchone()
        return {"commits": int(row[0]), "wal_bytes": int(row[1]), "wal_syncs": int(row[2] or 0)}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def measured(groups: Mapping[str, list[int]], database: Database, watch_memory_of: str) -> Iterator[Usage]:
    """Measure what happens inside.

    Args:
        groups: name → process ids whose CPU is told apart (a group's descendants count with it).
        database: whose counters are read before and after.
        watch_memory_of: the group whose peak memory is watched, once a second: to look takes time.
    """
    usage = Usage()
    stop = threading.Event()

    def watch() -> None:
        while True:
            usage.peak_mib = max(usage.peak_mib, memory_mib(groups[watch_memory_of]))
            if stop.wait(1.0):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    before_cpu = {name: cpu_seconds(pids) for name, pids in groups.items()}
    before = database.counters()
    watcher.start()
    try:
        yield usage
    finally:
        stop.set()
        watcher.join()
        after = database.counters()
        usage.cpu = {name: cpu_seconds(pids) - before_cpu[name] for name, pids in groups.items()}
        usage.commits = after["commits"] - before["commits"]
        usage.wal_bytes = after["wal_bytes"] - before["wal_bytes"]
        usage.wal_syncs = after["wal_syncs"] - before["wal_syncs"]
