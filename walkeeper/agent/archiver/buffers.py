"""Memory for the segments that are read and packed at the same time, and for what they pack to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from walkeeper.lib import heap
from walkeeper.postgres.wal_file import Memory


class Buffers:
    """So many, used again and again; who needs one waits for it. For several threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = [Memory() for _ in range(count)]
        self._kept = False
        """The heap keeps large blocks since somebody has had one."""
        self._returned = 0
        """How often it has stopped to keep them. ``_own`` is how often the thread knows of."""
        self._own = threading.local()
        self._freed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[Memory]:
        with self._freed:
            self._freed.wait_for(lambda: self._free)
            memory = self._free.pop()
            if not self._kept:
                heap.keep_large_blocks()
                self._kept = True
        try:
            yield memory
        finally:
            with self._freed:
                self._free.append(memory)
                self._freed.notify_all()

    def release(self) -> None:
        """Give back to the system what nobody uses at the moment. Each thread that has used some calls it when it waits."""
        with self._freed:
            for memory in self._free:
                memory.release()
            if self._kept and len(self._free) == self._count:
                heap.return_large_blocks()
                self._kept = False
                self._returned += 1
            returned, self._own.returned = getattr(self._own, "returned", 0), self._returned
        if returned != self._returned:
            heap.give_back_end()
