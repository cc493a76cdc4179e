"""WAL that the local server no longer has: a suspicion first, and when it becomes a gap.

A member has said no when its walsender says that the segment was removed. Whatever else happens is silence: no answer, no
such host, a restart, a process that could not be started or was killed, a position ahead of its own. The agent of a member
that has WAL in its spool hands it in automatically, so a no counts only after some time, and after one more look at the store.
For a member that is gone for good a person may say no.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.core.runs import Runs

SETTLE_SECONDS: Final = 10.0
"""Seconds from the last no until it counts: meanwhile a member's agent hands in what its spool has."""
RESERVE_SHARE: Final = 10
"""The part of pg_wal's disk that stays free for PostgreSQL: one in so many."""
RESERVE_SEGMENTS: Final = 10
RESERVE_SECONDS: Final = 3600.0
"""For so long the disk must last, as fast as WAL fills it."""
_REMOVED: Final = "has already been removed"
"""The walsender's word in every version of PostgreSQL; libpq puts its own before it. In another language it is silence."""


class Why(Enum):
    """Why a suspicion ended as a gap; the text goes into the store and the log."""

    PROVED = "every member that could have it has said no"
    FORGOTTEN = "every member that could have it has said no, or was forgotten by a person"
    ACCEPTED = "accepted by a person"
    WAITED = "not proved: gap.patience is over"
    DISK = "not proved: the disk of pg_wal runs short, here or at another member"


@dataclass(frozen=True, slots=True)
class Lost:
    """A run of segments of one timeline, up to, not including, number ``end``."""

    first: Segment
    end: int

    @property
    def end_lsn(self) -> Lsn:
        return Lsn(self.end * self.first.size)

    def as_gap(self) -> Gap:
        return Gap(self.first.timeline, str(self.first.start), str(self.end_lsn))

    def __str__(self) -> str:
        return f"{self.first.start} to {self.end_lsn} of timeline {self.first.timeline}"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A person's word: of what was written before ``upto`` on ``timeline`` or an older one, nobody waits for that member."""

    member: str
    timeline: int
    upto: Lsn

    def covers(self, segment: Segment) -> bool:
        return segment.timeline <= self.timeline and segment.end <= self.upto


def stretches(history: History, size: SegmentSize, runs: Iterable[tuple[int, int]]) -> list[Lost]:
    """Runs of numbers of one chain, each cut where the timeline changes."""
    found: list[Lost] = []
    for begun, end in runs:
        first = begun
        while first < end:
            segment = history.segment(first, size)
            upto = bisect_right(
                range(first, end), segment.timeline, key=lambda number: history.timeline_of(number, size)
            )
            found.append(Lost(segment, first + upto))
            first += upto
    return found


def covers(gaps: Iterable[Gap], gap: Gap) -> bool:
    """Whether all of it lies in one of ``gaps``."""
    start, end = Lsn.parse(gap.start), Lsn.parse(gap.end)
    return any(
        other.timeline == gap.timeline and Lsn.parse(other.start) <= start and end <= Lsn.parse(other.end)
        for other in gaps
    )


def says_no(said: str) -> bool:
    """Whether that is a walsender's positive no, by what pg_receivewal printed."""
    return _REMOVED in said


def below_reserve(free: int, total: int, size: SegmentSize, growth: float | None = None) -> bool:
    """Whether the disk of pg_wal runs short. All in bytes; ``growth``: how many a second fill it, None: not known."""
    return free < max(total // RESERVE_SHARE, RESERVE_SEGMENTS * size, (growth or 0.0) * RESERVE_SECONDS)


class Suspicions:
    """What is suspected lost along one chain, and who has said no to it. Not safe for several threads."""

    def __init__(self, history: History, size: SegmentSize) -> None:
        self._history = history
        self._size = size
        self._lost = Runs()
        self._since: list[tuple[int, int, float]] = []
        """Runs with the time when they were first suspected."""
        self._refused: dict[str, Runs] = {}
        self._refused_at: dict[str, float] = {}
        self._forgotten: dict[str, list[Forgotten]] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def __contains__(self, number: int) -> bool:
        return number in self._lost

    def suspect(self, first: int, end: int, now: float) -> None:
        """The local server no longer has the segments with those numbers."""
        fresh = Runs()
        fresh.add(first, end)
        for begun, ended in self._lost:
            fresh.remove(begun, ended)
        self._since += [(begun, ended, now) for begun, ended in fresh]
        self._lost.add(first, end)

    def settle(self, first: int, end: int) -> None:
        """They were found, or are a recorded gap."""
        self._lost.remove(first, end)
        if not self._lost:
            self._since.clear()
            self._refused.clear()
            self._refused_at.clear()

    def refuse(self, member: str, number: int, now: float) -> None:
        """That member, or that store, has said no to that segment; the first time counts."""
        refused = self._refused.setdefault(member, Runs())
        if number not in refused:
            refused.add(number, number + 1)
            self._refused_at[member] = now

    def forget(self, words: Iterable[Forgotten]) -> None:
        """All that count now, in place of those before: a member that is back is asked again."""
        self._forgotten = {}
        for word in words:
            self._forgotten.setdefault(word.member, []).append(word)

    def said_no(self, member: str) -> int:
        """To how many segments."""
        return sum(end - first for first, end in self._refused.get(member, Runs()))

    def segments(self) -> Iterator[Segment]:
        """What is lost, in order. Safe while it changes."""
        for first, end in tuple(self._lost):
            yield from (self._history.segment(number, self._size) for number in range(first, end))

    def wanted_from(self, member: str) -> Iterator[Segment]:
        """What that member was not asked for yet, or did not answer."""
        refused = self._refused.get(member, Runs())
        return (
            segment
            for segment in self.segments()
            if segment.number not in refused
            and segment.number in self._lost
            and not self._is_forgotten(member, segment)
        )

    def silent(self, members: Collection[str]) -> list[str]:
        """Those of the members that have not said no to everything."""
        return sorted(member for member in members if any(True for _ in self.wanted_from(member)))

    def forgotten(self, members: Collection[str]) -> list[str]:
        """Those of the members that would be waited for without a person's word."""
        return sorted(
            member for member in members if any(self._only_forgotten(member, each) for each in self.segments())
        )

    def lost(self) -> list[Lost]:
        """In order, each within one timeline."""
        return stretches(self._history, self._size, self._lost)

    def since(self) -> float | None:
        """When the oldest that is still suspected was first."""
        return min((self._suspected_at(first) for first, _ in self._lost), default=None)

    def newest(self, lost: Lost) -> float:
        """When the last of that run was suspected."""
        return max(since for first, end, since in self._since if first < lost.end and lost.first.number < end)

    def gaps(
        self,
        now: float,
        members: Collection[str] | None,
        accepted: Collection[Gap],
        patience: float,
        *,
        short_of_disk: bool,
    ) -> list[tuple[Lost, Why]]:
        """What is a gap by now. ``members`` are all that could have it; None where they are not known."""
        found: dict[Why, Runs] = {}
        for segment in self.segments():
            why = self._why(segment, now, members, accepted, patience, short_of_disk=short_of_disk)
            if why is not None:
                found.setdefault(why, Runs()).add(segment.number, segment.number + 1)
        return [(lost, why) for why, runs in found.items() for lost in stretches(self._history, self._size, runs)]

    def _why(
        self,
        segment: Segment,
        now: float,
        members: Collection[str] | None,
        accepted: Collection[Gap],
        patience: float,
        *,
        short_of_disk: bool,
    ) -> Why | None:
        number = segment.number
        suspected_at = self._suspected_at(number)
        if covers(accepted, Lost(segment, segment.number + 1).as_gap()):
            return Why.ACCEPTED
        if members is not None and all(
            number in self._refused.get(member, Runs()) or self._is_forgotten(member, segment) for member in members
        ):
            said = max([suspected_at, *(self._refused_at.get(member, suspected_at) for member in members)])
            why = Why.FORGOTTEN if any(self._only_forgotten(member, segment) for member in members) else Why.PROVED
            return why if now - said >= SETTLE_SECONDS else None
        if now - suspected_at >= patience:
            return Why.WAITED
        return Why.DISK if short_of_disk else None

    def _is_forgotten(self, member: str, segment: Segment) -> bool:
        return any(word.covers(segment) for word in self._forgotten.get(member, ()))

    def _only_forgotten(self, member: str, segment: Segment) -> bool:
        refused = self._refused.get(member, Runs())
        return segment.number not in refused and self._is_forgotten(member, segment)

    def _suspected_at(self, number: int) -> float:
        return next(since for first, end, since in self._since if first <= number < end)
