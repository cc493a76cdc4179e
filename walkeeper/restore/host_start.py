"""Starting the process that prefetches on a host without an agent. That it cannot be started is never an error: the command
works without it, more slowly."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from walkeeper import detached, rundir


def start(config: Path, postmaster: int, environ: Mapping[str, str]) -> None:
    """Unless there is one. The caller has no threads yet."""
    if postmaster == 1:
        return  # it would inherit the process, and takes the death of a child that it does not know for a crash
    try:
        agent = rundir.socket_path(config.absolute(), dict(environ))
        socket = rundir.restore_socket_path(agent, dict(environ))
        if _is_free(rundir.lock_path(agent)) and _is_free(rundir.lock_path(socket)):
            detached.start(["-m", "walkeeper.restore.host", str(config.absolute())], rundir.start_log_path(socket))
    except (OSError, rundir.RunDirectoryError):
        return


def _is_free(lock: str) -> bool:
    """Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
