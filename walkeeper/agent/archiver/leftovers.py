"""What a node that does not own the record still has in its spool: hand in what the archive lacks, drop what it has.

This is how the spool of a returning old primary closes a gap that no other member could. So does its pg_wal: what is looked for
and lies there is copied into the spool first, before PostgreSQL, which may be about to start, uses the files again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.whereabouts import disk_of
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Record
from walkeeper.core.room import is_short, spool_reserve
from walkeeper.errors import BadName, Refused
from walkeeper.lib import events


class Leftovers:
    """Goes through the spool one segment a call. For one thread."""

    def __init__(self, spool: Spool, reserve: int) -> None:
        """``reserve``: as ``spool.reserve``, in bytes."""
        self._spool = spool
        self._reserve = reserve
        self._stored: dict[Segment, Receipt] = {}
        self._copied: set[Segment] = set()
        self._tries: Counter[Segment] = Counter()

    def copy_one_aside(self, record: Record, pg_wal: Path) -> bool:
        """WAL that is suspected lost, or a recorded gap; False if there is none to copy, or no room. Raises SpoolError."""
        gaps = [
            (gap.timeline, Lsn.parse(gap.start) // record.size, Lsn.parse(gap.end) // record.size)
            for gap in (*record.suspected, *record.gaps)
        ]
        if not gaps:
            return False
        there = {*self._copied, *self._spool.complete(record.size)}
        wanted = [
            segment
            for segment in _segments(pg_wal, record.size)
            if segment not in there
            and any(segment.timeline == timeline and first <= segment.number < end for timeline, first, end in gaps)
        ]
        for segment in sorted(wanted, key=lambda each: (self._tries[each], each.number)):
            if not self._has_room(record.size):
                return False
            self._tries[segment] += 1  # one that cannot be read keeps no other from its turn
            if self._spool.copy_in(segment, pg_wal / segment.name):
                self._copied.add(segment)
                events.info("copied_aside", segment=segment, why="it is looked for")
                return True
        return False

    def _has_room(self, size: SegmentSize) -> bool:
        try:
            free, total = disk_of(self._spool.wal)
        except OSError:
            return False
        reserve = spool_reserve(total, self._reserve, size)
        short = is_short(free, total, reserve, self._spool.limit, size, before=False, waits=False)
        return not short and self._spool.used() + size <= self._spool.limit

    def hand_in_one(self, archive: Archive, record: Record) -> bool:
        """Deal with one segment; True if there was one to deal with. Raises the store's errors.

        Segments above the frontier stay in the spool until the record has passed them, stored or not (the order).
        """
        waiting = self._spool.complete(archive.size)
        history = archive.contents.history(record.timeline) if waiting else None
        if history is None or archive.contents.start() is None:  # an empty store may be the wrong one
            return False
        for segment in waiting:
            if segment in self._stored and segment.end > record.position:
                continue
            self._deal_with(segment, archive, record, history)
            return True
        return False

    def _deal_with(self, segment: Segment, archive: Archive, record: Record, history: History) -> None:
        if not history.contains(segment):
            self._spool.put_aside(segment.name, f"not in the chain of timeline {history.timeline}")
            return
        try:
            receipt = self._stored.get(segment)
            if receipt is None:  # that its name is stored says nothing: the bytes are compared (P13)
                receipt = archive.confirm_segment(segment, self._spool.read(segment), history)
                if not receipt.was_present:
                    events.info("leftover_archived", segment=segment)
        except FileNotFoundError:
            return
        except Refused as problem:
            events.failure("leftover_refused", problem, segment=segment)
            self._spool.put_aside(segment.name, problem.reason)
            return
        self._stored[segment] = receipt
        if segment.end <= record.position:
            self._spool.remove(receipt)
            del self._stored[segment]


def _segments(pg_wal: Path, size: SegmentSize) -> Iterator[Segment]:
    """Whose names lie there; none where it cannot be read, as while the directory is being made again."""
    paths: list[Path] = []
    with suppress(OSError):
        paths = list(pg_wal.iterdir())
    for path in paths:
        with suppress(BadName):
            yield Segment.parse(path.name, size)
