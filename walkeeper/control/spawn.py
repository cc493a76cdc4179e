"""Starting a walkeeper process that the starter is not the parent of. Light: callbacks and restore-wal do it."""

# ruff: noqa: PTH119, PTH120 - pathlib costs more than all that this program does

from __future__ import annotations

import fcntl
import os
import sys

_SITE = ("site-packages", "dist-packages")


KEPT = 3
"""The number that a descriptor has which is kept open."""


def start(arguments: list[str], log: str, keep: int | None = None) -> None:
    """Run this Python with ``arguments`` in a session of its own, standard output and error to ``log``, which it empties, and
    holds by flock while it lives. Of other descriptors it has ``keep`` alone, as KEPT.

    Raises OSError where nothing can be forked; returns in the caller only, and before the process has done anything.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _become(arguments, log, keep)
    except OSError as error:
        os.write(2, f"walkeeper: WARNING {arguments} cannot be started: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(0)  # also after an error: what follows the call belongs to the caller alone


def _become(arguments: list[str], log: str, keep: int | None) -> None:
    os.chdir("/")
    os.umask(0o077)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    null = os.open(os.devnull, os.O_RDWR)
    kept = null if keep is None else keep
    try:
        out = os.open(log, flags, 0o600)
        fcntl.flock(out, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        out = null
    null, out, kept = _above_standard(null), _above_standard(out), _above_standard(kept)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if keep is not None:
        os.dup2(kept, KEPT)
    os.closerange(KEPT if keep is None else KEPT + 1, 1024)
    program = sys.executable or "/usr/bin/python3"
    os.execve(program, [program, "-P", *arguments], environment())  # noqa: S606 - a list, no shell


def _above_standard(descriptor: int) -> int:
    """A copy above 2: where 0 to 2 were closed, what is opened takes their numbers."""
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    return descriptor


def environment() -> dict[str, str]:
    """So that a new Python finds the package also where it is not installed but only lies there."""
    found = dict(os.environ)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if os.path.basename(root) not in _SITE:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (root, found.get("PYTHONPATH", ""))))
    return found
