"""``poetry install`` works: Poetry makes its editable install in its own way, from its own lines in pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.checkout import tracked_files
from tests.packaging.installing import ROOT, bin_of, kept_wheels, run
from tests.packaging.local_index import local_index

POETRY = "poetry>=2.2,<3"  # the first with dependency groups in pyproject.toml


@pytest.fixture(scope="module")
def poetry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Poetry in an environment of its own. It is no part of the lock, so an index has to be reachable for it."""
    environment = tmp_path_factory.mktemp("poetry")
    run(sys.executable, "-m", "venv", environment)
    pip = [str(bin_of(environment) / "python"), "-m", "pip", "--retries", "0", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--only-binary", ":all:", POETRY]
    try:
        answer = subprocess.run(install, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("Poetry could not be fetched within two minutes: is a package index reachable?")
    if answer.returncode != 0:
        pytest.skip(f"Poetry could not be fetched (is a package index reachable?): {answer.stderr.strip()[-300:]}")
    return bin_of(environment) / "poetry"


def test_poetry_installs_the_project(poetry: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"  # Poetry writes commands that do not run from a path with a space
    for file in tracked_files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    settings = {
        "POETRY_VIRTUALENVS_IN_PROJECT": "true",
        "POETRY_CACHE_DIR": str(tmp_path / "cache"),
        "POETRY_CONFIG_DIR": str(tmp_path / "config"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }
    with local_index(kept_wheels(), tmp_path / "index") as url:
        with (copy / "pyproject.toml").open("a") as pyproject:
            pyproject.write(f'\n[[tool.poetry.source]]\nname = "kept"\nurl = "{url}"\npriority = "primary"\n')
        run(poetry, "check", cwd=copy, **settings)
        run(poetry, "install", "--no-interaction", "--without", "test,build", cwd=copy, **settings)

    python = bin_of(copy / ".venv") / "python"
    database = "postgresql://nobody@127.0.0.1:1/none"
    where = "import orchestrator as o, bridge as b, celeryconfig as c; print(o.__file__, b.__file__, c.__file__)"
    assert run(python, "-c", where, cwd=tmp_path, DATABASE_URL=database).count(str(copy)) == 3
    assert "task" in run(python.with_name("orchestrator"), "--help", cwd=tmp_path)
