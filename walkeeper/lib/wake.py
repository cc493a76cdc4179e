"""Waking a thread that waits in ``poll``."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class Wake:
    """A descriptor, ``fd``, that can be read once ``set`` was called, until ``clear``. Safe from every thread, closed or not."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock, suppress(BlockingIOError):
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with self._lock, suppress(BlockingIOError):
            if self.fd >= 0:
                os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
