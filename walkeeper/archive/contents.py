"""What one LIST of a cluster's prefix says: which archives are there, and what each of them holds. Nothing is judged here.

Memory grows with the holes, not with the segments: names that follow each other are one run. Listings come in key order,
which puts them side by side; no order is relied upon for what is found, only for how little it takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from walkeeper.archive.codec import SUFFIXES
from walkeeper.archive.layout import ACCEPTED, cluster_prefix
from walkeeper.core.coverage import Range, merged
from walkeeper.core.lsn import SegmentSize
from walkeeper.store.base import ObjectInfo, Store

NAMED: Final = 100
"""How many names of one kind are kept; the others are counted."""

_SUFFIX: Final = "|".join(re.escape(suffix) for suffix in sorted(SUFFIXES, reverse=True))
_WAL: Final = re.compile(
    rf"wal/([0-9A-F]{{16}})/((\1)([0-9A-F]{{8}}))(\.partial|\.[0-9A-F]{{8}}\.backup)?({_SUFFIX})\Z"
)
_START: Final = re.compile(r"start/([0-9A-F]{24})\.json\Z")
_GAP: Final = re.compile(r"gap/([0-9A-F]{24}-[0-9A-F]{16})\.json\Z")
_HISTORY: Final = re.compile(r"history/([0-9A-F]{8})\.history\Z")
_IDENTIFIER: Final = re.compile(r"[0-9]{1,20}\Z")


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
class Run:
    """Objects whose names follow each other. Before the segment size is known, a number is the name's last sixteen digits."""

    first: int
    end: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None

    def take_in(self, other: Run) -> None:
        """``other`` begins where this one ends."""
        self.end = other.end
        self.bytes += other.bytes
        self.oldest = _chosen(min, self.oldest, other.oldest)
        self.newest = _chosen(max, self.newest, other.newest)


@dataclass(slots=True)
class Inventory:
    """One archive's objects. ``wal`` is by timeline and suffix; ``strange`` has keys that walkeeper gives to nothing."""

    wal: dict[tuple[int, str], list[Run]] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    histories: list[int] = field(default_factory=list)
    backups: Names = field(default_factory=Names)
    partials: Names = field(default_factory=Names)
    tails: Names = field(default_factory=Names)
    strange: Names = field(default_factory=Names)
    empty: Names = field(default_factory=Names)
    """Keys of segments without a single byte."""
    objects: int = 0
    bytes: int = 0

    def runs(self, size: SegmentSize) -> dict[tuple[int, str], list[Run]]:
        """Numbers by segment size, in order. Names that this size cannot have are left out: see ``impossible``."""
        found = {}
        for kind, raw in self.wal.items():
            tidy: list[Run] = []
            for run in sorted(raw, key=lambda run: run.first):
                log, low = run.first >> 32, run.first & 0xFFFFFFFF
                first = log * size.per_log + low
                end = min(first + run.end - run.first, (log + 1) * size.per_log)
                if low < size.per_log:
                    new = Run(first, end, run.bytes, run.oldest, run.newest)
                    if tidy and tidy[-1].end == first:
                        tidy[-1].take_in(new)
                    else:
                        tidy.append(new)
            found[kind] = tidy
        return found

    def impossible(self, size: SegmentSize) -> int:
        """How many segments have names that this segment size cannot have."""
        return sum(
            max(0, (run.end - 1 & 0xFFFFFFFF) + 1 - max(run.first & 0xFFFFFFFF, size.per_log))
            for runs in self.wal.values()
            for run in runs
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
    for count, info in enumerate(store.list(prefix), start=1):
        if count % 1000 == 0:
            seen(count)
        root, _, rest = info.key.removeprefix(prefix).partition("/")
        # A Citus group of a scope that has none of its own: scope/0/7300…/
        if not _IDENTIFIER.match(root) or _IDENTIFIER.match(rest.partition("/")[0]):
            listing.strange.add(info.key, info.size)
            continue
        inventory = listing.archives.setdefault(int(root), Inventory())
        _put(inventory, rest, info)
    return listing


def ranges(runs: dict[tuple[int, str], list[Run]]) -> dict[int, list[Range]]:
    """The numbers that are stored, by timeline, whatever their suffix."""
    timelines = {timeline for timeline, _ in runs}
    return {timeline: merged(_of(runs, timeline)) for timeline in sorted(timelines)}


def _of(runs: dict[tuple[int, str], list[Run]], timeline: int) -> Iterator[tuple[int, int]]:
    return ((run.first, run.end) for suffix in SUFFIXES for run in runs.get((timeline, suffix), ()))


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
    elif kind == "gap" and rest.endswith(ACCEPTED):
        pass  # what people say of a gap does not change what is stored
    elif kind == "history" and (match := _HISTORY.match(rest)):
        inventory.histories.append(int(match[1], 16))
    elif kind == "tail":
        inventory.tails.add(rest, info.size)
    else:
        inventory.strange.add(info.key, info.size)


def _put_segment(inventory: Inventory, match: re.Match[str], info: ObjectInfo) -> None:
    if info.size == 0:
        inventory.empty.add(info.key, 0)
    runs = inventory.wal.setdefault((int(match[1][:8], 16), match[6]), [])
    number = int(match[2][8:], 16)
    new = Run(number, number + 1, info.size, info.modified, info.modified)
    if runs and runs[-1].end == number and number & 0xFFFFFFFF:
        runs[-1].take_in(new)
    else:
        runs.append(new)


def _chosen(
    which: Callable[[datetime, datetime], datetime], one: datetime | None, other: datetime | None
) -> datetime | None:
    return which(one, other) if one is not None and other is not None else one or other
