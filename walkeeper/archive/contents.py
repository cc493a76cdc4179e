"""What the archive holds, by what the store lists: segments, recorded gaps, starts, histories. Nothing is judged here.

Memory grows with the holes, not with the segments: names that follow each other are one run, and each run is a few numbers.
Listings come in key order, which puts them side by side; no order is relied upon for what is found, only for how little it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Final

from walkeeper.archive.codec import AGAIN, STORED
from walkeeper.archive.expiry import below_floors
from walkeeper.archive.histories import stored_history
from walkeeper.archive.layout import ACCEPTED, Layout, cluster_prefix, parse_forgotten, parse_gap_name
from walkeeper.archive.life import FIRST, Sign, parse
from walkeeper.archive.stated import is_whole
from walkeeper.archive.stored_runs import Run, Runs
from walkeeper.core.coverage import Archived, Range, begins, chain, merged, missing, reach, united, within
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.core.suspicion import Forgotten
from walkeeper.errors import BadName, NotAuthentic, Refused
from walkeeper.lib.parallel import in_parallel
from walkeeper.store.base import SMALL, ObjectInfo, Store

AT_ONCE: Final = 8
"""Segments that are looked at at the same time."""
NAMED: Final = 100
"""Names of one kind that are kept; the others are counted."""

_SUFFIX: Final = "|".join(re.escape(suffix) for suffix in sorted(STORED, key=len, reverse=True))
_WAL: Final = re.compile(
    rf"wal/([0-9A-F]{{16}})/((\1)([0-9A-F]{{8}}))(\.partial|\.[0-9A-F]{{8}}\.backup)?({_SUFFIX})\Z"
)
_START: Final = re.compile(r"start/([0-9A-F]{24})\.json\Z")
_GAP: Final = re.compile(r"gap/([0-9A-F]{24}-[0-9A-F]{16})\.json\Z")
_ACCEPTED: Final = re.compile(rf"gap/([0-9A-F]{{24}}-[0-9A-F]{{16}}){re.escape(ACCEPTED)}\Z")
_HISTORY: Final = re.compile(rf"history/([0-9A-F]{{8}})\.history({re.escape(AGAIN)})?\Z")
IDENTIFIER: Final = re.compile(r"[0-9]{1,20}\Z")


@dataclass(slots=True)
class Names:
    """Some names, and how many there are."""

    count: int = 0
    bytes: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str, size: int) -> None:
        self.count += 1
        self.bytes += size
        if len(self.first) < NAMED:
            self.first.append(name)


@dataclass(slots=True)
class Inventory:
    """One archive's objects. ``wal`` is by timeline and suffix; ``strange`` has keys that walkeeper gives to nothing."""

    wal: dict[tuple[int, str], Runs] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    """Gaps that people have accepted, which changes nothing of what is stored."""
    forgotten: list[Forgotten] = field(default_factory=list)
    """Members for whose WAL nobody waits, which changes nothing either."""
    histories: list[int] = field(default_factory=list)
    backups: Names = field(default_factory=Names)
    base_backups: Names = field(default_factory=Names)
    """Objects of base backups, of which ``archive.backups`` knows more."""
    partials: Names = field(default_factory=Names)
    tails: Names = field(default_factory=Names)
    signs: dict[str, Sign] = field(default_factory=dict)
    """The newest sign of life, by token."""
    first_signs: dict[str, Sign] = field(default_factory=dict)
    """The first one, by token, where it is still there."""
    strange: Names = field(default_factory=Names)
    empty: Names = field(default_factory=Names)
    """Keys of segments without a single byte."""
    objects: int = 0
    bytes: int = 0
    whole: bool = True
    """False where the listing was not read to its end."""

    def start(self, size: SegmentSize) -> Segment | None:
        """The newest segment that the archive states to begin with; None for an archive that was never begun."""
        return next(reversed(self.stated_starts(size)), None)

    def stated_starts(self, size: SegmentSize) -> list[Segment]:
        """All of them, in order: a new one is stated where an archive is shortened."""
        return sorted(parsed(self.starts, size), key=lambda first: first.number)

    def begins(
        self, history: History, size: SegmentSize, below: Mapping[int, Sequence[Range]] | None = None
    ) -> Segment | None:
        """The one from which ``history``'s chain counts: see ``walkeeper.core.coverage.begins``; ``below`` as in Archived."""
        stated = {first.number: first for first in self.stated_starts(size)}
        number = begins(stated, replace(self.archived(size), below=below or {}), history, size)
        return None if number is None else stated[number]

    def recorded_gaps(self, size: SegmentSize) -> list[Gap]:
        """Each within one timeline, in order of position; closed ones too."""
        return _in_order(_named_gaps(self.gaps, size))

    def accepted_gaps(self, size: SegmentSize) -> list[Gap]:
        """What people have accepted as lost, recorded or not; in the same way."""
        return _in_order(_named_gaps(self.accepted, size))

    def archived(self, size: SegmentSize) -> Archived:
        """For ``walkeeper.core.coverage``."""
        gaps: dict[int, list[tuple[int, int]]] = {}
        for first, end in _named_gaps(self.gaps, size):
            gaps.setdefault(first.timeline, []).append((first.number, end // size))
        stored: dict[int, list[Iterator[tuple[int, int]]]] = {}
        for timeline, suffix in sorted(self.wal):
            stored.setdefault(timeline, []).append(_sized(self.wal[timeline, suffix].in_order(), size))
        return Archived(
            {timeline: united(*parts) for timeline, parts in stored.items()},
            {timeline: merged(those) for timeline, those in gaps.items()},
            frozenset(self.histories),
        )

    def runs(self, size: SegmentSize) -> dict[tuple[int, str], Runs]:
        """Numbers by segment size, in order. Names that this size cannot have are left out: see ``impossible``."""
        found = {}
        for kind, raw in self.wal.items():
            tidy = found[kind] = Runs()
            for run in raw.in_order():
                for first, end in _by_size(run.first, run.end, size):
                    new = Run(first, end, run.bytes, run.oldest, run.newest)
                    if tidy.last is not None and tidy.last.end == first:
                        tidy.last.take_in(new)
                    else:
                        tidy.append(new)
        return found

    def impossible(self, size: SegmentSize) -> int:
        """How many segments have names that this segment size cannot have."""
        return sum(
            max(0, (end - 1 & 0xFFFFFFFF) + 1 - max(first & 0xFFFFFFFF, size.per_log))
            for runs in self.wal.values()
            for first, end in runs.numbers()
        )


@dataclass(slots=True)
class Listing:
    """All archives below one prefix, by system identifier. ``strange`` belongs to none of them: other groups, other tools."""

    archives: dict[int, Inventory] = field(default_factory=dict)
    strange: Names = field(default_factory=Names)


def take(store: Store, scope: str, group: int | None, seen: Callable[[int], None] = lambda _: None) -> Listing:
    """List everything once. ``seen`` is told after each thousand objects how many there were. Raises the store's errors."""
    listing = Listing()
    prefix = cluster_prefix(scope, group)
    for number, info in enumerate(store.list(prefix), start=1):
        if number % 1000 == 0:
            seen(number)
        root, _, rest = info.key.removeprefix(prefix).partition("/")
        # A Citus group of a scope that has none of its own: scope/0/7300…/
        if not IDENTIFIER.match(root) or IDENTIFIER.match(rest.partition("/")[0]):
            listing.strange.add(info.key, info.size)
            continue
        inventory = listing.archives.setdefault(int(root), Inventory())
        _put(inventory, rest, info)
    return listing


class Contents:
    """One archive's, asked again at each call. Safe for several threads if the store is. All raise the store's errors."""

    def __init__(self, store: Store, layout: Layout, size: SegmentSize) -> None:
        self._store = store
        self._layout = layout
        self._size = size

    def listed(self, *places: str, at_most: int | None = None) -> Inventory:
        """What the store lists below those prefixes of the archive, each of them up to so many objects."""
        inventory = Inventory()
        for place in places:
            for number, info in enumerate(self._store.list(place)):
                if number == at_most:
                    inventory.whole = False
                    break
                _put(inventory, info.key.removeprefix(self._layout.root), info)
        return inventory

    def start(self) -> Segment | None:
        """The segment that the archive states to begin with; None for an archive that was never begun."""
        return self.listed(self._layout.starts).start(self._size)

    def gaps(self) -> list[Gap]:
        """The gaps that were recorded, each within one timeline, in order of position; closed ones too."""
        return self.listed(self._layout.gaps).recorded_gaps(self._size)

    def accepted_gaps(self) -> list[Gap]:
        """What people have accepted as lost, each within one timeline, in order of position."""
        return self.listed(self._layout.gaps).accepted_gaps(self._size)

    def open_gaps(self) -> list[Gap]:
        """The recorded gaps that are not closed: a returning member may have handed in what was missing."""
        return [gap for gap in self.gaps() if not all(map(self.has, self._within(gap)))]

    def has(self, segment: Segment) -> bool:
        """Whether the store has a whole object of that segment, under any suffix."""
        return any(self._has(self._layout.file(segment, suffix)) for suffix in STORED)

    def _has(self, key: str) -> bool:
        try:
            info = self._store.head(key)
        except NotAuthentic:
            return False
        return info is not None and is_whole(info)

    def looks(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, bool]]:
        """Each with what ``has`` says, in order. Some at a time, as they are drawn."""
        left = iter(segments)
        while some := list(islice(left, AT_ONCE)):
            found = dict(in_parallel(lambda each: (each, self.has(each)), some, len(some)))
            yield from ((segment, found[segment]) for segment in some)

    def segments(self, folder: str = "") -> Iterator[Segment]:
        """Every complete segment that the store lists, by timeline and number; or those in one folder of ``wal``."""
        for timeline, found in self.listed(f"{self._layout.wal}{folder}").archived(self._size).segments.items():
            for first, end in found:
                yield from (Segment(timeline, number, self._size) for number in range(first, end))

    def frontier(self, history: History) -> Lsn | None:
        """How far ``history``'s chain is stored without a break, from its start, over recorded gaps (P11).

        None for an archive that was never begun. The listing may lag behind: then this is lower than it could be.
        """
        found = self.extent(history)
        return None if found is None else found[1]

    def extent(self, history: History) -> tuple[Segment, Lsn] | None:
        """With the segment that this chain begins with."""
        if self.start() is None:
            return None
        listed = self.listed(self._layout.wal, self._layout.gaps, self._layout.starts)
        first = listed.begins(history, self._size, below_floors(self._store, self._layout))
        if first is None:
            return None
        return first, Lsn(reach(listed.archived(self._size), history, self._size, first.number) * self._size)

    def along(self, history: History, first: Segment, end: Segment) -> tuple[Segment | None, Sequence[Range]]:
        """Of that chain from ``first`` up to ``end``: the first segment that is neither listed, nor in a gap, nor given up, and
        the runs of numbers that are listed.
        """
        listed = self.listed(self._layout.wal, self._layout.gaps, self._layout.starts)
        below = below_floors(self._store, self._layout)
        begun = listed.begins(history, self._size, below) or first
        archived = replace(listed.archived(self._size), below=below)
        lowest = max(begun.number, first.number)
        holes = missing(archived, history, self._size, lowest, end.number)
        runs = within(archived.segments, chain(history, self._size, lowest, end.number))
        hole = history.segment(holes[0].first, self._size) if holes else None
        return hole, united((begin, stop) for _, begin, stop in runs)

    def history(self, timeline: int) -> History | None:
        """A timeline's history as it is stored; the first timeline has none and needs none."""
        return stored_history(self._store, self._layout, timeline)

    def histories_from(self, timeline: int) -> Iterator[History]:
        """That timeline's, and those after it up to the first that is not there: as PostgreSQL looks for the newest."""
        for number in count(timeline):
            history = self.history(number)
            if history is None:
                return
            yield history

    def _within(self, gap: Gap) -> Iterator[Segment]:
        for number in range(Lsn.parse(gap.start) // self._size, Lsn.parse(gap.end) // self._size):
            yield Segment(gap.timeline, number, self._size)


def starts(store: Store, layout: Layout) -> list[str]:
    """The names of the segments that the archive states to begin with, of whatever size."""
    return [
        match[1] for info in store.list(layout.starts) if (match := _START.match(info.key.removeprefix(layout.root)))
    ]


def stated_size(store: Store, layout: Layout, names: Iterable[str]) -> SegmentSize | None:
    """How large segments are, by the first of those starts that says it; None where none does. Raises the store's errors."""
    for name in names:
        try:
            stated = json.loads(store.get(f"{layout.starts}{name}.json", SMALL) or b"")
            return SegmentSize(int(stated["segment_size"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, Refused):
            continue  # damaged, or somebody else's
    return None


def parsed(names: Iterable[str], size: SegmentSize) -> Iterator[Segment]:
    """The segments of these names that can be ones of that size."""
    for name in names:
        try:
            yield Segment.parse(name, size)
        except BadName:
            continue  # of another segment size


def _sized(runs: Runs, size: SegmentSize) -> Iterator[tuple[int, int]]:
    return (found for first, end in runs.numbers() for found in _by_size(first, end, size))


def _by_size(first: int, end: int, size: SegmentSize) -> Iterator[tuple[int, int]]:
    """A run's numbers by segment size; nothing where this size cannot have them."""
    log, low = first >> 32, first & 0xFFFFFFFF
    if low < size.per_log:
        begin = log * size.per_log + low
        yield begin, min(begin + end - first, (log + 1) * size.per_log)


def _named_gaps(names: Iterable[str], size: SegmentSize) -> Iterator[tuple[Segment, Lsn]]:
    for name in names:
        try:
            yield parse_gap_name(name, size)
        except BadName:
            continue  # of another segment size


def _in_order(gaps: Iterable[tuple[Segment, Lsn]]) -> list[Gap]:
    found = [Gap(first.timeline, str(first.start), str(end)) for first, end in gaps]
    return sorted(found, key=lambda gap: Lsn.parse(gap.start))


def _put(inventory: Inventory, rest: str, info: ObjectInfo) -> None:
    inventory.objects += 1
    inventory.bytes += info.size
    kind = rest.partition("/")[0]
    if kind == "wal" and (match := _WAL.match(rest)) and match[1][:8] != "00000000":
        if match[5] is None:
            _put_segment(inventory, match, info)
        else:
            (inventory.partials if match[5] == ".partial" else inventory.backups).add(match[2] + match[5], info.size)
    elif kind == "start" and (match := _START.match(rest)):
        inventory.starts.append(match[1])
    elif kind == "gap" and (match := _GAP.match(rest)):
        inventory.gaps.append(match[1])
    elif kind == "gap" and (match := _ACCEPTED.match(rest)):
        inventory.accepted.append(match[1])
    elif kind == "gap" and (word := parse_forgotten(rest.removeprefix("gap/"))):
        inventory.forgotten.append(word)
    elif kind == "history" and (match := _HISTORY.match(rest)):
        inventory.histories.append(int(match[1], 16))
    elif kind == "backup":
        inventory.base_backups.add(rest, info.size)
    elif kind == "tail":
        inventory.tails.add(rest, info.size)
    elif kind == "life" and (sign := parse(rest.removeprefix("life/"), info)):
        if sign.number == FIRST:
            inventory.first_signs[sign.token] = sign
        inventory.signs[sign.token] = max(sign, inventory.signs.get(sign.token, sign), key=lambda each: each.number)
    elif kind not in {"expire", "pin", "proof"}:
        inventory.strange.add(info.key, info.size)


def _put_segment(inventory: Inventory, match: re.Match[str], info: ObjectInfo) -> None:
    if info.size == 0:
        inventory.empty.add(info.key, 0)
        return  # it does not count as stored
    kind = int(match[1][:8], 16), match[6]
    runs = inventory.wal.get(kind) or inventory.wal.setdefault(kind, Runs())
    number = int(match[2][8:], 16)
    new = Run(number, number + 1, info.size, info.modified, info.modified)
    if runs.last is not None and runs.last.end == number and number & 0xFFFFFFFF:
        runs.last.take_in(new)
    else:
        runs.append(new)
