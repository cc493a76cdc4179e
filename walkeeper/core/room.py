"""Room on a file system: what the spool leaves free there, before PostgreSQL is in danger; and how long pg_wal's disk lasts."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from walkeeper.core.lsn import SegmentSize

LEAST: Final = 10
"""Segments that stay free, however small the disk is."""
SHARE: Final = 20
"""The part of a small disk that is enough: one in so many."""
DISK_SECONDS: Final = 6 * 3600.0
"""Seconds until the disk of pg_wal is full, below which a person should look."""
TREND_SHORTEST: Final = 300.0
"""Seconds after which it is said how fast a disk fills: less would be the noise of a checkpoint."""
TREND_LONGEST: Final = 1200.0
TREND_STEP: Final = 20.0
_BRIEF: Final = re.compile(r"disk=(\d{1,12})/(\d{1,12})([+-]\d{1,12})?")
SPARE: Final = 4
"""Segments above the reserve from which on the spool is filled again."""


def spool_reserve(total: int, wanted: int, size: SegmentSize) -> int:
    """Bytes that the spool leaves free on a file system of ``total``: ``wanted`` at most, and never half of it.

    So that a small one of its own (tmpfs) can be used as well.
    """
    return min(total // 2, max(LEAST * size, min(total // SHARE, wanted)))


def is_short(free: int, total: int, reserve: int, limit: int, size: SegmentSize, *, before: bool, waits: bool) -> bool:
    """Whether the spool has to do without its disk. ``before``: it already does; ``waits``: complete segments are not stored.

    With a backlog it goes on only where there is room for a full spool of ``limit`` bytes: else it would fill up, be emptied and
    be streamed again, over and over. Of a file system too small for that, half is enough. All in bytes.
    """
    if not before:
        return free < reserve + size
    spare = max(limit, SPARE * size) if waits else SPARE * size
    return free < reserve + max(size, min(spare, (total - reserve) // 2))


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of pg_wal, in bytes. ``growth``: by how many a second its free space has shrunk lately; None: not known."""

    free: int
    total: int
    growth: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until it is full, if it goes on like this; None where it does not shrink, or that is not known."""
        return self.free / self.growth if self.growth is not None and self.growth > 0 else None

    @property
    def brief(self) -> str:
        """For the name of a session, which has 63 characters: in MiB, and KiB a second."""
        growth = "" if self.growth is None else f"{round(self.growth / 1024):+d}"
        return f"disk={self.free >> 20}/{self.total >> 20}{growth}"

    @classmethod
    def from_brief(cls, text: str) -> Disk | None:
        """What ``brief`` says, somewhere in a text; None where there is no such thing."""
        found = _BRIEF.search(text)
        if found is None:
            return None
        growth = None if found[3] is None else float(found[3]) * 1024
        return cls(int(found[1]) << 20, int(found[2]) << 20, growth)

    def described(self) -> dict[str, Any]:
        """For documents."""
        return {"free": self.free, "total": self.total, "growth": self.growth, "seconds_left": self.seconds_left}


class Trend:
    """How a disk's free space shrinks. For one thread."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, free: int) -> float | None:
        """The free bytes at a monotonic moment; by how many a second they have shrunk in the last minutes.

        What has shrunk in the shortest time alone counts where that is less: a burst that is over does not go on.
        """
        if not self._seen or now - self._seen[-1][0] >= TREND_STEP:
            self._seen.append((now, free))
        while now - self._seen[0][0] > TREND_LONGEST:
            self._seen.popleft()
        old = [(since, before) for since, before in self._seen if now - since >= TREND_SHORTEST]
        return min(((before - free) / (now - since) for since, before in (*old[:1], *old[-1:])), default=None)
