"""When the agent looks next: every few seconds, at once when it is poked, and often for a while after that."""

from __future__ import annotations

import threading
from typing import Final

from walkeeper.lib.clock import Clock

ALERT_SECONDS: Final = 10.0
"""Seconds after a callback in which the agent looks several times a second: a promotion ends some time after it."""
ALERT_INTERVAL: Final = 0.2


class Pace:
    """``wait`` is for one thread; the rest is safe from every thread and never blocks."""

    def __init__(self, interval: float, clock: Clock) -> None:
        self._interval = interval
        self._clock = clock
        self._poked = threading.Event()
        self._alert_until = 0.0

    def be_alert(self) -> None:
        """Look often for a while."""
        self._alert_until = self._clock.monotonic() + ALERT_SECONDS

    def poke(self) -> None:
        """Look now."""
        self._poked.set()

    @property
    def poked(self) -> bool:
        """Whether the next look is overdue."""
        return self._poked.is_set()

    def wait(self, *, eager: bool) -> None:
        """Until the next look is due."""
        alert = eager or self._clock.monotonic() < self._alert_until
        self._poked.wait(ALERT_INTERVAL if alert else self._interval)
        self._poked.clear()
