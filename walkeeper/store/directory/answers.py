"""What a file system's error means for walkeeper. The system is asked only whose the file is."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from walkeeper.errors import StoreDenied, StoreError, StoreUnavailable, StoreUnfit

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


def store_error(path: Path, error: OSError) -> StoreError:
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
