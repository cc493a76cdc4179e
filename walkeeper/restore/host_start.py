"""Starting the process that prefetches on a host without an agent. That it cannot be started is never an error: the command
works without it, more slowly. Light: the client uses it."""

# ruff: noqa: PTH100, PTH110, PTH120 - pathlib costs more than all that this program does

from __future__ import annotations

import fcntl
import os
import select
from time import monotonic, sleep

from walkeeper.control import paths, spawn
from walkeeper.postgres import postmaster_pid

START_SECONDS = 3.0
"""Seconds for the process to begin."""


def start(config: str, socket: str, place: str) -> bool:
    """Whether there is now somebody to ask at ``socket``, for a server that wants a file at ``place``. Raises OSError."""
    if not _of_a_server(place):
        return False
    lock = paths.lock_path(socket)
    until = monotonic() + START_SECONDS
    if _is_free(lock):
        reader, writer = os.pipe()
        arguments = ["-m", "walkeeper.restore.host", os.path.abspath(config)]
        spawn.start(arguments, paths.start_log_path(socket), writer)
        os.close(writer)
        select.select([reader], [], [], START_SECONDS)  # its end is closed when it serves, or has ended
        os.close(reader)
    while not os.path.exists(socket):  # another call may have started it
        if _is_free(lock) or monotonic() > until:
            return False
        sleep(0.02)
    return True


def _of_a_server(place: str) -> bool:
    """Not of pg_rewind, which is served best directly. Nor of one that is process 1: it would inherit the process, and takes
    the death of a child that it does not know for a crash.
    """
    server = postmaster_pid.running(os.path.dirname(os.path.dirname(place)))
    return server is not None and server[0] != 1


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
