"""``python -m bridge rewind``: what was taken is recognised, what is missing is taken in."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from tests.support.intake_seen import accepted, assert_each_taken_once, execute, scalar
from tests.support.processes import clean_environment, wait_for
from tests.support.system import System


def produce(system: System, *task_ids: str) -> None:
    for task_id in task_ids:
        system.produce_task(task_id)
    system.producer.flush()


def rewind(system: System, *arguments: str, code: int = 0) -> Any:
    """Run it with --json; the document, or the error where another exit code is expected."""
    ended = subprocess.run(
        [sys.executable, "-m", "bridge", "rewind", *arguments, "--json"],
        cwd=system.folder,
        env={**clean_environment(), **system.env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout) if code == 0 else json.loads(ended.stderr)["error"]


def lose(system: System, *task_ids: str) -> None:
    """As if PostgreSQL had never heard of them."""
    for table in ("outbox", "context_versions", "task_contexts", "inbox", "tasks"):
        execute(system.store, f"DELETE FROM {table} WHERE task_id = ANY(:lost)", lost=list(task_ids))


def test_what_postgresql_lacks_is_read_again_from_the_beginning_or_a_time(system: System) -> None:
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.reading")
    old = [f"old-{number}" for number in range(10)]
    produce(system, *old)
    wait_for(lambda: accepted(system.store) == 10, what="the old ones are taken in")
    noon = datetime.now(UTC)
    new = [f"new-{number}" for number in range(10)]
    produce(system, *new)
    wait_for(lambda: accepted(system.store) == 20, what="the new ones are taken in")

    refused = rewind(system, "--to-beginning", code=1)
    assert refused["code"] == "not_allowed"
    assert bridge.stop() == 0

    lose(system, *new)
    moved = rewind(system, "--to-time", noon.isoformat(), "--who", "ann", "--why", "a restore")
    behind = [one for one in moved["partitions"] if one["topic"].endswith("tasks")]
    assert sum(one["before"] - one["now"] for one in behind) == 10
    assert moved["group"] is True
    system.start("bridge")
    wait_for(lambda: accepted(system.store) == 20, what="the new ones are taken in again")
    assert_each_taken_once(system.store, [*old, *new])
    assert scalar(system.store, "SELECT who || why FROM audit WHERE what = 'rewind'") == "anna restore"

    system.processes.stop_all()
    lose(system, *old)
    rewind(system, "--topic", "tasks", "--to-beginning")
    system.start("bridge")
    wait_for(lambda: accepted(system.store) == 20, what="the old ones are taken in again")
    assert_each_taken_once(system.store, [*old, *new])


def test_records_are_passed_over_only_where_that_is_said(system: System) -> None:
    bridge = system.start_one("bridge")
    system.processes.wait_for_log(bridge, "bridge.reading")
    produce(system, "read")
    wait_for(lambda: accepted(system.store) == 1, what="it is taken in")
    assert bridge.stop() == 0
    place = scalar(system.store, "SELECT topic || '/' || partition FROM inbox WHERE task_id = 'read'")
    partition = place.rpartition("/")[2]
    for _ in range(3):  # the same key, so the same partition
        system.produce("tasks", b"rubbish", key="read")
    system.producer.flush()

    ahead = ("--topic", "tasks", "--partition", partition, "--to-offset", "4")
    assert "pass over 3 records" in rewind(system, *ahead, code=1)["message"]
    rewind(system, *ahead, "--skip")
    system.start("bridge")
    system.produce("tasks", {"task_id": "after", "task_description": "d", "required_fields": []}, key="read")
    wait_for(lambda: accepted(system.store) == 2, what="what follows is taken in")
    assert system.store.dead_letters() == []


def test_a_wrong_command_line_is_told(system: System) -> None:
    assert rewind(system, code=2)["code"] == "usage"
    assert rewind(system, "--to-offset", "5", code=2)["code"] == "usage"
    assert "offset from UTC" in rewind(system, "--to-time", "2026-11-02T10:00:00", code=2)["message"]
