"""Memory for the segments that are read and packed at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from walkeeper.postgres.wal_file import Memory


class Buffers:
    """So many, used again and again; who needs one waits for it. For several threads."""

    def __init__(self, count: int) -> None:
        self._free = [Memory() for _ in range(count)]
        self._freed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[Memory]:
        with self._freed:
            self._freed.wait_for(lambda: self._free)
            memory = self._free.pop()
        try:
            yield memory
        finally:
            with self._freed:
                self._free.append(memory)
                self._freed.notify_all()

    def release(self) -> None:
        """Give back to the system what nobody uses at the moment."""
        with self._freed:
            for memory in self._free:
                memory.release()
