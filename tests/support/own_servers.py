"""Servers of one test alone, to be ended, filled up or set back, and the product on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.devstack.stack import EmbeddedStack
from orchestrator.store import PostgresStore, make_engine
from orchestrator.store.migrate import upgrade
from tests.support.system import System


@contextmanager
def own_servers(folder: Path, **postgres_options: str) -> Iterator[EmbeddedStack]:
    """Servers that nobody starts again, for as long as the context lasts."""
    stack = EmbeddedStack(folder / "stack", postgres_options=postgres_options, restart=None)
    try:
        stack.start()
        yield stack
    finally:
        stack.destroy()


@contextmanager
def product_on(stack: EmbeddedStack, system: System, **settings: str) -> Iterator[System]:
    """The product on those servers with these settings; its processes are stopped afterwards."""
    system.env |= {**stack.env(), "KAFKA_SESSION_TIMEOUT": "2", **settings}
    url = stack.postgres.url()
    upgrade(url)
    found = System(system.env, system.processes, system.folder, PostgresStore(make_engine(url)))
    yield found
    system.processes.stop_all()
    found.close()
