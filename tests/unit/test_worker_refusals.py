"""Pools that a worker refuses before it takes a message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT, clean_environment

PROBE = "from orchestrator.worker.signals import refuse_what_cannot_work as r; r(options={'pool_cls': %r})"


@pytest.mark.parametrize("pool", ["celery.concurrency.gevent:TaskPool", "eventlet"])
def test_green_pools_are_refused_with_what_to_do_instead(pool: str) -> None:
    """In a process of its own: a worker ends there."""
    ended = subprocess.run(
        [sys.executable, "-c", PROBE % pool],
        env={**clean_environment(), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "is refused" in ended.stderr
    assert "--autoscale" in ended.stderr
    assert "Traceback" not in ended.stderr
