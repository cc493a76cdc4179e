"""Time, as a seam: monotonic time for every decision, wall time only for what people read."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def since_boot() -> float:
    """Monotonic seconds that go on while the machine sleeps: for what others rely on that it has ended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_seconds() -> float:
    """The wall clock, in seconds since 1970: to compare clocks, and for ages that people read."""
    return time.time()


def seconds_since(stamp: str, ahead: float = 0.0) -> float | None:
    """The age of a ``timestamp``, for people, by a clock that is so many seconds ahead of ours; None where it is none."""
    try:
        then = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None
    return max(0.0, wall_seconds() + ahead - then.timestamp())


def outside(moment: float, before: float, after: float) -> float:
    """How far another clock's moment lies outside of the time in which it was asked for: 0 for clocks that agree."""
    return moment - after if moment > after else min(0.0, moment - before)


def now_utc() -> datetime:
    """The wall clock, for what goes by days and hours."""
    return datetime.now(UTC)


def timestamp(later: float = 0.0) -> str:
    """The wall clock in UTC, to the second, for people; so many seconds from now."""
    return (now_utc() + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")
