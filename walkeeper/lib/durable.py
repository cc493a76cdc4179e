"""Whole writes, and names that appear only together with what they name.

Used by the directory store (create-only names, durable) and by restore-wal (names that replace, which PostgreSQL makes
durable). All raise plain OSError. A failed fsync is never tried again on the same file: the kernel may have dropped the
pages and then reports success.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PLACED: Final = ".walkeeper."


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write until everything is written: a short write is normal, one of nothing is an error."""
    left = memoryview(data)
    while left:
        written = os.write(fd, left)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        left = left[written:]


def fsync_dir(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> None:
    """Make everything durable that was written on the file system of that file, ours or not: one call instead of one a file."""
    import ctypes  # noqa: PLC0415 - seldom needed

    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def publish_by_link(tmp: Path, dst: Path) -> None:
    """Give a synced file its final name, durably, unless that name is taken; ``tmp`` is gone in both cases.

    Raises FileExistsError for a taken name, after making that name durable: its owner may not have come to it yet. If the
    last step fails the name is there and not known to be durable; whoever comes next syncs it again.
    """
    try:
        os.link(tmp, dst)
    except FileExistsError:
        tmp.unlink(missing_ok=True)
        fsync_dir(dst.parent)
        raise
    tmp.unlink(missing_ok=True)
    fsync_dir(dst.parent)


def make_directories(root: Path, directory: Path, *, mode: int) -> None:
    """Make every directory from ``root``, which exists, down to ``directory``, and all their names durable.

    Also of those that were there: who made them may have died before the fsync.
    """
    here = root
    for part in directory.relative_to(root).parts:
        with contextlib.suppress(FileExistsError):
            (here / part).mkdir(mode)
        fsync_dir(here)
        here /= part


def place(
    destination: Path, data: bytes, still_wanted: Callable[[], bool] = lambda: True, *, synced: bool = False
) -> bool:
    """Put ``data`` where PostgreSQL wants it: whole, or not at all; it may replace what is there.

    False, and nothing is there, if it is no longer wanted when it could get its name. Not synced: PostgreSQL syncs what it
    takes over from here, and asks again after a power loss. What killed processes left beside it is removed.
    """
    tmp = lay_ready(destination, data, os.getpid(), synced=synced)
    try:
        if not still_wanted():
            return False
        tmp.replace(destination)
        return True
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def keep(destination: Path, data: bytes) -> None:
    """As place, and durable when this returns; a power loss before that leaves what was there, or all of it."""
    place(destination, data, synced=True)
    fsync_dir(destination.parent)


def lay_ready(destination: Path, data: bytes, pid: int, *, synced: bool = False) -> Path:
    """``data`` under a name beside ``destination``, for process ``pid`` to rename; removed later if that one has died."""
    _sweep(destination)
    tmp = destination.with_name(f"{destination.name}{_PLACED}{pid}")
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        if synced:
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    finally:
        os.close(fd)
    return tmp


def hand_over(ready: Path, destination: Path, pid: int, *, moves: bool) -> Path:
    """As lay_ready, with the file ``ready``, which is gone then. ``moves``: it gets there by a rename.

    Raises FileNotFoundError if there is no such file.
    """
    if not moves:
        tmp = lay_ready(destination, ready.read_bytes(), pid)
        ready.unlink()
        return tmp
    _sweep(destination)
    return ready.rename(destination.with_name(f"{destination.name}{_PLACED}{pid}"))


def _sweep(destination: Path) -> None:
    """Where it cannot be removed it does no harm but for the room it takes."""
    prefix = destination.name + _PLACED
    with os.scandir(destination.parent) as scan:
        left = [entry for entry in scan if entry.name.startswith(prefix)]
    for entry in left:
        pid = entry.name.removeprefix(prefix)
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()
