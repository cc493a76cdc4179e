"""A store in a directory: a local disk, NFS, any file system with hard links and an fsync that means it.

An object is a file under its key, written under a temporary name next to it and linked to its own, so that no reader ever
sees half of one and no writer ever replaces one. Metadata are extended attributes, where the file system has them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError, Refused, StoreDenied, StoreError, StoreUnavailable, StoreUnfit
from walkeeper.lib import clock, durable, events
from walkeeper.store.base import MAX_OBJECT, AlreadyThere, Body, ObjectInfo, too_large
from walkeeper.store.object_key import check_folder, check_key, check_list_prefix, check_metadata
from walkeeper.store.probe import prove

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
GROUP_FILE: Final = 0o640
GROUP_DIRECTORY: Final = 0o750
"""For a store whose own directory its group may read, as PostgreSQL does it with its data directory."""

_TEMPORARY: Final = ".tmp-"
_ATTRIBUTE: Final = "user.walkeeper."
_PREPARED_KEPT: Final = 64
"""How many directories a process remembers to have prepared; tails have one for each segment."""
_MET_KEPT: Final = 64
"""How many objects a process remembers to have met, to know its store by."""

_NO_ATTRIBUTES: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV})
_NO_FSYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_HINTS: Final = {
    errno.ENOSPC: "Make room on that file system, or give it more.",
    errno.EDQUOT: "The quota of this user or directory is used up: raise it.",
    errno.EROFS: "The file system is read-only: look into the kernel log for why, and mount it for writing.",
    errno.ENODEV: "The device is gone: look at the mount.",
    errno.ENXIO: "The device is gone: look at the mount.",
    errno.ESTALE: "The NFS server forgot this directory: mount it again.",
    errno.EIO: "The disk or the network file system failed: look into the kernel log.",
    errno.ENAMETOOLONG: "The file system's names are shorter than usual.",
}


class DirectoryStore:
    """``root`` must exist: a store that made it would take an unmounted disk for an empty archive."""

    def __init__(self, root: Path) -> None:
        if not root.is_absolute():
            raise ConfigError(f"store directory {str(root)!r}: it is relative", hint="Give the path from / on.")
        self._root = root
        self._identity: tuple[int, int] | None = None
        self._prepared: OrderedDict[Path, None] = OrderedDict()
        self._met: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        check_key(key)
        check_metadata(metadata)
        path = self._root / key
        self._check_root()
        try:
            self._refuse_root()
            self._prepare(path.parent)
            _write(path, body, metadata, GROUP_FILE if self._group_reads() else PRIVATE_FILE)
        except FileExistsError:
            raise AlreadyThere(key) from None
        except OSError as error:
            self._forget(path.parent)
            raise _problem(path, error) from error
        self._check_root()  # what was exchanged meanwhile has it now, and not the store
        self._meet(key)

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        path = self._root / key
        try:
            status = path.stat()
            if not _is_object(path, status):
                return None
            # Who linked it may have died before the fsync, and the caller takes "it is there" for durable.
            durable.make_directories(self._root, path.parent, mode=self._directory_mode())
            durable.fsync_dir(path.parent)
            info = ObjectInfo(key, status.st_size, _read_attributes(path))
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return None
        except OSError as error:
            raise _problem(path, error) from error
        self._meet(key)
        return info

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        check_key(key)
        path = self._root / key
        try:
            # Without O_NONBLOCK a FIFO under that name would hold us for ever.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return None
        except OSError as error:
            raise _problem(path, error) from error
        try:
            body = _read_whole(path, fd, limit)
        except OSError as error:
            raise _problem(path, error) from error
        finally:
            os.close(fd)
        if body is not None:
            self._meet(key)
        return body

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_list_prefix(prefix)
        self._check_root()
        folder, _, start = prefix.rpartition("/")
        yield from self._walk(folder, start)
        self._check_root()

    def folders(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        self._check_root()
        yield from (name[:-1] for name, _ in self._entries(prefix.removesuffix("/"), "") if name.endswith("/"))

    def delete(self, key: str) -> None:
        check_key(key)
        path = self._root / key
        self._check_root()
        try:
            path.unlink()
            with self._lock:
                self._met.pop(key, None)
            durable.fsync_dir(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _problem(path, error) from error

    def probe(self) -> None:
        self._check_root()
        if os.path.ismount(self._root):
            events.warning(
                "store_is_a_mount_point",
                store=self.url,
                hint="Use a directory below the mount point, so that an unmounted file system is missed at once.",
            )
        prove(self, overwrites_hint="Do not use this file system: its link() replaces files.", needs_metadata=False)

    def _check_root(self) -> None:
        """That the store itself is there, and the one of before. Raises StoreUnavailable or StoreDenied."""
        try:
            status = self._root.stat()
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # noqa: TRY301 - same hint as the rest
            identity, before = (status.st_dev, status.st_ino), self._identity
            if identity != before and not self._is_known(before):
                raise StoreUnavailable(
                    f"{self._root}: another directory than before, without what was stored there",
                    hint="Was it unmounted, or is another file system mounted there? If this is the store from now on: restart "
                    "the agent, which then looks at it as at a new one.",
                )
            self._identity = identity
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreUnavailable(
                f"{self._root}: {error.strerror}",
                hint="Mount the file system, or make the directory once by hand: walkeeper does not, because an archive "
                "on an unmounted disk would look empty.",
            ) from error
        except OSError as error:
            raise _problem(self._root, error) from error

    def _refuse_root(self) -> None:
        """In another user's store: what root made there could be read and continued by root alone. Raises Refused, or OSError."""
        if os.geteuid() != 0:
            return
        for uid in self._owners():
            if uid != 0:
                raise Refused(
                    f"{self._root}: this is root, and what it stores there could not be read by uid {uid}, whose store it is",
                    hint="Run it as PostgreSQL's user: sudo -u postgres walkeeper …",
                )

    def _owners(self) -> tuple[int, ...]:
        with os.scandir(self._root) as scan:
            uids = [entry.stat(follow_symlinks=False).st_uid for entry in scan if not entry.name.startswith(".")]
        return (self._root.stat().st_uid, *uids)

    def _is_known(self, before: tuple[int, int] | None) -> bool:
        """Whether this may be the same store that had another identity ``before``: mounted again, or moved to another disk."""
        with self._lock:
            met = list(self._met)
        if met:
            return any((self._root / key).exists() for key in met)
        return before is None or any(self._root.iterdir())

    def _meet(self, key: str) -> None:
        with self._lock:
            self._met[key] = None
            self._met.move_to_end(key)
            while len(self._met) > _MET_KEPT:
                self._met.popitem(last=False)

    def _group_reads(self) -> bool:
        return bool(self._root.stat().st_mode & stat.S_IRGRP)

    def _directory_mode(self) -> int:
        return GROUP_DIRECTORY if self._group_reads() else PRIVATE_DIRECTORY

    def _prepare(self, directory: Path) -> None:
        """Once for each directory: make it, with durable names up to the root, and sweep what dead processes left."""
        with self._lock:
            if directory in self._prepared:
                self._prepared.move_to_end(directory)
                return
        durable.make_directories(self._root, directory, mode=self._directory_mode())
        _sweep(directory)
        with self._lock:
            self._prepared[directory] = None
            while len(self._prepared) > _PREPARED_KEPT:
                self._prepared.popitem(last=False)

    def _forget(self, directory: Path) -> None:
        with self._lock:
            self._prepared.pop(directory, None)

    def _walk(self, folder: str, start: str) -> Iterator[ObjectInfo]:
        """Objects below ``folder`` (a key without its last slash) whose part below it begins with ``start``."""
        for name, entry in self._entries(folder, start):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if name.endswith("/"):
                yield from self._walk(key, "")
            elif info := _described(entry, key):
                yield info

    def _entries(self, folder: str, start: str) -> Sequence[tuple[str, os.DirEntry[str]]]:
        """What lies in a folder. The names of folders end in a slash, which makes the order that of the whole keys."""
        path = self._root / folder
        try:
            with os.scandir(path) as scan:
                return sorted(
                    (entry.name + "/" if entry.is_dir() else entry.name, entry)
                    for entry in scan
                    if entry.name.startswith(start) and not entry.name.startswith(".")
                )
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return []
        except OSError as error:
            raise _problem(path, error) from error


def clock_ahead(root: Path) -> float | None:
    """By a file that has no name: an NFS server stamps it. None where nothing can be written, a full disk included. Raises
    StoreUnavailable.
    """
    try:
        before = clock.wall_seconds()
        with tempfile.TemporaryFile(dir=root, prefix=_TEMPORARY) as file:
            file.write(b"t")
            file.flush()
            os.fsync(file.fileno())
            stamp = os.fstat(file.fileno()).st_mtime
        after = clock.wall_seconds()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            return None
        raise StoreUnavailable(f"{root}: it does not tell the time: {error.strerror}") from error
    return max(0.0, stamp - after) or min(0.0, stamp - before)


def _write(path: Path, body: bytes, metadata: Mapping[str, str], mode: int) -> None:
    """Raises FileExistsError if there is such an object, OSError, or StoreUnfit."""
    with _temporary_beside(path, mode) as (fd, tmp):
        _write_attributes(fd, metadata)
        durable.write_all(fd, body)
        os.fsync(fd)
        try:
            durable.publish_by_link(tmp, path)
        except FileExistsError:
            if _is_object(path, path.stat()):
                raise
            raise StoreUnfit(f"{path}: a directory has the name of an object", hint="Move it away.") from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StoreUnfit(
                    f"{path}: {error.strerror}", hint="The file system has no hard links: use another."
                ) from error
            raise


def _is_object(path: Path, status: os.stat_result) -> bool:
    if stat.S_ISREG(status.st_mode):
        return True
    if stat.S_ISDIR(status.st_mode):
        return False
    raise StoreUnavailable(f"{path}: neither a file nor a directory", hint="Move away what was put there.")


def _described(entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
    try:
        if not entry.is_file():
            return None
        status = entry.stat()
        return ObjectInfo(key, status.st_size, {}, datetime.fromtimestamp(status.st_mtime, UTC))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _problem(Path(entry.path), error) from error


@contextlib.contextmanager
def _temporary_beside(path: Path, mode: int) -> Iterator[tuple[int, Path]]:
    """A new file in ``path``'s directory, locked for as long as it lives, removed at the end under that name."""
    fd, tmp = _create_temporary(path, mode)
    try:
        yield fd, tmp
    finally:
        # What cannot be removed now is swept later, and must not hide why the writing failed.
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        os.close(fd)


def _create_temporary(path: Path, mode: int) -> tuple[int, Path]:
    while True:
        tmp = path.parent / f"{_TEMPORARY}{path.name}-{secrets.token_hex(8)}"
        fd = os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)  # somebody sweeps, and caught it in between
            continue
        except OSError:
            return fd, tmp  # no locks here: nobody can lock it to sweep it either
        if os.fstat(fd).st_nlink:
            return fd, tmp
        os.close(fd)


def _sweep(directory: Path) -> None:
    """Remove temporary files whose writer is dead, on whatever host it was: nobody holds their locks."""
    with os.scandir(directory) as scan:
        stale = [Path(entry.path) for entry in scan if entry.name.startswith(_TEMPORARY)]
    for path in stale:
        # Where it cannot be locked or removed it does no harm but for the room it takes.
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                events.info("store_swept", file=path)
            finally:
                os.close(fd)


def _write_attributes(fd: int, metadata: Mapping[str, str]) -> None:
    try:
        for name, value in metadata.items():
            os.setxattr(fd, _ATTRIBUTE + name, value.encode("ascii"))
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise


def _read_attributes(path: Path | int) -> dict[str, str]:
    try:
        names = [name for name in os.listxattr(path) if name.startswith(_ATTRIBUTE)]
        return {name.removeprefix(_ATTRIBUTE): os.getxattr(path, name).decode("ascii", "replace") for name in names}
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return {}
        raise


def _read_whole(path: Path, fd: int, limit: int) -> Body | None:
    status = os.fstat(fd)
    if not _is_object(path, status):
        return None
    if status.st_size > limit:
        raise too_large(str(path), status.st_size, limit)
    expected = left = status.st_size
    pieces = []
    while left:
        piece = os.read(fd, left)
        if not piece:
            raise StoreUnavailable(f"{path}: cut short from {expected} to {expected - left} bytes while it was read")
        pieces.append(piece)
        left -= len(piece)
    return Body.of(b"".join(pieces), _read_attributes(fd))


def _problem(path: Path, error: OSError) -> StoreError:
    text = f"{path}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreDenied(f"{text} ({_owner(path)})", hint="Give this user the right to read and write there.")
    if error.errno in _NO_FSYNC:
        return StoreUnfit(
            text, hint="The file system cannot sync a file or a directory: use another one for the store."
        )
    return StoreUnavailable(
        text, hint=_HINTS.get(error.errno or 0, "Look at the file system of the store, and into the kernel log.")
    )


def _owner(path: Path) -> str:
    """Who we are, and whose the nearest part of ``path`` is that can be seen."""
    for here in (path, *path.parents):
        with contextlib.suppress(OSError):
            status = here.stat()
            return f"uid {os.geteuid()}; {here} is of uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
    return f"uid {os.geteuid()}"
