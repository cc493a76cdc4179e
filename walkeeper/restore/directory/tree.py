"""A data directory that is being written, and its tablespaces. No path leads through a link: names come from the store (P16).

Files are made and sized by one thread before others write into them: two that make files in one directory, or write one file,
spin on a lock of the kernel's. All raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from walkeeper.core.backup_index import Part
from walkeeper.lib import durable

PG_WAL: Final = "pg_wal"
LOST_AND_FOUND: Final = "lost+found"
"""Of a file system that begins in that directory: root's, and none of PostgreSQL's files."""
_RIGHTS: Final = 0o777
"""Of a mode in an index: nothing that is restored runs as its owner, and some systemd units deny the bits for it."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def unfinished(name: str) -> str:
    """What a small file of that name is called until it is whole."""
    return f"{name}.walkeeper"


class Tree:
    """``tablespaces``: where each lies, by OID. A ``pg_wal`` that is a link is the one that is followed: it is this host's."""

    def __init__(self, directory: Path, tablespaces: Mapping[int, Path]) -> None:
        self.directory = directory
        self.tablespaces = dict(tablespaces)
        self._roots = {"": self._open_root(directory)}
        self._roots |= {f"pg_tblspc/{oid}": self._open_root(place) for oid, place in tablespaces.items()}
        if (directory / PG_WAL).is_symlink():
            self._roots[PG_WAL] = self._open_root(directory / PG_WAL)
        self._last = threading.local()

    @staticmethod
    def _open_root(place: Path) -> int:
        """The path itself is a person's, and may have links in it."""
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self._roots.values():
            os.close(fd)

    def make(self, part: Part) -> None:
        """A directory, or a file with its size and without content that counts. What is there in another form goes."""
        if part.path in self._roots:
            return
        folder, _, name = part.path.rpartition("/")
        parent = self._folder(folder, make=True)
        if part.kind == "d":
            self._make_directory(parent, name, part.mode)
        else:
            self._make_file(parent, name, part)

    def _make_directory(self, parent: int, name: str, mode: int) -> None:
        if _kind(parent, name) not in (None, stat.S_IFDIR):
            os.unlink(name, dir_fd=parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.fchmod(fd, mode & _RIGHTS | 0o700)
        finally:
            os.close(fd)

    def _make_file(self, parent: int, name: str, part: Part) -> None:
        """One with other names beside this one is not ours alone to write: it gets a new one in its place."""
        kind = _kind(parent, name)
        if kind == stat.S_IFDIR:
            self._remove_below(parent, name)
        elif kind is not None and (
            kind != stat.S_IFREG or os.stat(name, dir_fd=parent, follow_symlinks=False).st_nlink > 1
        ):
            os.unlink(name, dir_fd=parent)
        fd = os.open(name, _FILE | os.O_CREAT, 0o600, dir_fd=parent)
        try:
            os.fchmod(fd, part.mode & _RIGHTS | 0o600)
            if os.fstat(fd).st_size != part.size:
                os.ftruncate(fd, part.size)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def to_write(self, path: str) -> Iterator[int]:
        """A file that was made."""
        yield from self._opened(path, _FILE)

    @contextlib.contextmanager
    def to_read(self, path: str) -> Iterator[int]:
        """A file that may not be there."""
        yield from self._opened(path, _READ)

    def _opened(self, path: str, flags: int) -> Iterator[int]:
        folder, _, name = path.rpartition("/")
        fd = os.open(name, flags, dir_fd=self._folder(folder))
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", path)
            yield fd
        finally:
            os.close(fd)

    def write_file(self, path: str, content: bytes, mode: int = 0o600, *, durably: bool = False) -> None:
        """A small file as a whole, in place of any: it has its name only when it is whole."""
        folder, _, name = path.rpartition("/")
        tmp = unfinished(name)
        parent = self._folder(folder, make=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(tmp, dir_fd=parent)
        fd = os.open(tmp, _FILE | os.O_CREAT | os.O_EXCL, mode, dir_fd=parent)
        try:
            os.fchmod(fd, mode)
            durable.write_all(fd, content)
            if durably:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(tmp, name, src_dir_fd=parent, dst_dir_fd=parent)
        if durably:
            os.fsync(parent)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """A small file; None where there is none."""
        try:
            with self.to_read(path) as fd:
                return os.read(fd, limit)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, path: str, *, durably: bool = False) -> None:
        """A file, if it is there."""
        folder, _, name = path.rpartition("/")
        with contextlib.suppress(FileNotFoundError):
            parent = self._folder(folder)
            os.unlink(name, dir_fd=parent)
            if durably:
                os.fsync(parent)

    def link(self, path: str, target: Path) -> None:
        """In place of whatever has that name."""
        folder, _, name = path.rpartition("/")
        parent = self._folder(folder, make=True)
        kind = _kind(parent, name)
        if kind == stat.S_IFLNK and os.readlink(name, dir_fd=parent) == str(target):
            return
        if kind == stat.S_IFDIR:
            self._remove_below(parent, name)
        elif kind is not None:
            os.unlink(name, dir_fd=parent)
        os.symlink(target, name, dir_fd=parent)

    def keep_only(self, named: Callable[[str], bool], top: Collection[str]) -> None:
        """Remove what ``named`` does not know, all of pg_wal, and the links of tablespaces that are not of this tree.

        In a tablespace only what lies below ``top``, paths as in the index: other versions' servers may have theirs beside it.
        """
        for root, fd in self._roots.items():
            if root == PG_WAL:
                self._empty(fd, root, lambda _: False)
            elif root:
                for path in top:
                    if path.rpartition("/")[0] == root and _kind(fd, path.rpartition("/")[2]) == stat.S_IFDIR:
                        self._descend(fd, path, named)
            else:
                self._empty(fd, "", lambda path: named(path) and path != PG_WAL and not _in_wal(path))

    def _empty(self, fd: int, below: str, named: Callable[[str], bool]) -> None:
        for name in os.listdir(fd):
            if name == LOST_AND_FOUND and below in ("", PG_WAL):
                continue
            path = f"{below}/{name}" if below else name
            kind = _kind(fd, name)
            if kind == stat.S_IFDIR and (named(path) or (path == PG_WAL)):
                self._descend(fd, path, named)
            elif (path in self._roots and kind == stat.S_IFLNK) or (named(path) and kind == stat.S_IFREG):
                continue
            elif kind == stat.S_IFDIR:
                self._remove_below(fd, name)
            elif kind is not None:
                os.unlink(name, dir_fd=fd)

    def _descend(self, parent: int, path: str, named: Callable[[str], bool]) -> None:
        fd = os.open(path.rpartition("/")[2], _DIRECTORY, dir_fd=parent)
        try:
            self._empty(fd, path, named)
        finally:
            os.close(fd)

    def _remove_below(self, parent: int, name: str) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._empty(fd, name, lambda _: False)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)

    def sync(self) -> None:
        """All of it, with one call for each file system, on which others may lie too."""
        for fd in {os.fstat(fd).st_dev: fd for fd in self._roots.values()}.values():
            durable.sync_file_system(fd)

    def _folder(self, path: str, *, make: bool = False) -> int:
        """Each thread keeps the last one open: an index goes from folder to folder."""
        last: tuple[str, int] | None = getattr(self._last, "folder", None)
        if last is None or last[0] != path:
            if last is not None:
                self._last.folder = None
                os.close(last[1])
            self._last.folder = last = path, self._open_folder(path, make=make)
        return last[1]

    def _open_folder(self, path: str, *, make: bool) -> int:
        root = max((each for each in self._roots if _is_below(path, each)), key=len)
        fd = os.dup(self._roots[root])
        try:
            for name in path[len(root) :].split("/"):
                if name:
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o700, dir_fd=fd)
                    inner = os.open(name, _DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd


def _is_below(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(f"{root}/")


def _in_wal(path: str) -> bool:
    return path.startswith(f"{PG_WAL}/")


def _kind(parent: int, name: str) -> int | None:
    """What it is, without following it; None where there is nothing."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None
