"""The fixtures that give each test servers, names and processes of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer

from orchestrator.devstack.stack import EmbeddedStack
from tests.support.processes import Processes, clean_environment, wait_for
from tests.support.stack import KafkaTopics, SharedStack

INNER_PLUGINS = ["-p", "tests.support.processes", "-p", "tests.support.stack", "-p", "no:cacheprovider"]


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_an_empty_database_of_its_own(empty_database_url: str, round_: int) -> None:
    _query(empty_database_url, "CREATE TABLE only_one (id int)")  # a second test in the same database would fail here
    assert _query(empty_database_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_a_migrated_database_of_its_own(database_url: str, round_: int) -> None:
    assert _query(database_url, "SELECT count(*) FROM tasks") == [(0,)]
    _query(database_url, "CREATE TABLE only_one (id int)")


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_an_empty_redis_of_its_own(redis_url: str, round_: int) -> None:
    with redis.Redis.from_url(redis_url) as own:
        assert own.keys() == []
        own.set("mine", "1")


def test_redis_refuses_who_has_no_password(stack: SharedStack) -> None:
    with redis.Redis.from_url(f"redis://{stack.valkey}/0") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_records_come_back_from_this_tests_topics(kafka_topics: KafkaTopics) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_topics.bootstrap_servers)
    producer.send(kafka_topics.tasks, key=b"k", value=b'{"a": 1}').get(timeout=10)
    producer.close()
    consumer = KafkaConsumer(
        kafka_topics.tasks,
        bootstrap_servers=kafka_topics.bootstrap_servers,
        group_id=kafka_topics.group_id,
        auto_offset_reset="earliest",
        session_timeout_ms=2_000,
        heartbeat_interval_ms=500,
        enable_auto_commit=False,
    )
    try:
        records = wait_for(lambda: consumer.poll(timeout_ms=200), what="the record arrives")
    finally:
        consumer.close()
    assert [json.loads(record.value) for batch in records.values() for record in batch] == [{"a": 1}]


def test_a_process_gets_the_settings_of_its_test_and_no_others(
    processes: Processes, orchestrator_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the developer")
    monkeypatch.setenv("DATABASE_URL_FILE", "/of/the/developer")
    assert {"OPENAI_API_KEY", "DATABASE_URL_FILE"}.isdisjoint(clean_environment())
    script = "import os, json; print(json.dumps(dict(os.environ)))"
    process = processes.python("show", "-c", script, env=orchestrator_env)
    assert process.wait(20) == 0
    seen = json.loads(process.log_text())
    assert orchestrator_env.items() <= seen.items()
    assert "OPENAI_API_KEY" not in seen


def test_waiting_for_a_log_ends_when_the_process_does(processes: Processes) -> None:
    with pytest.raises(AssertionError, match=r"ended \(3\) without logging 'ready'"):
        processes.python("broken", "-c", "raise SystemExit(3)", until="ready")


def test_waiting_says_what_for() -> None:
    with pytest.raises(AssertionError, match="pigs fly"):
        wait_for(lambda: 0, timeout=0.05, what="pigs fly")


def test_a_failing_test_stops_its_processes_and_shows_their_logs(processes: Processes, tmp_path: Path) -> None:
    """Runs pytest on a test that fails with a process running."""
    (tmp_path / "test_inner.py").write_text(
        "import sys\n"
        "def test_fails(processes):\n"
        "    worker = processes.python('worker', '-c', "
        "'import os, signal; print(\"I am\", os.getpid(), \"!\", flush=True); signal.pause()', until='!')\n"
        "    raise RuntimeError('as intended')\n"
    )
    inner = processes.start(
        "pytest",
        [sys.executable, "-m", "pytest", *INNER_PLUGINS, str(tmp_path)],
        cwd=tmp_path,
    )
    assert inner.wait(60) == 1
    output = inner.log_text()
    assert "end of the log of worker" in output
    pid = output.split("I am ")[1].split()[0]
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_test_run_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(
        "import os, signal\n"
        "def test_stays(stack, processes):\n"
        "    processes.python('worker', '-c', 'import signal; signal.pause()')\n"
        "    print('folder:', os.environ['ORCHESTRATOR_TEST_RUN'], ':', flush=True)\n"
        "    signal.pause()\n"
    )
    # Not by `processes`: its keeper would clear up itself.
    inner = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", *INNER_PLUGINS, str(tmp_path)],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with inner:
        assert inner.stdout is not None
        said = next(line for line in inner.stdout if "folder: " in line)
        folder = Path(said.split("folder: ")[1].split(" :")[0])
        assert _command_lines_with(str(folder).encode()), "the servers run"
        inner.kill()
    wait_for(lambda: not _command_lines_with(str(folder).encode()), 20, "the host and the servers are gone")
    wait_for(lambda: not folder.exists(), 20, "the run's folder is gone")


def _command_lines_with(text: bytes) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (process / "cmdline").read_bytes():
                found.append(process)
    return found


def test_a_private_stack_may_be_killed(private_stack: EmbeddedStack, stack: SharedStack) -> None:
    assert private_stack.postgres.address != stack.postgres
    url = private_stack.env()["REDIS_URL"]
    with redis.Redis.from_url(url) as valkey:
        valkey.set("kept", "1")
        private_stack.valkey.kill()
        with pytest.raises(redis.ConnectionError):
            valkey.ping()
        private_stack.valkey.start()
        assert private_stack.env()["REDIS_URL"] == url
        assert valkey.get("kept") == b"1"
