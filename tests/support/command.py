"""Running the `orchestrator` command in a process of its own, as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator import logs
from orchestrator.cli.main import run
from orchestrator.settings import Settings, get_settings
from tests.support.stack import clean_environment


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """The documents on standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def error(self) -> dict[str, Any]:
        """What stands under ``error`` on standard error, with ``--json``."""
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


@dataclass(frozen=True)
class Command:
    """The `orchestrator` command under fixed settings, in an empty folder (so that no .env is read)."""

    env: Mapping[str, str]
    folder: Path

    def __call__(self, *arguments: str, input: bytes | None = None, code: int | None = 0, **env: str) -> Ran:
        """Run it to its end.

        Args:
            input: standard input.
            code: the exit code that it must have; None takes any.
            env: further settings for this run.

        Raises:
            AssertionError: another exit code; both outputs are in the message.
        """
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.folder,
            env={**clean_environment(), **self.env, **env},
            input=input if input is not None else b"",
            capture_output=True,
            check=False,
            timeout=120,
        )
        ran = Ran(ended.returncode, ended.stdout.decode(errors="surrogateescape"), ended.stderr.decode())
        assert code is None or ran.code == code, f"{arguments} ended with {ran.code}\n{ran.out}\n{ran.err}"
        return ran


@dataclass(frozen=True)
class CommandHere:
    """The same within this process, for commands whose model's packages take seconds to import."""

    env: Mapping[str, str]
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, code: int | None = 0) -> Ran:
        """Run it to its end; see `Command`."""
        with self.monkeypatch.context() as here:
            for name in [*settings_names(), "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]:
                here.delenv(name, raising=False)
            for name, value in self.env.items():
                here.setenv(name, value)
            here.chdir(self.folder)
            # Logging is this process's own, and its stream would be closed after the test.
            here.setattr(logs, "configure", lambda settings: logs.mask.add(*settings.secrets()))
            get_settings.cache_clear()
            self.capsys.readouterr()
            try:
                ended = run(arguments)
            finally:
                get_settings.cache_clear()
            told = self.capsys.readouterr()
        ran = Ran(ended, told.out, told.err)
        assert code is None or ran.code == code, f"{arguments} ended with {ran.code}\n{ran.out}\n{ran.err}"
        return ran


def settings_names() -> list[str]:
    """Names of all settings in the environment."""
    return [str(info.alias) for info in Settings.model_fields.values()]
