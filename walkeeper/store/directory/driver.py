"""A store in a directory: a local disk, NFS, any file system with hard links and an fsync that means it.

An object is a file under its key, written under a temporary name next to it and linked to its own, so that no reader ever
sees half of one and no writer ever replaces one (``files``).
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError, Refused, StoreUnavailable
from walkeeper.lib import clock, durable, events
from walkeeper.store.base import MAX_OBJECT, AlreadyThere, Body, ObjectInfo
from walkeeper.store.directory.answers import store_error
from walkeeper.store.directory.files import TEMPORARY, described, is_object, read_attributes, read_whole, sweep, write
from walkeeper.store.object_key import check_folder, check_key, check_list_prefix, check_metadata
from walkeeper.store.probe import prove

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
GROUP_FILE: Final = 0o640
GROUP_DIRECTORY: Final = 0o750
"""For a store whose own directory its group may read, as PostgreSQL does it with its data directory."""

_PREPARED_KEPT: Final = 64
"""How many directories a process remembers to have prepared; tails have one for each segment."""
_MET_KEPT: Final = 64
"""How many objects a process remembers to have met, to know its store by."""


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
            write(path, body, metadata, GROUP_FILE if self._group_reads() else PRIVATE_FILE)
        except FileExistsError:
            raise AlreadyThere(key) from None
        except OSError as error:
            self._forget(path.parent)
            raise store_error(path, error) from error
        self._check_root()  # what was exchanged meanwhile has it now, and not the store
        self._meet(key)

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        path = self._root / key
        try:
            status = path.stat()
            if not is_object(path, status):
                return None
            # Who linked it may have died before the fsync, and the caller takes "it is there" for durable.
            durable.make_directories(self._root, path.parent, mode=self._directory_mode())
            durable.fsync_dir(path.parent)
            info = ObjectInfo(key, status.st_size, read_attributes(path))
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return None
        except OSError as error:
            raise store_error(path, error) from error
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
            raise store_error(path, error) from error
        try:
            body = read_whole(path, fd, limit)
        except OSError as error:
            raise store_error(path, error) from error
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
            raise store_error(path, error) from error

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
            raise _away(self._root, error) from error
        except OSError as error:
            raise store_error(self._root, error) from error

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
        sweep(directory)
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
            elif info := described(entry, key):
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
            raise store_error(path, error) from error


def clock_ahead(root: Path) -> float | None:
    """By a file that has no name: an NFS server stamps it. None where nothing can be written, a full disk included. Raises
    StoreUnavailable.
    """
    try:
        before = clock.wall_seconds()
        with tempfile.TemporaryFile(dir=root, prefix=TEMPORARY) as file:
            file.write(b"t")
            file.flush()
            os.fsync(file.fileno())
            stamp = os.fstat(file.fileno()).st_mtime
        after = clock.wall_seconds()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _away(root, error) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            return None
        raise StoreUnavailable(f"{root}: it does not tell the time: {error.strerror}") from error
    return max(0.0, stamp - after) or min(0.0, stamp - before)


def _away(root: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{root}: {error.strerror}",
        hint="Mount the file system, or make the directory once by hand: walkeeper does not, because an archive "
        "on an unmounted disk would look empty.",
    )
