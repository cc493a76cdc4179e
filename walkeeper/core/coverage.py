"""What of a chain is stored: gaps, what lies outside it, the windows that can be restored. From what listings say alone.

Segments are numbers in sorted, disjoint ranges, so that a million of them without a hole cost what one does. Where every second
one is missing, each range costs a few bytes: everything that a decision rests on is kept, and nothing of it as one object each.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple, TypeAlias

from walkeeper.core.history import History
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.packed import Packed

FOREVER: Final = 1 << 63
"""A segment number after every other."""


class Range(NamedTuple):
    """The numbers from ``first`` up to, not including, ``end``."""

    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.first


class Stretch(NamedTuple):
    """Segments of one timeline that follow each other; ``end`` is not included."""

    timeline: int
    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.first


class Hole(NamedTuple):
    """A stretch of the chain that is not stored. ``recorded``: that it no longer exists anywhere was noted in the store."""

    timeline: int
    first: int
    end: int
    recorded: bool

    @property
    def stretch(self) -> Stretch:
        return Stretch(self.timeline, self.first, self.end)


Ranges: TypeAlias = Packed[Range]
Stretches: TypeAlias = Packed[Stretch]


@dataclass(frozen=True, slots=True)
class Archived:
    """What an archive lists: complete segments and recorded gaps, by timeline, and the timelines whose history is there.

    ``below``: what lies below a recorded floor, whether it is there still, or stays with a backup of its own.
    """

    segments: Mapping[int, Sequence[Range]]
    gaps: Mapping[int, Sequence[Range]]
    histories: Collection[int]
    below: Mapping[int, Sequence[Range]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Coverage:
    """One chain from segment ``first`` up to ``end`` (not included), and the archive around it.

    ``stored`` and ``holes`` make up the chain, in order. ``windows`` are its unbroken parts, over all timelines.
    ``closed`` are recorded gaps of the chain that are stored by now. ``before`` and ``beyond`` belong to the chain and lie
    outside first and end; ``orphans`` are of no file of the chain. ``missing_histories`` are timeline numbers after that
    of the first segment: PostgreSQL looks for newer timelines one number after the other, and stops where one is missing.
    """

    first: int
    end: int
    stored: Stretches
    holes: Packed[Hole]
    windows: Ranges
    closed: Stretches
    before: Stretches
    beyond: Stretches
    orphans: Stretches
    missing_histories: Ranges


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges, a few of them, as sorted and disjoint ones, which do not touch each other."""
    return united(sorted(ranges))


def united(*parts: Iterable[tuple[int, int]]) -> Ranges:
    """The same of any number, each part of which is in order."""
    return Packed(Range, _joined(parts[0] if len(parts) == 1 else heapq.merge(*parts)))


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begun, reached = 0, -1
    for first, end in ranges:
        if first >= end:
            continue
        if first <= reached:
            reached = max(end, reached)
            continue
        if reached >= 0:
            yield begun, reached
        begun, reached = first, end
    if reached >= 0:
        yield begun, reached


def intersect(these: Iterable[tuple[int, int]], those: Iterable[tuple[int, int]]) -> Ranges:
    """What is in both. Takes and returns sorted, disjoint ranges."""
    return Packed(Range, _in_both(these, those))


def subtract(these: Iterable[tuple[int, int]], those: Iterable[tuple[int, int]]) -> Ranges:
    """What is in the first and not in the second. Takes and returns sorted, disjoint ranges."""
    return Packed(Range, _in_both(these, _between(those)))


def end_of(ranges: Sequence[Range], number: int) -> int:
    """The first number from this one on that is not in those ranges."""
    at = bisect_right(ranges, number, key=attrgetter("first")) - 1
    return max(number, ranges[at].end) if at >= 0 else number


def touches(ranges: Sequence[Range], first: int, end: int) -> bool:
    """Whether any number from ``first`` up to, not including, ``end`` is in those ranges."""
    at = bisect_left(ranges, end, key=attrgetter("first"))
    return first < end and at > 0 and ranges[at - 1].end > first


def _in_both(these: Iterable[tuple[int, int]], those: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    left, right = iter(these), iter(those)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        first, end = max(one[0], other[0]), min(one[1], other[1])
        if first < end:
            yield first, end
        if one[1] < other[1]:
            one = next(left, None)
        else:
            other = next(right, None)


def _between(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """All other numbers."""
    begin = 0
    for first, end in ranges:
        if begin < first:
            yield begin, first
        begin = end
    if begin < FOREVER:
        yield begin, FOREVER


def chain(history: History, size: SegmentSize, first: int = 0, end: int = FOREVER) -> list[Stretch]:
    """The files of ``history``'s chain with numbers from ``first`` up to ``end``, oldest timeline first."""
    begins = [0, *(switch.lsn // size for switch in history.switches), FOREVER]
    found = (
        Stretch(timeline, max(first, begin), min(end, next_begin))
        for timeline, begin, next_begin in zip(history.timelines, begins, begins[1:], strict=False)
    )
    return [stretch for stretch in found if stretch.first < stretch.end]


def reach(archived: Archived, history: History, size: SegmentSize, first: int) -> int:
    """Up to which number, from ``first`` on, the chain is stored without a break, over recorded gaps of its own files."""
    for stretch in chain(history, size, first):
        known = united(archived.segments.get(stretch.timeline, ()), archived.gaps.get(stretch.timeline, ()))
        missing = subtract([Range(stretch.first, stretch.end)], known)
        if missing:
            return missing[0].first
    return FOREVER


def begins(starts: Iterable[int], archived: Archived, history: History, size: SegmentSize) -> int | None:
    """The newest of the stated starts under which nothing is hidden; None where none is stated.

    An archive is shortened by a new start, after which what lies below it is deleted. So below the start that counts there is
    nothing of the chain, or an unbroken run up to it, over recorded gaps. Above a hole with more below, it may be anybody's word.
    """
    first: int | None = None
    for start in sorted(starts):
        if first is None or not hidden(archived, history, size, first, start):
            first = start
    return first


def hidden(archived: Archived, history: History, size: SegmentSize, first: int, start: int) -> Stretches:
    """What is missing of the chain below ``start``, and lies above something that is stored from ``first`` on.

    But for what a floor gave up: there a hole hides nothing.
    """
    files = without(chain(history, size, first, start), archived.below)
    lowest = min((each.first for each in within(archived.segments, files)), default=start)
    return missing(archived, history, size, lowest, start)


def missing(archived: Archived, history: History, size: SegmentSize, first: int, end: int) -> Stretches:
    """What is neither stored nor in a recorded gap of the chain from ``first`` up to ``end``, but for what a floor gave up."""
    files = without(chain(history, size, first, end), archived.below)
    return without(without(files, archived.segments), archived.gaps)


def last_stored(archived: Archived, history: History, size: SegmentSize) -> int | None:
    """The number after the newest file of the chain that is stored; None when none is."""
    ends = (found.end for found in within(archived.segments, chain(history, size)))
    return max(ends, default=None)


def coverage(archived: Archived, history: History, size: SegmentSize, first: int, end: int) -> Coverage:
    """Look at the chain from segment ``first`` up to ``end``."""
    files = chain(history, size, first, end)
    stored, absent = within(archived.segments, files), without(files, archived.segments)
    holes = heapq.merge(
        (Hole(*hole, recorded=False) for hole in without(absent, archived.gaps)),
        (Hole(*hole, recorded=True) for hole in within(archived.gaps, absent)),
        key=attrgetter("first"),
    )
    everything = (
        Stretch(timeline, *found) for timeline in sorted(archived.segments) for found in archived.segments[timeline]
    )
    whole_chain = {stretch.timeline: [Range(stretch.first, stretch.end)] for stretch in chain(history, size)}
    begun = history.timeline_of(first, size)
    return Coverage(
        first=first,
        end=end,
        stored=stored,
        holes=Packed(_hole, holes),
        windows=united((begin, stop) for _, begin, stop in stored),
        closed=within(archived.gaps, stored),
        before=within(archived.segments, chain(history, size, 0, first)),
        beyond=within(archived.segments, chain(history, size, end)),
        orphans=without(everything, whole_chain),
        missing_histories=subtract(
            merged([(begun + 1, history.timeline + 1)]), merged((there, there + 1) for there in archived.histories)
        ),
    )


def _hole(timeline: int, first: int, end: int, recorded: int) -> Hole:
    return Hole(timeline, first, end, bool(recorded))


def within(ranges: Mapping[int, Iterable[Range]], stretches: Iterable[Stretch]) -> Stretches:
    """What of the stretches, which are in order, is in their timelines' ranges."""
    return Packed(Stretch, _each(stretches, lambda timeline, parts: _in_both(parts, ranges.get(timeline, ()))))


def without(stretches: Iterable[Stretch], ranges: Mapping[int, Iterable[Range]]) -> Stretches:
    """What of the stretches, which are in order, is not in their timelines' ranges."""
    return Packed(
        Stretch, _each(stretches, lambda timeline, parts: _in_both(parts, _between(ranges.get(timeline, ()))))
    )


def _each(
    stretches: Iterable[Stretch], look: Callable[[int, Iterator[tuple[int, int]]], Iterator[tuple[int, int]]]
) -> Iterator[tuple[int, int, int]]:
    """What is found in those of each timeline, all at once."""
    for timeline, those in groupby(stretches, key=itemgetter(0)):
        for first, end in look(timeline, ((first, end) for _, first, end in those)):
            yield timeline, first, end
