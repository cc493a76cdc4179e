"""An object as a file: written whole under a temporary name and linked to its own, read whole, and what dead writers left.

Metadata are extended attributes, where the file system has them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walkeeper.errors import StoreUnavailable, StoreUnfit
from walkeeper.lib import durable, events
from walkeeper.store.base import Body, ObjectInfo, too_large
from walkeeper.store.directory.answers import store_error

TEMPORARY: Final = ".tmp-"
"""What the names of files begin with that are no objects."""

_ATTRIBUTE: Final = "user.walkeeper."
_NO_ATTRIBUTES: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV})


def write(path: Path, body: bytes, metadata: Mapping[str, str], mode: int) -> None:
    """Raises FileExistsError if there is such an object, OSError, or StoreUnfit."""
    with _temporary_beside(path, mode) as (fd, tmp):
        _write_attributes(fd, metadata)
        durable.write_all(fd, body)
        os.fsync(fd)
        try:
            durable.publish_by_link(tmp, path)
        except FileExistsError:
            if is_object(path, path.stat()):
                raise
            raise StoreUnfit(f"{path}: a directory has the name of an object", hint="Move it away.") from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StoreUnfit(
                    f"{path}: {error.strerror}", hint="The file system has no hard links: use another."
                ) from error
            raise


def is_object(path: Path, status: os.stat_result) -> bool:
    if stat.S_ISREG(status.st_mode):
        return True
    if stat.S_ISDIR(status.st_mode):
        return False
    raise StoreUnavailable(f"{path}: neither a file nor a directory", hint="Move away what was put there.")


def described(entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
    try:
        if not entry.is_file():
            return None
        status = entry.stat()
        return ObjectInfo(key, status.st_size, {}, datetime.fromtimestamp(status.st_mtime, UTC))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(Path(entry.path), error) from error


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
        tmp = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(8)}"
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


def sweep(directory: Path) -> None:
    """Remove temporary files whose writer is dead, on whatever host it was: nobody holds their locks."""
    with os.scandir(directory) as scan:
        stale = [Path(entry.path) for entry in scan if entry.name.startswith(TEMPORARY)]
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


def read_attributes(path: Path | int) -> dict[str, str]:
    try:
        names = [name for name in os.listxattr(path) if name.startswith(_ATTRIBUTE)]
        return {name.removeprefix(_ATTRIBUTE): os.getxattr(path, name).decode("ascii", "replace") for name in names}
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return {}
        raise


def read_whole(path: Path, fd: int, limit: int) -> Body | None:
    status = os.fstat(fd)
    if not is_object(path, status):
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
    return Body.of(b"".join(pieces), read_attributes(fd))
