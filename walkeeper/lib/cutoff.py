"""A total limit for a call that waits on sockets: when it is over they are shut down, and the call ends.

A socket's own time-out begins again with each byte that comes, so that a peer who sends one now and then holds a call for
days. One daemon thread looks after all calls of a ``Cutoff``; nobody has to leave a hanging thread behind.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator


class Limit:
    """One call's. ``over`` says that it was cut: whatever the call seems to have got since then is not an answer."""

    def __init__(self, lock: threading.Condition, until: float) -> None:
        self._lock = lock
        self._sockets: list[socket.socket] = []
        self.until = until
        """In monotonic seconds."""
        self.over = False

    def watch(self, connection: socket.socket) -> None:
        """The call waits on this one from now on."""
        with self._lock:
            self._sockets.append(connection)
            if self.over:
                _shut_down(connection)

    def extend(self, seconds: float) -> None:
        """More is to come than was known at the beginning."""
        with self._lock:
            self.until += seconds

    def cut(self) -> None:
        """With the lock held."""
        self.over = True
        for connection in self._sockets:
            _shut_down(connection)


class Cutoff:
    """Safe for several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._running: set[Limit] = set()
        self._looks_at = -math.inf
        """When the thread looks next, in monotonic seconds; before the first call there is none."""

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[Limit]:
        """A limit for what is done inside; afterwards it does nothing."""
        limit = Limit(self._changed, time.monotonic() + seconds)
        with self._changed:
            if self._looks_at == -math.inf:
                self._looks_at = math.inf
                threading.Thread(target=self._tend, name=f"cutoff-{self._name}", daemon=True).start()
            self._running.add(limit)
            if limit.until < self._looks_at:
                self._changed.notify()
        try:
            yield limit
        finally:
            with self._changed:
                self._running.discard(limit)

    def _tend(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for limit in [each for each in self._running if each.until <= now]:
                    limit.cut()
                    self._running.discard(limit)
                self._looks_at = min((each.until for each in self._running), default=math.inf)
                self._changed.wait(None if self._looks_at == math.inf else self._looks_at - now)


def _shut_down(connection: socket.socket) -> None:
    """Not by the method of an SSL socket, which would forget its encryption under the hands of who reads from it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
