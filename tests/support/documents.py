"""Documents as tests follow them: their fenced blocks, the files they tell to save, the commands they tell to type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT, clean_environment


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The name in its first line, ``# name.ext``, where it is a file to save."""
        found = re.match(r"# ([\w.-]+\.\w+)\n", self.text)
        return found.group(1) if found else None


def blocks(document: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a document of the project, such as ``docs/adding-an-agent.md``."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [Block(*match) for match in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    return [block for block in found if language in (None, block.language)]


def commands(document: str) -> Iterator[str]:
    """Every command line of its ``bash`` blocks, in order."""
    for block in blocks(document, "bash"):
        yield from (line for line in block.text.splitlines() if line.strip() and not line.startswith("#"))


def save_files(document: str, folder: Path, replacing: Mapping[str, str]) -> list[Path]:
    """Save the files that a document shows, with these texts replaced (a port, for instance)."""
    saved = []
    for block in blocks(document):
        if block.file_name is None:
            continue
        text = block.text
        for old, new in replacing.items():
            text = text.replace(old, new)
        path = folder / block.file_name
        path.write_text(text, encoding="utf-8")
        saved.append(path)
    return saved


def type_in(command: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run a command line in a shell, in an activated environment; gives its output.

    Raises:
        AssertionError: it ended with another exit code than 0.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**clean_environment(), **env, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, f"$ {command}\nended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
