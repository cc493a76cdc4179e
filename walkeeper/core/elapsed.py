"""How old something is by what an archive shows of time, so that a clock that jumped makes nothing old (P15).

Backups come at intervals. Where one interval is longer than a day, and more than twice as long as each other one, the cluster
stood still, or the clock jumped: nothing tells which. That interval makes nothing older.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

USUAL: Final = timedelta(days=1)
"""An interval up to that counts in any case."""


@dataclass(frozen=True, slots=True)
class Elapsed:
    """``stood`` is the interval up to ``now`` at the latest that does not count."""

    now: datetime
    stood: tuple[datetime, datetime] | None = None

    @classmethod
    def seen(cls, moments: Iterable[datetime], now: datetime) -> Elapsed:
        """By the moments at which the archive got something, each by the clock of who stored it; what is to come says nothing."""
        known = sorted({*(at for at in moments if at < now), now})
        intervals = sorted(pairwise(known), key=lambda each: each[1] - each[0])
        lengths = [timedelta(0), *(end - begin for begin, end in intervals)]
        stands = lengths[-1] > max(USUAL, 2 * lengths[-2]) if len(intervals) > 1 else False
        return cls(now, intervals[-1] if stands else None)

    def since(self, at: datetime) -> timedelta:
        """Negative where ``at`` is to come."""
        if self.stood is None:
            return self.now - at
        begin, end = self.stood
        return self.now - at - max(timedelta(0), end - max(begin, at))

    def now_since(self, at: datetime) -> datetime:
        """The time that it is for what was to last from ``at`` until some other time."""
        return at + self.since(at)
