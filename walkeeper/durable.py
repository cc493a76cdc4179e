"""Every fsync that walkeeper does: whole writes, and names that appear only together with what they name.

Used by the directory store (create-only names) and by restore-wal (names that replace). All raise plain OSError. A failed
fsync is never tried again on the same file: the kernel may have dropped the pages and then reports success.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


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


def write_durably(path: Path, data: bytes | memoryview, *, mode: int = 0o640) -> None:
    """Create ``path``, which must not exist, with all of ``data`` on disk; its name is not durable yet.

    Leaves nothing behind if it fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)


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


def place_by_rename(tmp: Path, dst: Path) -> None:
    """Give a synced file in the same directory its final name, durably, in place of whatever had it."""
    tmp.replace(dst)
    fsync_dir(dst.parent)


def make_directories(root: Path, directory: Path, *, mode: int = 0o750) -> None:
    """Make every directory from ``root``, which exists, down to ``directory``, and all their names durable.

    Also of those that were there: who made them may have died before the fsync.
    """
    here = root
    for part in directory.relative_to(root).parts:
        with contextlib.suppress(FileExistsError):
            (here / part).mkdir(mode)
        fsync_dir(here)
        here /= part


def place(destination: Path, data: bytes) -> None:
    """Put ``data`` where PostgreSQL wants it: whole, or not at all; it may replace what is there.

    Not synced: PostgreSQL syncs what it takes over from here, and asks again after a power loss.
    """
    tmp = destination.with_name(f"{destination.name}.walkeeper.{os.getpid()}")
    tmp.unlink(missing_ok=True)
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        tmp.replace(destination)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    finally:
        os.close(fd)
