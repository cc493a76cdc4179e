"""WAL that the agent has received, in memory: the open segment, and with ``durability: store`` what is still to be stored."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.tail import inner_fork
from walkeeper.errors import PostgresError
from walkeeper.postgres.pg_receivewal import Written
from walkeeper.postgres.wal_stream import AUTOMATICALLY

PART: Final = 4 * 1024 * 1024
"""Bytes that are stored as one at most."""
ROOM: Final = 64 * 1024 * 1024
"""Bytes that may wait to be stored before the server has to wait."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from ``begin`` up to ``end`` of a segment: the one with that ``serial``, from 0 on, of that ``run`` of the stream."""

    run: int
    serial: int
    segment: Segment
    begin: int
    end: int
    plain: bytes


class Received:
    """An OpenSegment. Safe from every thread."""

    def __init__(self, history: History, *, keep: bool, hand_out: bool) -> None:
        """``keep``: whether anybody wants the open segment; else only the position is. ``hand_out``: whether somebody takes."""
        self.run = 0
        self.lsn = Lsn(0)
        """Up to where the stream has come."""
        self._history = history
        self._keep = keep or hand_out
        self._hand_out = hand_out
        self._changed = threading.Condition()
        self._segment: Segment | None = None
        """Which is being received."""
        self._begun: dict[Segment, bytearray] = {}
        """What has come of each, from its start on: of that one, and of those before it that are not taken whole."""
        self._taken = Lsn(0)
        self._fork = Lsn(0)
        """Before it nothing is taken: an older timeline's file may have more."""
        self._serial = 0
        self.skips = False
        """Nothing is kept any more, until the stream begins again."""

    def begin(self, first: Segment) -> None:
        """Another run of the stream begins, at the start of that segment."""
        with self._changed:
            self._clear()
            self.run += 1
            self._segment, self.lsn, self._taken, self._serial, self.skips = first, first.start, first.start, 0, False
            self._begun[first] = bytearray()
            self._fork = inner_fork(self._history, first)

    def end(self) -> None:
        """The stream has ended."""
        with self._changed:
            self._clear()

    def skip(self) -> None:
        """Keep nothing of what is there and of what comes."""
        with self._changed:
            self.skips = True
            self._begun.clear()

    def has_room(self) -> bool:
        """Whether more may come."""
        return not self._hand_out or self.skips or self.lsn - max(self._taken, self._fork) < ROOM

    @property
    def open_from(self) -> Lsn:
        """The start of the segment that is being received."""
        with self._changed:
            return self._segment.start if self._segment is not None else Lsn(0)

    def add(self, lsn: Lsn, data: memoryview) -> None:
        """Raises PostgresError for what does not continue what is there."""
        with self._changed:
            while data:
                segment = self._segment
                if segment is None or lsn != self.lsn:
                    raise PostgresError(f"the server sent WAL of {lsn} out of order", hint=AUTOMATICALLY)
                part = data[: segment.end - lsn]
                if self._keep and not self.skips:
                    self._begun.setdefault(segment, bytearray()).extend(part)
                self.lsn = lsn = Lsn(lsn + len(part))
                data = data[len(part) :]
                if lsn == segment.end:
                    self._segment = self._history.segment(segment.number + 1, segment.size)
                    self._drop_taken()
            self._changed.notify_all()

    def take(self, wait: float) -> Part | None:
        """The next bytes to be stored, each once; None where none have come after so many seconds."""
        with self._changed:
            self._changed.wait_for(self._next_segment, wait)
            segment = self._next_segment()
            if segment is None:
                return None
            begin = self._taken - segment.start
            end = min(len(self._begun[segment]), begin + PART)
            part = Part(self.run, self._serial, segment, begin, end, bytes(memoryview(self._begun[segment])[begin:end]))
            self._taken, self._serial = Lsn(segment.start + end), self._serial + 1
            self._drop_taken()
            return part

    def written(self, segment: Segment) -> Written | None:
        with self._changed:
            begun = self._begun.get(segment)
            return Written(self.run, len(begun)) if begun and segment == self._segment else None

    def read(self, segment: Segment, run: int, begin: int, end: int) -> bytes | None:
        with self._changed:
            begun = self._begun.get(segment)
            if begun is None or run != self.run or end > len(begun):
                return None
            return bytes(memoryview(begun)[begin:end])

    def _next_segment(self) -> Segment | None:
        """The one that has bytes which were not taken."""
        for segment, begun in self._begun.items():
            if self._hand_out and segment.start + len(begun) > self._taken:
                beyond_fork = segment.start + len(begun) > inner_fork(self._history, segment)
                return segment if beyond_fork else None
        return None

    def _drop_taken(self) -> None:
        for segment in [each for each in self._begun if each != self._segment]:
            if not self._hand_out or segment.end <= self._taken:
                del self._begun[segment]

    def _clear(self) -> None:
        self._segment, self.lsn = None, Lsn(0)
        self._begun.clear()
