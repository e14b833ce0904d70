"""Prepare ``.venv`` for a checkout: everything that ``make`` needs, from the hashes in ``requirements.lock``.

Run by every target of the Makefile, so its usual job is to find in a few milliseconds that nothing is to be done.
It uses the standard library only, because it runs before anything is installed.

What it promises:

* Packages are installed only when their hash is in the lock, and only as wheels: no code of theirs runs meanwhile.
* Wheels are kept in a folder of their own, so that a second checkout, or a rebuilt ``.venv``, needs no network.
* Two runs at the same time wait for one another; a run that was killed half-way is simply done again.

Belongs here: making the environment. Running anything in it belongs into the Makefile.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK = CHECKOUT / "requirements.lock"
OLDEST_PYTHON = (3, 11)
STAMP = "setup.json"
LOG_LINES_SHOWN = 25

# A user's own pip settings of these kinds would send the packages somewhere else than into the environment.
PIP_SETTINGS_IN_THE_WAY = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PYTHONHOME")


class SetupError(Exception):
    """Set-up cannot go on; the text says what happened and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Make the environment ready; return the exit code."""
    parser = argparse.ArgumentParser(description="Prepare the virtual environment of this checkout.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="folder of the environment (default: .venv)")
    parser.add_argument("--again", action="store_true", help="make the environment anew even if nothing has changed")
    options = parser.parse_args(arguments)
    venv = CHECKOUT / options.venv
    try:
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(f"Python {version_of(OLDEST_PYTHON)} or newer is needed; {sys.executable} is older.")
        wanted = fingerprint(venv)
        if not os.environ.get("PYTHON"):
            # Nobody asked for this Python: an environment that was made with another one will do.
            wanted["python"] = stamp(venv).get("python", wanted["python"])
        if not options.again and is_ready(venv, wanted):
            return 0
        with only_one_at_a_time(venv.with_name(f"{venv.name}.lock"), "another set-up of this checkout"):
            if options.again or not is_ready(venv, wanted):
                prepare(venv, wanted, whole=options.again or not has_packages(venv, wanted))
    except SetupError as error:
        say(f"set-up failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("set-up stopped; run the same command again to go on.")
        return 130
    return 0


def prepare(venv: Path, wanted: dict[str, str], *, whole: bool) -> None:
    """Fill the environment from the lock (``whole``, anew), add the project itself, and stamp it as done."""
    started = time.monotonic()
    log = venv / "setup.log"
    if whole:
        wanted["python"] = version_of(sys.version_info[:2])
        say(f"Setting up {shown(venv)} with Python {sys.version.split()[0]} (once; later runs skip this)")
        create_environment(venv)
        install_packages(venv, log)
        write_stamp(venv, wanted | {"project": "not installed yet"})
    install_project(venv, log)
    write_stamp(venv, wanted)
    say(f"Ready after {time.monotonic() - started:.0f} s")


# --- what is wanted, and whether it is there ---------------------------------------------------------------------


def fingerprint(venv: Path) -> dict[str, str]:
    """Tell what an up-to-date environment was made from; any difference means making it again."""
    if not LOCK.is_file():
        raise SetupError(f"{LOCK.name} is missing: this is not a whole checkout. Fetch it again with git.")
    return {
        "lock": digest(LOCK),
        "project": digest(CHECKOUT / "pyproject.toml"),
        "script": digest(Path(__file__)),
        "venv": str(venv),  # an environment that was moved still points to its old place
        "python": version_of(sys.version_info[:2]),
        "platform": sysconfig.get_platform(),
    }


def is_ready(venv: Path, wanted: dict[str, str]) -> bool:
    """Return whether the environment was finished from exactly what is wanted now, and can be run by this user."""
    return has_packages(venv, wanted) and stamp(venv) == wanted and (venv / "bin" / "orchestrator").exists()


def has_packages(venv: Path, wanted: dict[str, str]) -> bool:
    """Return whether all packages are there as wanted, so that at most the project itself is to be installed again."""
    found = stamp(venv)
    if any(found.get(key) != value for key, value in wanted.items() if key != "project"):
        return False
    return os.access(venv / "bin" / "python", os.X_OK)


def stamp(venv: Path) -> dict[str, str]:
    """Return what the environment was made from; nothing where it was not finished, or not made by this script."""
    if venv.exists() and not os.access(venv / "bin" / "python", os.X_OK) and not os.access(venv, os.W_OK):
        raise SetupError(
            f"{venv} was made by another user. Remove it, or name a folder of your own: make VENV=.venv-mine ..."
        )
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((venv / STAMP).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- the steps ---------------------------------------------------------------------------------------------------


def install_packages(venv: Path, log: Path) -> None:
    """Install the lock: from wheels kept by an earlier set-up alone if they suffice, else after fetching what lacks."""
    cache = cache_folder()
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with only_one_at_a_time(cache / "wheels.lock", "another checkout that fetches packages"):
        if install_from_kept_wheels(venv, wheels, log):
            return
        fetch_wheels(venv, wheels, log)
        if not install_from_kept_wheels(venv, wheels, log):
            give_up("the packages could not be installed", log)


def create_environment(venv: Path) -> None:
    """Make a new, empty environment with pip in it, in place of whatever was there."""
    if not os.access(venv.parent, os.W_OK):
        raise SetupError(f"{venv.parent} is not writable for you: clone the project into a folder of your own.")
    say("  creating the environment")
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False
    )
    if answer.returncode == 0:
        return
    told = (answer.stdout + answer.stderr).strip()
    if "ensurepip" in told:
        version = version_of(sys.version_info[:2])
        raise SetupError(
            f"{sys.executable} has no venv and pip (Debian and Ubuntu ship them apart: "
            f"`apt install python{version}-venv`). Another Python can be named: make PYTHON=/path/to/python3 …"
        )
    raise SetupError(f"{sys.executable} -m venv failed:\n{told}")


def install_from_kept_wheels(venv: Path, wheels: Path, log: Path) -> bool:
    """Install everything in the lock from the wheels kept here, without any network; return whether all were there."""
    if not any(wheels.glob("*.whl")):
        return False
    say(f"  installing {package_count()} packages from {shown(wheels)}")
    source = ["--no-index", "--find-links", wheels.as_uri()]
    return run_pip(venv, log, "install", *source, "--no-deps", "--no-compile", *from_lock()) == 0


def fetch_wheels(venv: Path, wheels: Path, log: Path) -> None:
    """Download the wheels of the lock which are not here yet; say what to do when that fails."""
    say(f"  fetching {package_count()} packages (about 120 MB, kept in {shown(wheels)})")
    # The kept wheels are offered too: those that are right need no second download.
    kept = ["--find-links", wheels.as_uri(), "--dest", str(wheels)]
    if run_pip(venv, log, "download", *kept, "--no-deps", *from_lock(), progress="Collecting ") != 0:
        give_up("the packages could not be fetched. Is the package index reachable (pip's own settings are used)?", log)


def install_project(venv: Path, log: Path) -> None:
    """Install the checkout itself, editable, with its command; its build tool comes from the lock: no network."""
    say("  installing the project itself")
    where = ["--no-index", "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT)]
    if run_pip(venv, log, "install", *where) != 0:
        give_up("the project could not be installed", log)


def from_lock() -> list[str]:
    """Return pip's arguments for: exactly the lock, hashes checked, wheels only."""
    return ["--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)]


def package_count() -> int:
    """Return about how many packages the lock names (some are for other systems)."""
    return sum(1 for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line and not line[0].isspace())


# --- running pip -------------------------------------------------------------------------------------------------


def run_pip(venv: Path, log: Path, *arguments: str, progress: str | None = None) -> int:
    """Run the environment's pip, its output going to the log; count the lines starting with ``progress``."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    # Nothing may come from a user's own site-packages, and no answer to a question is ever awaited.
    environment = {key: value for key, value in os.environ.items() if key not in PIP_SETTINGS_IN_THE_WAY}
    environment |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as written:
        written.write(f"$ pip {' '.join(arguments)}\n")
        written.flush()
        with subprocess.Popen(  # noqa: S603 - our own environment's pip
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as pip:
            assert pip.stdout is not None  # noqa: S101 - a pipe was asked for above
            copy_and_count(pip.stdout, written, progress)
    return pip.returncode


def copy_and_count(lines: IO[str], log: IO[str], progress: str | None) -> None:
    """Copy pip's output to the log; show how far it is: on a terminal in one line, else now and then."""
    total, count, terminal = package_count(), 0, sys.stderr.isatty()
    for line in lines:
        log.write(line)
        if progress is None or not line.startswith(progress):
            continue
        count += 1
        name = line.removeprefix(progress).split("==")[0].strip()
        if terminal:
            print(f"\r\x1b[K    {count} of {total}  {name}", end="", file=sys.stderr, flush=True)  # noqa: T201
        elif count % 25 == 0:
            say(f"    {count} of {total}")
    if terminal and count:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201


def give_up(what: str, log: Path) -> NoReturn:
    """Raise with the end of the log, where pip says why."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    end = "\n".join(f"    {line}" for line in lines[-LOG_LINES_SHOWN:])
    raise SetupError(f"{what}\n{end}\n  The whole log: {log}")


# --- small things ------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return a writable folder for what outlives this checkout; one inside the checkout where no home is writable."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    for folder in (Path(home) / "agent-orchestrator", CHECKOUT / ".cache"):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    raise SetupError(f"no folder for packages: neither {home} nor {CHECKOUT} is writable. Set XDG_CACHE_HOME.")


@contextlib.contextmanager
def only_one_at_a_time(path: Path, other: str) -> Iterator[None]:
    """Hold a lock on a file while the block runs; the system lets go of it when this process ends, however it ends."""
    try:
        handle = path.open("a")
    except OSError as error:
        raise SetupError(f"{path} cannot be written ({error.strerror}): is this checkout yours?") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  waiting for {other}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_stamp(venv: Path, made_from: dict[str, str]) -> None:
    """Note what the environment was made from, so that a reader sees all of it or nothing."""
    part = venv / f"{STAMP}.part"
    part.write_text(json.dumps(made_from, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(venv / STAMP)


def version_of(version: tuple[int, ...]) -> str:
    """Return ``3.11`` for ``(3, 11)``."""
    return ".".join(str(part) for part in version)


def shown(path: Path) -> str:
    """Return a path as a person would write it."""
    for base, prefix in ((CHECKOUT, ""), (Path("~").expanduser(), "~/")):
        with contextlib.suppress(ValueError):
            return f"{prefix}{path.relative_to(base)}"
    return str(path)


def say(text: str) -> None:
    """Tell the person who waits; stderr keeps the output of the command itself clean."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
