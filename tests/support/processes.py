"""Child processes of tests, each with a log file, and waiting for what they do. A pytest plugin.

    def test_something(orchestrator_env, processes):
        worker = processes.start("worker", [sys.executable, "-m", "celery", …], env=orchestrator_env, until="ready")
        wait_for(lambda: …, what="the task is finished")

Fixtures: ``processes`` (all stopped at the test's end, also when it fails; the ends of their logs are then shown) and
``keeper``; functions: `wait_for`, `clean_environment`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own, for this one module
import pytest

from orchestrator.devstack.keeper import Keeper
from orchestrator.devstack.process import ManagedProcess, Restart
from orchestrator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found], timeout: float = 20.0, what: str = "the condition", every: float = 0.02
) -> Found:
    """Ask again and again until ``condition()`` is true, and return its value.

    Raises:
        AssertionError: it is not after ``timeout`` seconds; the message says ``what`` and the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        time.sleep(every)


def gone(process: psutil.Process) -> bool:
    """Whether it has ended, also where its parent has not asked yet how."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def clean_environment() -> dict[str, str]:
    """This process's environment without any setting of the project, and with the checkout importable."""
    settings = {str(field.alias) for field in Settings.model_fields.values()}
    kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in settings}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Processes:
    """Child processes of one test. All are stopped at its end; their logs' ends are shown where it fails."""

    def __init__(self, keeper: Keeper, folder: Path) -> None:
        self._keeper = keeper
        self._folder = folder
        self._started: list[ManagedProcess] = []

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        restart: Restart | None = None,
        grace: float = 5.0,
        until: str | None = None,
        timeout: float = 60.0,
    ) -> ManagedProcess:
        """Start a program.

        Args:
            env: settings, added to `clean_environment`.
            restart: how it is started again when it ends by itself; None leaves it ended.
            grace: seconds it gets to end after SIGTERM at the end of the test.
            until: wait until its log contains this text (or it has ended: then the test fails).
        """
        number = len(self._started)
        process = ManagedProcess(
            self._keeper,
            name,
            argv,
            env={**clean_environment(), **(env or {})},
            log=self._folder / f"{number:02d}-{name}.log",
            cwd=cwd,
            restart=restart,
            grace=grace,
        )
        process.start()
        self._started.append(process)
        if until is not None:
            self.wait_for_log(process, until, timeout)
        return process

    def python(
        self, name: str, *args: str, env: Mapping[str, str] | None = None, until: str | None = None
    ) -> ManagedProcess:
        """Start ``python ARGS…``, for instance ``python("bridge", "-m", "bridge", env=…)``."""
        return self.start(name, [sys.executable, *args], env=env, until=until)

    def wait_for_log(self, process: ManagedProcess, text: str, timeout: float = 60.0) -> None:
        """Wait until a process has logged ``text``; fails at once where it ends without."""
        wait_for(lambda: text in process.log_text() or not process.running, timeout, f"{process.name} logs {text!r}")
        assert text in process.log_text(), f"{process.name} ended ({process.exit_code}) without logging {text!r}"

    def stop_all(self) -> None:
        """Stop them, those started last first."""
        for process in reversed(self._started):
            process.stop()

    def log_tails(self, lines: int = 60) -> list[tuple[str, str]]:
        """Name and last lines of each process's log."""
        return [(process.name, process.log_tail(lines)) for process in self._started]


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """Starts this pytest process's children; none of them outlives it."""
    running = Keeper(f"tests-{os.getpid()}", tmp_path_factory.mktemp("keeper") / "keeper.log")
    yield running
    running.close()


@pytest.fixture
def processes(keeper: Keeper, tmp_path: Path) -> Iterator[Processes]:
    """Start programs; see `Processes`."""
    folder = tmp_path / "logs"
    folder.mkdir()
    started = Processes(keeper, folder)
    yield started
    started.stop_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the logs with a failure."""
    report = yield
    started = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(started, Processes):
        report.sections.extend((f"end of the log of {name}", tail) for name, tail in started.log_tails())
    return report
