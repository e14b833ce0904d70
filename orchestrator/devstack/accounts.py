"""Who PostgreSQL runs as, and where its files can lie for that account.

PostgreSQL refuses to run as root and wants its user to have a name. An ordinary user runs it as it is. Root runs it in
a user namespace that shows root under another number: the files stay root's. Where namespaces are forbidden (most
containers), root becomes ``nobody``, and data and programs lie where ``nobody`` can reach them.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
from pathlib import Path

from orchestrator.devstack.keeper import Keeper, RunAs
from orchestrator.errors import DevStackError

_REACHABLE = Path("/var/tmp")  # noqa: S108 - what we make there is root's own folder, checked before use


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        for account in pwd.getpwall():
            if account.pw_uid != 0:
                return account
    raise DevStackError(
        "PostgreSQL does not run as root, and this machine has no other account",
        hint="Add a user and run as it: useradd orchestrator.",
    )


def account_for_postgres(keeper: Keeper, *, namespaces: bool = True) -> RunAs | None:
    """Who PostgreSQL runs as; None: as we are.

    Args:
        namespaces: False acts as if user namespaces were forbidden.

    Raises:
        DevStackError: no way is open.
    """
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return None
    nobody = _nobody()
    inside = RunAs("namespace", nobody.pw_uid, nobody.pw_gid)
    if namespaces and keeper.can_become(inside):
        return inside
    if uid == 0:
        return RunAs("user", nobody.pw_uid, nobody.pw_gid)
    raise DevStackError(
        f"PostgreSQL wants its user to have a name; user {uid} is not in the list of accounts, "
        "and user namespaces are forbidden here",
        hint="Run as a user that /etc/passwd lists.",
    )


def can_reach(path: Path, account: RunAs) -> bool:
    """Whether ``account`` may go through every folder down to ``path`` and read what is there."""
    path = path.resolve()
    return all(_may(folder, account, stat.S_IXOTH) for folder in path.parents) and _may(
        path, account, stat.S_IROTH | stat.S_IXOTH
    )


def _may(path: Path, account: RunAs, bits: int) -> bool:
    """Whether the mode of ``path`` grants ``bits`` (those of "other", shifted for owner and group)."""
    try:
        status = path.stat()
    except OSError:
        return False
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
    return (status.st_mode & (bits << shift)) == bits << shift


def reachable_folder(folder: Path, account: RunAs) -> Path:
    """``folder``, opened for passing through where that makes it reachable for ``account``; else a stand-in for it.

    The stand-in lies in /var/tmp and is ours. Files that are nobody else's business have their own modes.

    Args:
        folder: a server's folder inside the stack's data folder.

    Raises:
        DevStackError: somebody else made the stand-in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stack_folder = folder.resolve().parent
    if all(_may(parent, account, stat.S_IXOTH) for parent in stack_folder.parents):
        stack_folder.chmod(0o711)
        folder.chmod(0o711)
        return folder
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    stand_in = _REACHABLE / f"agent-orchestrator-{digest}"
    stand_in.mkdir(exist_ok=True, mode=0o711)
    status = stand_in.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise DevStackError(
            f"{stand_in} is not ours: it belongs to user {status.st_uid}",
            hint="Remove it, or take another data folder.",
        )
    stand_in.chmod(0o711)
    return stand_in


def owned_folder(folder: Path, account: RunAs) -> Path:
    """``folder``, made where it is missing, with everything in it given to ``account`` and closed to others."""
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.stat().st_uid != account.uid:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return folder


def readable_copy(source: Path, companions: Path, target: Path) -> Path:
    """A copy of PostgreSQL's programs below ``target``, open to all. Made once; ``companions`` are its libraries.

    The libraries keep their place relative to the programs, by which these find them.
    """
    relative = source.relative_to(companions.parent)
    copy = target / relative
    if not copy.exists():
        unfinished = target.with_name(target.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished / relative)
        if companions.is_dir():
            shutil.copytree(companions, unfinished / companions.name)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    return copy
