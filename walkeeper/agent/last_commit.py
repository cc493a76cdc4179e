"""When the last transaction ended that is archived, read from pg_wal on this node: no store is asked, and no server.

A frontier only moves forward along its chain, so that of each stretch only what is new is read, from its end backward.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from walkeeper.core.commits import Commit, Part, commits_back
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.wal_page import PAGE_SIZE

BLOCK: Final = MIB // 4
"""Bytes that are read at once."""
MOST: Final = 64 * MIB
"""Bytes that one look reads; what lies before is not known then."""


class LastCommit:
    """Safe for several threads."""

    def __init__(self, pg_wal: Path) -> None:
        self._pg_wal = pg_wal
        self._lock = threading.Lock()
        self._chain = ("", 0)
        self._upto = Lsn(0)
        self._found: Commit | None = None

    def below(self, record: Record, local: Lsn) -> Commit | None:
        """The last one below that frontier; None where it is not known: this node's WAL ends at ``local``, or is too new."""
        frontier = record.position
        with self._lock:
            chain = (record.system_identifier, record.timeline)
            if chain != self._chain or frontier < self._upto:
                self._chain, self._upto, self._found = chain, Lsn(0), None
            if frontier > self._upto and local >= frontier:
                try:
                    self._found = self._look(record, self._upto, frontier)
                except OSError:
                    self._found = None  # recycled, or never here
                self._upto = frontier
            return self._found if self._upto == frontier else None

    def _look(self, record: Record, begin: Lsn, end: Lsn) -> Commit | None:
        """In files of the record's timeline. Raises OSError where one is not there."""
        following = b""
        lowest = max(0, begin - BLOCK, end - MOST)
        for number in range((end - 1) // record.size, lowest // record.size - 1, -1):
            segment = Segment(record.timeline, number, record.size)
            with (self._pg_wal / segment.name).open("rb") as file:
                for part, plain in _from_behind(file, segment, lowest, end):
                    found = next(commits_back(plain, part, end, following), None)
                    if found is not None:
                        return found
                following = plain
        return self._found if lowest <= begin else None


def _from_behind(file: BinaryIO, segment: Segment, lowest: int, end: Lsn) -> Iterator[tuple[Part, bytes]]:
    """The end of what is asked for of a segment, and twice as much of it each time."""
    low, upto = max(0, lowest - segment.start) // PAGE_SIZE * PAGE_SIZE, min(end, segment.end) - segment.start
    at, length, plain = upto, BLOCK, b""
    while at > low:
        begin, at = at, max(low, (upto - length) // PAGE_SIZE * PAGE_SIZE)
        file.seek(at)
        plain, length = file.read(begin - at) + plain, 2 * length
        yield Part(segment.timeline, Lsn(segment.start + at), segment.size), plain
