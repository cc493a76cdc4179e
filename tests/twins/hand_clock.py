"""A clock that a test moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class HandClock:
    """walkeeper.lib.clock.Clock. It stands still until somebody sleeps, or the test moves it."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
