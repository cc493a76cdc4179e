"""When transactions ended, by their records in the WAL: which times a recovery can be told to stop at.

Formats: ``xl_xact_commit`` and ``xl_xact_abort`` in ``src/include/access/xact.h``, which both begin with the time; what comes
before it in a record, in ``src/include/access/xlogrecord.h``. The same from PostgreSQL 13 to 19.

A recovery with ``recovery_target_time`` ends before the first record whose time is *above* the target (with
``recovery_target_inclusive = off``: not below), and ends with an error where no such record comes (``recoveryStopsBefore`` in
``src/backend/access/transam/xlogrecovery.c``). So the last time in a stretch of WAL is the bound of what can be named there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import PAGE_SIZE, Plain, without_zeros
from walkeeper.core.wal_records import Place, begins_in, last_begin, read_bytes

_HEADER_SIZE: Final = 24
_LENGTH: Final = struct.Struct("=I")
_TIME: Final = struct.Struct("=q")
_INFO_AT: Final = 16
_MANAGER_AT: Final = 17
_TRANSACTIONS: Final = 1
"""The resource manager of xact.h."""
_KIND: Final = 0x70
_COMMITS: Final = frozenset({0x00, 0x30})
"""Of a transaction, and of a prepared one."""
_ABORTS: Final = frozenset({0x20, 0x40})
_BEFORE_DATA: Final = {253: 3, 252: 5}
"""Bytes of a replication origin and of a top-level transaction, with the byte that says which."""
_UP_TO_DATA: Final = {255: 2, 254: 5}
"""Bytes of a short and of a long length of the main data, likewise."""

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction: its record from ``begin`` up to ``end``, and its time, in microseconds since 2000.

    ``aborted``: it was rolled back. A recovery looks at the times of both.
    """

    begin: Lsn
    end: Lsn
    time: int
    aborted: bool = False

    @property
    def when(self) -> str:
        """In UTC, to the microsecond, as ``recovery_target_time`` takes it, too."""
        return written(self.time)


def written(time: int) -> str:
    """Microseconds since 2000 as text: ``2026-11-28T08:15:02.123456Z``."""
    return (_EPOCH + timedelta(microseconds=time)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def since_2000(moment: datetime) -> int:
    """A moment, with its time zone, in microseconds since 2000."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a segment, from ``start`` on, where a page begins."""

    timeline: int
    start: Lsn
    size: SegmentSize


def commits(plain: Plain, segment: Segment, begin: Lsn | None = None, following: Plain = b"") -> Iterator[Commit]:
    """What begins in the segment, at ``begin`` or later, in the order of the WAL. ``plain`` is valid from there on.

    Times rise nearly, not strictly: a transaction takes its time before it gets its place in the WAL, and clocks are set back.
    A record that goes on in the next segment is told where that one's beginning is given as ``following``.
    """
    start = 0 if begin is None else max(0, begin - segment.start)
    for page in range(start // PAGE_SIZE * PAGE_SIZE, len(plain), PAGE_SIZE):
        for at in _candidates(plain, page):
            if at >= start and (found := _commit(plain, segment, at, following)) is not None:
                yield found


def commits_back(plain: Plain, place: Place, end: Lsn | None = None, following: Plain = b"") -> Iterator[Commit]:
    """The same, the last one first, of those that are whole at ``end``, up to which ``plain`` is valid."""
    limit = without_zeros(plain) if end is None else min(len(plain), max(0, end - place.start))
    for page in range((limit - 1) // PAGE_SIZE * PAGE_SIZE, -1, -PAGE_SIZE):
        for at in reversed(_candidates(plain, page)):
            found = _commit(plain, place, at, following) if at < limit else None
            if found is not None and (end is None or found.end <= end):
                yield found


def crosses(plain: Plain, segment: Segment, following: Plain) -> Commit | None:
    """The end of a transaction whose record begins in the segment and goes on in the next one."""
    begin = last_begin(plain, segment.size - 1) if len(plain) == segment.size else None
    found = None if begin is None else _commit(plain, segment, begin, following)
    return found if found is not None and found.end > segment.end else None


def _candidates(plain: Plain, page: int) -> list[int]:
    """Where records of transactions begin in that page, and the last one if its header goes on in the next."""
    limit = min(len(plain), page + PAGE_SIZE) - _HEADER_SIZE
    return [at for at in begins_in(plain, page) if at > limit or plain[at + _MANAGER_AT] == _TRANSACTIONS]


def _commit(plain: Plain, place: Place, at: int, following: Plain) -> Commit | None:
    """None for a record of another kind, and for one that is not whole."""
    found = read_bytes(plain, place, at, _TRANSACTIONS)
    if found is None and following:
        (length,) = _LENGTH.unpack_from(plain, at)
        found = read_bytes(plain + following[: length + length // 128 + PAGE_SIZE], place, at, _TRANSACTIONS)
    if found is None:
        return None
    body, end = found
    kind = body[_INFO_AT] & _KIND
    if kind not in _COMMITS | _ABORTS or (time := _time(body)) is None:
        return None
    return Commit(Lsn(place.start + at), Lsn(place.start + end), time, kind in _ABORTS)


def _time(body: bytes) -> int | None:
    """The first thing in the main data, which is the last part of a record."""
    at = _HEADER_SIZE
    while at < len(body) and body[at] in _BEFORE_DATA:
        at += _BEFORE_DATA[body[at]]
    at += _UP_TO_DATA.get(body[at], len(body)) if at < len(body) else 0
    return int(_TIME.unpack_from(body, at)[0]) if at + _TIME.size <= len(body) else None
