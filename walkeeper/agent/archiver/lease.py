"""Whether the record was ours a short while ago: only then may anything be acknowledged."""

from __future__ import annotations

import math
import threading

from walkeeper.core.synchronous import LEASE, RENEWED
from walkeeper.lib.clock import since_boot


class Lease:
    """By a clock that goes on while the machine sleeps. One thread confirms, any may ask."""

    def __init__(self) -> None:
        self._asked_at = -math.inf
        self.ended = threading.Event()
        """Set where nothing more is acknowledged by it, whatever is confirmed."""

    def confirmed(self, asked_at: float) -> None:
        """The record is ours, by an answer to what was asked at that moment of ``since_boot``."""
        self._asked_at = max(self._asked_at, asked_at)

    def holds(self) -> bool:
        return not self.ended.is_set() and since_boot() - self._asked_at < LEASE

    def is_due(self) -> bool:
        """Whether it is time to confirm it again."""
        return since_boot() - self._asked_at > RENEWED
