"""What of a chain is stored: gaps, what lies outside it, the windows that can be restored. From what listings say alone.

Segments are numbers in sorted, disjoint ranges, so that a million of them without a hole cost what one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from walkeeper.core.history import History
from walkeeper.core.lsn import SegmentSize

FOREVER: Final = 1 << 64
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


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of the chain that is not stored. ``recorded``: that it no longer exists anywhere was noted in the store."""

    stretch: Stretch
    recorded: bool


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
    stored: tuple[Stretch, ...]
    holes: tuple[Hole, ...]
    windows: tuple[Range, ...]
    closed: tuple[Stretch, ...]
    before: tuple[Stretch, ...]
    beyond: tuple[Stretch, ...]
    orphans: tuple[Stretch, ...]
    missing_histories: tuple[Range, ...]


def merged(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """Any ranges as sorted and disjoint ones, which do not touch each other."""
    result: list[Range] = []
    for first, end in sorted(ranges):
        if first >= end:
            continue
        if result and first <= result[-1].end:
            result[-1] = Range(result[-1].first, max(end, result[-1].end))
        else:
            result.append(Range(first, end))
    return result


def intersect(these: Sequence[Range], those: Sequence[Range]) -> list[Range]:
    """What is in both. Takes and returns sorted, disjoint ranges."""
    result, i, j = [], 0, 0
    while i < len(these) and j < len(those):
        first, end = max(these[i].first, those[j].first), min(these[i].end, those[j].end)
        if first < end:
            result.append(Range(first, end))
        if these[i].end < those[j].end:
            i += 1
        else:
            j += 1
    return result


def subtract(these: Sequence[Range], those: Sequence[Range]) -> list[Range]:
    """What is in the first and not in the second. Takes and returns sorted, disjoint ranges."""
    ends = [0, *(other.end for other in those)]
    begins = [*(other.first for other in those), FOREVER]
    return intersect(these, [Range(end, begin) for end, begin in zip(ends, begins, strict=True) if end < begin])


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
        known = merged([*archived.segments.get(stretch.timeline, ()), *archived.gaps.get(stretch.timeline, ())])
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


def hidden(archived: Archived, history: History, size: SegmentSize, first: int, start: int) -> list[Stretch]:
    """What is missing of the chain below ``start``, and lies above something that is stored from ``first`` on.

    But for what a floor gave up: there a hole hides nothing.
    """
    files = without(chain(history, size, first, start), archived.below)
    lowest = min((each.first for each in within(archived.segments, files)), default=start)
    return missing(archived, history, size, lowest, start)


def missing(archived: Archived, history: History, size: SegmentSize, first: int, end: int) -> list[Stretch]:
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
    stored = within(archived.segments, files)
    holes = [Hole(hole, recorded=False) for hole in without(without(files, archived.segments), archived.gaps)]
    holes += [Hole(hole, recorded=True) for hole in within(archived.gaps, without(files, archived.segments))]
    everything = [Stretch(timeline, *found) for timeline in archived.segments for found in archived.segments[timeline]]
    whole_chain: dict[int, list[Range]] = {
        stretch.timeline: [Range(stretch.first, stretch.end)] for stretch in chain(history, size)
    }
    begun = history.timeline_of(first, size)
    return Coverage(
        first=first,
        end=end,
        stored=tuple(stored),
        holes=tuple(sorted(holes, key=lambda hole: hole.stretch.first)),
        windows=tuple(merged((stretch.first, stretch.end) for stretch in stored)),
        closed=tuple(within(archived.gaps, stored)),
        before=tuple(within(archived.segments, chain(history, size, 0, first))),
        beyond=tuple(within(archived.segments, chain(history, size, end))),
        orphans=tuple(sorted(without(everything, whole_chain))),
        missing_histories=tuple(
            subtract(
                merged([(begun + 1, history.timeline + 1)]), merged((there, there + 1) for there in archived.histories)
            )
        ),
    )


def within(ranges: Mapping[int, Sequence[Range]], stretches: Iterable[Stretch]) -> list[Stretch]:
    """What of the stretches is in their timelines' ranges."""
    return [
        Stretch(timeline, *found)
        for timeline, first, end in stretches
        for found in intersect([Range(first, end)], ranges.get(timeline, ()))
    ]


def without(stretches: Iterable[Stretch], ranges: Mapping[int, Sequence[Range]]) -> list[Stretch]:
    """What of the stretches is not in their timelines' ranges."""
    return [
        Stretch(timeline, *found)
        for timeline, first, end in stretches
        for found in subtract([Range(first, end)], ranges.get(timeline, ()))
    ]
