"""How long WAL waits to be archived: which position the server had passed when."""

from __future__ import annotations

from collections import deque
from typing import Final

from walkeeper.core.lsn import Lsn

KEPT: Final = 3600
"""Positions."""


class Passed:
    """Bounded. ``note`` is for one thread; ``waiting`` is safe from every thread."""

    def __init__(self) -> None:
        self._passed: deque[tuple[float, Lsn]] = deque(maxlen=KEPT)

    def note(self, now: float, lsn: Lsn) -> None:
        """The server's WAL reached ``lsn`` by then."""
        self._passed.append((now, lsn))

    def waiting(self, now: float, oldest: int) -> float:
        """Seconds since the server had passed the position ``oldest``; 0 if it has not."""
        at = next((at for at, lsn in self._passed.copy() if lsn >= oldest), now)
        return now - at
