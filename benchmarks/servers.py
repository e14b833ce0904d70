"""What the contenders stand on: PostgreSQL with its default durability, Valkey, the agent; and their processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks import work
from orchestrator.devstack.stack import EmbeddedStack


class Bench:
    """The servers of one run, and a folder for its files."""

    def __init__(self, stack: EmbeddedStack, folder: Path, agent: subprocess.Popen[str], agent_url: str) -> None:
        self.stack = stack
        self.folder = folder
        self.agent = agent
        self.agent_url = agent_url
        self.database_url = stack.env()["DATABASE_URL"]
        with psycopg2.connect(self.database_url) as connection, connection.cursor() as cursor:
            cursor.execute(work.PREPARE)

    def pids(self, server: str) -> list[int]:
        """Process id of one of the servers."""
        return [process.pid for process in self.stack.processes if process.name == server]

    def settings(self, **extra: str) -> dict[str, str]:
        """Environment of the orchestrator's processes."""
        return {
            **self.stack.env(),
            "ORCHESTRATOR_MODEL": "rules:",
            "ORCHESTRATOR_AGENTS": str(self.folder / "agents.json"),
            "ORCHESTRATOR_LOG_LEVEL": "WARNING",
            **extra,
        }

    def use_agents(self, delay: float) -> None:
        """Write the registry: agents that answer after so many seconds. JSON is YAML too."""
        (self.folder / "agents.json").write_text(json.dumps(work.agents_yaml(self.agent_url, delay)))

    def start(self, module: str, *arguments: Any, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a contender's program, whose last line of output is its figures (`figures`)."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.Popen(command, cwd=work.ROOT, env=dict(env), stdout=subprocess.PIPE, text=True)

    @contextmanager
    def workers(self, *argv: Sequence[str], env: Mapping[str, str], until: str) -> Iterator[list[int]]:
        """Celery workers for as long as the context lasts; gives their process ids once each has logged ``until``."""
        started: list[tuple[subprocess.Popen[bytes], Path]] = []
        try:
            for number, arguments in enumerate(argv):
                log = self.folder / f"worker-{len(list(self.folder.glob('worker-*')))}-{number}.log"
                with log.open("wb") as written:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "celery", *arguments],
                        cwd=work.ROOT,
                        env=dict(env),
                        stdout=written,
                        stderr=subprocess.STDOUT,
                    )
                started.append((process, log))
            for process, log in started:
                _wait_for(process, log, until)
            yield [process.pid for process, _ in started]
        finally:
            for process, _ in started:
                process.terminate()
            for process, _ in started:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def bench_servers() -> Iterator[Bench]:
    """Start everything, give it, stop everything."""
    with (
        tempfile.TemporaryDirectory(prefix="orchestrator bench ") as folder,
        # Default durability: this is what is compared.
        EmbeddedStack(Path(folder) / "stack", restart=None) as stack,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.agent"],
            cwd=work.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as agent,
    ):
        assert agent.stdout is not None
        url = agent.stdout.readline().split()[1]
        yield Bench(stack, Path(folder), agent, url)
        agent.terminate()


def _wait_for(process: subprocess.Popen[bytes], log: Path, until: str) -> None:
    give_up_at = time.monotonic() + 60
    while until not in log.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"a worker did not get ready; its log:\n{log.read_text()[-3000:]}")
        time.sleep(0.05)


def figures(program: subprocess.Popen[str]) -> dict[str, Any]:
    """What a contender's program reported; waits for its end.

    Raises:
        RuntimeError: it failed.
    """
    output, _ = program.communicate()
    if program.returncode != 0:
        raise RuntimeError(f"{program.args!r} ended with {program.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found
