"""Markers: how the shell script ``walkeeper-archive-push`` knows that a segment is archived, without asking anybody.

::

    <run directory>/archived/<configuration, + for />/<pid>-<start of the server>/
        <segment>          mtime + 1 ns
        <segment>.before   mtime - 1 ns

A marker says: the archive provably has the file of that name, of that run of that server, as it was with the modification
time that lies between the two. The shell compares the times of three files, so no clock is involved, and a file that was
changed, replaced or used again falls through to the slow way, as does everything that is missing. Each directory from
``archived`` on is ours alone and not a link, which the shell looks at, too: nobody else can say that something is archived (P16).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Final

from walkeeper.control.paths import RunDirectoryError, own_directory
from walkeeper.core.receipt import Receipt
from walkeeper.postgres.wal_file import TICK_NS

ARCHIVED: Final = "archived"
BEFORE: Final = ".before"
KEPT: Final = 1024
LONGEST: Final = 200
"""Bytes of the longest configuration path that has markers; one with a + has none either."""


class Markers:
    """For several threads. Raises OSError where the run directory cannot be written."""

    def __init__(self, run_directory: Path, config: Path) -> None:
        self._archived = run_directory / ARCHIVED
        name = str(config).replace("/", "+")
        self._base = None if "+" in str(config) or len(name) > LONGEST else self._archived / name
        self._run: Path | None = None
        self._laid: dict[str, None] = {}
        self._lock = threading.Lock()

    def follow(self, run: str | None) -> None:
        """Which run of the server they are for; those of every other one are removed."""
        if self._base is None:
            return
        directory = None if run is None else self._base / run
        with self._lock:
            if directory == self._run and (directory is None or directory.is_dir()):
                return
            shutil.rmtree(self._base, ignore_errors=True)
            self._laid.clear()
            self._run = None
            if directory is not None:
                for each in (self._archived, self._base, directory):
                    _make(each)
            self._run = directory

    def __contains__(self, name: str) -> bool:
        return name in self._laid

    def lay(self, receipt: Receipt, mtime_ns: int) -> bool:
        """For the file with those bytes and that time; False while it is too young, or where times are too coarse."""
        name = receipt.segment.name
        with self._lock:
            if self._run is None:
                return False
            marker = self._run / name
            laid = _set(marker.with_name(name + BEFORE), mtime_ns, -1) and _set(marker, mtime_ns, 1)
            if laid:
                self._laid[name] = None
        return laid

    def forget_old(self, kept: int = KEPT) -> None:
        """Remove the oldest above that number. They are true for as long as they lie there; only the room is bounded."""
        with self._lock:
            while self._run is not None and len(self._laid) > kept:
                name = next(iter(self._laid))
                for half in (name, name + BEFORE):  # in this order: the second alone counts for nothing
                    with contextlib.suppress(FileNotFoundError):
                        (self._run / half).unlink()
                del self._laid[name]


def _make(directory: Path) -> None:
    """Raises OSError for what somebody else put there."""
    try:
        own_directory(str(directory))
    except RunDirectoryError as problem:
        raise PermissionError(errno.EPERM, str(problem), str(directory)) from None


def _set(path: Path, mtime_ns: int, distance: int) -> bool:
    """Lay a file whose time is that far from ``mtime_ns``, under its name only when it has it."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        born_ns = os.fstat(descriptor).st_mtime_ns
        os.utime(descriptor, ns=(mtime_ns + distance, mtime_ns + distance))
        exact = os.fstat(descriptor).st_mtime_ns == mtime_ns + distance
    finally:
        os.close(descriptor)
    if not exact or born_ns < mtime_ns + TICK_NS:
        new.unlink()
        return False
    new.rename(path)
    return True
