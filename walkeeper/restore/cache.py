"""The directory in which one recovery's segments lie ready, whole and checked, and who that recovery is.

A cache belongs to one run of one server: its postmaster's pid and start, as ``postmaster.pid`` states them, and its data
directory. Whatever an earlier recovery left lies under another name and is never looked at.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from walkeeper.control.paths import RunDirectoryError, own_directory
from walkeeper.lib import durable
from walkeeper.postgres.data_directory import RunningServer

READY: Final = "ready"
"""The directory in the run directory, ours alone, whose names lead walkeeper-restore-wal to a cache."""


class Cache:
    """Made empty; removed by ``close``. For one owner's threads, each name by one at a time."""

    def __init__(self, parent: Path, server: RunningServer) -> None:
        """Raises OSError where it cannot be made. What dead owners left beside it is removed."""
        self._made = [directory for directory in (parent, parent.parent) if not directory.exists()]
        for directory in (parent.parent, parent):  # the first may become the spool, which must be private
            directory.mkdir(mode=0o700, exist_ok=True)
        found = parent.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise PermissionError(f"{parent}: others can write there")
        _sweep(parent)
        self.directory = parent / f"{os.getpid()}-{server.pid}.{server.started}"
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.moves = _mount(self.directory) == _mount(server.data_directory / "pg_wal") is not None
        """Whether a file gets from here to pg_wal by a rename."""
        self._link: Path | None = None

    def lay(self, name: str, parts: Iterable[bytes]) -> None:
        """Whole, or not at all. Raises OSError, and what ``parts`` raises. Not synced: PostgreSQL syncs what it takes over."""
        tmp = self.directory / f".{name}"
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for part in parts:
                durable.write_all(fd, part)
            tmp.rename(self.directory / name)
        except BaseException:
            with contextlib.suppress(OSError):
                tmp.unlink()
            raise
        finally:
            os.close(fd)

    def path(self, name: str) -> Path:
        return self.directory / name

    def names(self) -> set[str]:
        """What lies ready; what has been taken is missing. Raises OSError."""
        with os.scandir(self.directory) as scan:
            return {entry.name for entry in scan if not entry.name.startswith(".")}

    def drop(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.directory / name).unlink()

    def show(self, link: Path) -> None:
        """Lead ``link`` here, if files get from here to pg_wal by a rename: the shell does nothing else."""
        if not self.moves or link == self._link:
            return
        fresh = link.with_name(f"{link.name}.{os.getpid()}")
        with contextlib.suppress(OSError, RunDirectoryError):
            own_directory(str(link.parent))
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.directory)
            fresh.rename(link)
            self._link = link

    def close(self) -> None:
        """Nothing stays of what it made."""
        with contextlib.suppress(OSError):
            if self._link is not None and self._link.readlink() == self.directory:
                self._link.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            for directory in self._made:
                directory.rmdir()


def sweep_links(run_directory: Path) -> None:
    """Remove the links that no longer lead anywhere: their owner was killed, and its cache is gone."""
    with contextlib.suppress(OSError):
        for link in (run_directory / READY).iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink()


def _sweep(parent: Path) -> None:
    with os.scandir(parent) as scan:
        names = [entry.name for entry in scan]
    for name in names:
        owner = name.partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(parent / name, ignore_errors=True)


def _mount(directory: Path) -> tuple[str, int] | None:
    """Mount and file system: a rename between two directories works where both are the same. None: it is not known.

    The device alone does not tell: one file system may be mounted twice, and a rename from one to the other fails.
    """
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return line, os.fstat(fd).st_dev
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
