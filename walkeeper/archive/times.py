"""Which times an archive can restore, from the records themselves. Costs a few objects, whatever the archive's size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.tail import StoredPiece, stored_pieces
from walkeeper.core.commits import Commit, commits, commits_back, crosses
from walkeeper.core.history import History
from walkeeper.core.landmarks import Find
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import MAX_PIECE, Piece, longest_chain
from walkeeper.core.wal_page import Plain
from walkeeper.errors import CannotTell, StoreUnavailable
from walkeeper.store.base import Store

NEAR: Final = 8
"""Segments that are looked into at each end of a window, by those who only want to show its times."""
_KEPT: Final = 2
"""Segments that are kept for the next question."""


@dataclass(slots=True)
class CommitTimes:
    """The ends of transactions along one chain. Positions are bounds of unbroken WAL; ``end`` may be inside the open segment.

    What is asked raises CannotTell, Refused or the store's errors where an object that lies on the way cannot be read. Nothing is
    tried again here. In memory are three segments at most.
    """

    store: Store
    layout: Layout
    codec: Codec
    history: History
    size: SegmentSize
    _plains: dict[int, Plain] = field(default_factory=dict)

    def between(self, begin: Lsn, end: Lsn, near: int | None = None) -> tuple[Commit | None, Commit | None]:
        """The first and the last one."""
        return self.first(begin, end, near), self.last(begin, end, near)

    def first(self, begin: Lsn, end: Lsn, near: int | None = None) -> Commit | None:
        """The first one between those positions: one object, where the WAL there has a commit.

        None where there is none; with ``near``, none in the first so many segments.
        """
        last = end if near is None else min(end, Lsn((begin // self.size + near) * self.size))
        return next(self._forward(begin, last), None)

    def last(self, begin: Lsn, end: Lsn, near: int | None = None) -> Commit | None:
        """The last one, in the same way. A recovery can be told to stop at any time *before* it: see ``core.commits``."""
        following: Plain = b""
        behind = -(-end // self.size)
        lowest = begin // self.size if near is None else max(begin // self.size, behind - near)
        for number in range(behind - 1, lowest - 1, -1):
            segment = self.history.segment(number, self.size)
            for plain in self._from_behind(segment):
                found = next(commits_back(plain, segment, end, following), None)
                if found is not None:
                    return found if found.begin >= begin else None
            following = plain
        return None

    def position_of(self, time: int, begin: Lsn, end: Lsn) -> Lsn | None:
        """Where a recovery with that target time stops: before the first end of a transaction that is later. None: it does not.

        By bisection over the segments, some twenty objects for a million of them. Times only nearly rise: the last segment that
        begins early enough and the one before are read record by record; a clock that was set back by more than that is not
        noticed. PostgreSQL itself goes by the first record that is later, and has the last word.
        """
        low, high = begin // self.size, -(-end // self.size)
        while high - low > 1:
            middle = (low + high) // 2
            found = self.first(Lsn(middle * self.size), min(end, Lsn(high * self.size)))
            if found is None or found.time > time:
                high = middle
            else:
                low = found.begin // self.size
        start = max(begin, Lsn(max(0, low - 1) * self.size))
        return next((each.begin for each in self._forward(start, end) if each.time > time), None)

    def search(
        self, begin: Lsn, end: Lsn, find: Find, looked: Callable[[Segment], None] = lambda _: None
    ) -> Lsn | None:
        """Where the record ends that ``find`` looks for, of those that end behind ``begin`` and at ``end`` or before.

        Reads every segment in between, until it is found; ``looked`` is told of each.
        """
        before: tuple[Segment, Plain] | None = None
        for number in range(begin // self.size, -(-end // self.size)):
            segment = self.history.segment(number, self.size)
            looked(segment)
            plain = self._whole(segment)
            found = None if before is None else find(before[1], before[0], plain, begin)
            if found is not None and found <= end:
                return found
            before = segment, plain
        found = None if before is None else find(before[1], before[0], b"", begin)
        return found if found is not None and found <= end else None

    def _forward(self, begin: Lsn, end: Lsn) -> Iterator[Commit]:
        """Those that begin at ``begin`` or later and are whole at ``end``, in the order of the WAL."""
        before: tuple[Segment, Plain] | None = None
        for number in range(begin // self.size, -(-end // self.size)):
            segment = self.history.segment(number, self.size)
            plain = self._whole(segment)
            across = None if before is None else crosses(before[1], before[0], plain)
            if across is not None and begin <= across.begin and across.end <= end:
                yield across
            yield from (each for each in commits(plain, segment, begin) if each.end <= end)
            before = segment, plain

    def _whole(self, segment: Segment) -> Plain:
        *_, plain = self._from_behind(segment)
        return plain

    def _from_behind(self, segment: Segment) -> Iterator[Plain]:
        """The segment; where it is open, its tail, at first only the last pieces: before those are zeros."""
        if (kept := self._plains.get(segment.number)) is not None:
            yield kept
            return
        plain = Reader(self.store, self.codec).deliver(self.layout, segment.name, self.size)
        if plain is None:
            yield from self._tail(segment)
            return
        while len(self._plains) >= _KEPT:
            del self._plains[next(iter(self._plains))]
        self._plains[segment.number] = plain
        yield plain

    def _tail(self, segment: Segment) -> Iterator[Plain]:
        """Of the owner whose pieces reach furthest, by their names; twice as many of them each time. None is believed that goes
        beyond the segment: a name says 4 GiB as quickly as 4 KiB.
        """
        by_owner: dict[str, dict[Piece, StoredPiece]] = {}
        for stored in stored_pieces(self.store, self.layout, segment.name):
            if stored.piece.end <= segment.size:
                by_owner.setdefault(stored.piece.owner, {})[stored.piece] = stored
        chains = [[each[piece] for piece in longest_chain(each)] for _, each in sorted(by_owner.items())]
        chain = max(chains, key=lambda chain: chain[-1].piece.end if chain else 0, default=[])
        if not chain:
            raise StoreUnavailable(f"{segment}: it is not in the store", hint="The agent may just be storing it.")
        plain, count = bytearray(chain[-1].piece.end), 0
        while count < len(chain):
            more = chain[::-1][count : 2 * count + 1]
            for stored in more:
                plain[stored.piece.begin : stored.piece.end] = self._piece(stored)
            count += len(more)
            yield plain

    def _piece(self, stored: StoredPiece) -> bytes:
        body = self.store.get(stored.key, stored.most)
        if body is None:
            raise StoreUnavailable(f"{stored.key}: it is gone", hint="The agent has just merged it: ask again.")
        data = self.codec.decode(stored.suffix, body, MAX_PIECE)
        stated = body.metadata.get("sha256")
        if len(data) != stored.piece.end - stored.piece.begin or stated not in {None, hashlib.sha256(data).hexdigest()}:
            raise CannotTell(f"{stored.key}: its content is not what its name and checksum say")
        return data
