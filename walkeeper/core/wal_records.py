"""Records inside a segment: where they begin and end, and whether one is whole.

Formats: ``XLogRecord`` in ``src/include/access/xlogrecord.h``; pages and continued records in
``src/include/access/xlog_internal.h``; what makes a record valid in ``ValidXLogRecord`` of
``src/backend/access/transam/xlogreader.c``. The same from PostgreSQL 13 to 19. Of a newer one nothing is believed that no
checksum proves: one that is right at the place where it is expected says that the format is still this one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import (
    MAGIC,
    NOT_WHOLE,
    PAGE_SIZE,
    Plain,
    SegmentHeader,
    check_every_page,
    first_difference,
    may_be_magic,
    without_zeros,
)
from walkeeper.errors import BadSegment

# magic, info, timeline, page address, length of what is left of a record from the page before
_PAGE: Final = struct.Struct("=HHIQI")
_KNOWN: Final = frozenset(struct.pack("=H", magic) for magic in MAGIC)
_CONTINUED: Final = 0x0001
_LONG: Final = 0x0002
_OVERWRITES: Final = 0x0008
"""The page begins with a record in place of one that a crash cut off, and which nothing follows."""
_SHORT_SIZE: Final = 24
_LONG_SIZE: Final = 40

# total length, transaction, previous record, info, resource manager, (padding), checksum
_RECORD: Final = struct.Struct("=IIQBB2xI")
_LENGTH: Final = struct.Struct("=I")
_CHECKSUM_AT: Final = 20
_XLOG_MANAGER: Final = 0
_SWITCH: Final = 0x40
_INFO_MASK: Final = 0xF0

_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, reflected (``src/port/pg_crc32c_sb8.c``)."""


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C in plain Python: some 15 MB/s, enough for single records."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class WalRecord:
    """A record, by its offsets in the segment. ``end`` is where PostgreSQL says that it ends; the next begins at ``next``."""

    begin: int
    end: int
    previous: Lsn
    is_switch: bool

    @property
    def next(self) -> int:
        return _next(self.end)


def read_record(data: Plain, segment: Segment, begin: int) -> WalRecord | None:
    """The record at that offset of the segment, if all of it is in ``data``, in true pages, and its checksum is right."""
    found = read_bytes(data, segment, begin)
    if found is None:
        return None
    body, end = found
    _, _, previous, info, manager, _ = _RECORD.unpack_from(body)
    switch = manager == _XLOG_MANAGER and info & _INFO_MASK == _SWITCH
    return WalRecord(begin, segment.size if switch else end, Lsn(previous), switch)


class Place(Protocol):
    """Where bytes of WAL lie: a segment, or a part of one that begins with a page."""

    @property
    def timeline(self) -> int: ...
    @property
    def start(self) -> Lsn: ...
    @property
    def size(self) -> SegmentSize: ...


def read_bytes(data: Plain, place: Place, begin: int, manager: int | None = None) -> tuple[bytes, int] | None:
    """As ``read_record``: its bytes without the headers of pages, and where it ends; None if it is of another manager than that.

    ``data`` may go on in the next segment.
    """
    if begin + 4 > len(data) or begin % 8 or not _page_is_true(data, place, begin):
        return None
    (length,) = _LENGTH.unpack_from(data, begin)
    if length < _RECORD.size or begin % PAGE_SIZE < _SHORT_SIZE:
        return None
    parts: list[Plain] = []
    at, left = begin, length
    while left:
        part = data[at : at + min(left, PAGE_SIZE - at % PAGE_SIZE)]
        parts.append(part)
        at, left = at + len(part), left - len(part)
        if not left:
            break
        if at % PAGE_SIZE or not _continues(data, place, at, left):
            return None
        at += _SHORT_SIZE if (place.start + at) % place.size else _LONG_SIZE
    body = b"".join(parts)
    *_, its_manager, checksum = _RECORD.unpack_from(body)
    if manager not in {None, its_manager}:
        return None
    if crc32c(body[_RECORD.size :] + body[:_CHECKSUM_AT]) != checksum:
        return None
    return body, _aligned(at)


def records(data: Plain, segment: Segment) -> Iterator[WalRecord]:
    """The whole records that begin in the segment, in order, up to the first that is not whole."""
    at = _first_begin(data)
    while at is not None and (record := read_record(data, segment, at)) is not None:
        yield record
        at = record.next


def goes_on(data: Plain, segment: Segment, lsn: Lsn) -> bool:
    """Whether a whole record begins where another one ended at ``lsn``, which is in the segment."""
    end = lsn - segment.start
    return read_record(data, segment, _LONG_SIZE if end == 0 else _next(end)) is not None


def begins(data: Plain, segment: Segment) -> bool:
    """Whether the first page is the segment's own, and not an old one's in a file that is used again."""
    return _page_is_true(data, segment, 0)


def begins_in(data: Plain, page: int) -> list[int]:
    """Where the records begin that begin in the page at that offset, in order, told by pages and lengths alone."""
    found = []
    at, end, unpack = _first_in_page(data, page), min(page + PAGE_SIZE, len(data) - 3), _LENGTH.unpack_from
    while at is not None and at < end:
        (length,) = unpack(data, at)
        if length < _RECORD.size:
            break
        found.append(at)
        at += (length + 7) & ~7
    return found


def last_begin(data: Plain, limit: int) -> int | None:
    """Where the last record begins that begins at ``limit`` or before, told by pages and lengths alone.

    ``data`` is a segment's from its start on, valid up to ``limit``. None if that byte is in a record from the segment before.
    """
    for page in range(limit // PAGE_SIZE * PAGE_SIZE, -1, -PAGE_SIZE):
        at = _first_in_page(data, page)
        if at is None or at > limit:
            continue
        while (end := _end_by_length(data, at)) is not None and _next(end) <= limit:
            at = _next(end)
        return at
    return None


def last_whole(plain: Plain, segment: Segment) -> Lsn | None:
    """Where the last record begins that ends in the segment, told by pages and lengths alone; None if there is none.

    The last that recovery can replay where the next segment is missing.
    """
    used = without_zeros(plain)
    begin = last_begin(plain, used - 1) if used else None
    if begin is not None and ((end := _end_by_length(plain, begin)) is None or end > segment.size):
        begin = last_begin(plain, begin - 1)
    return None if begin is None else Lsn(segment.start + begin)


def last_end(data: Plain, segment: Segment) -> Lsn | None:
    """Where the last record ends that ends in ``data``, told by pages and lengths alone; None if none does.

    ``data`` is a segment's from its start on, as far as it is there; zeros behind it do not matter. ``can_be_read`` comes before.
    """
    used = without_zeros(data)
    begin = last_begin(data, used - 1) if used else None
    while begin is not None:
        end = _end_by_length(data, begin)
        if end is not None and end <= len(data):
            return Lsn(segment.start + end)
        begin = last_begin(data, begin - 1)
    if used < _PAGE.size:
        return None
    _, info, _, _, left = _PAGE.unpack_from(data)  # what is left of a record from the segment before
    end = _end_of(_LONG_SIZE, left) if info & _CONTINUED else len(data) + 1
    return Lsn(segment.start + end) if end <= len(data) else None


def can_be_read(plain: Plain, segment: Segment) -> bool:
    """Whether pages and records have the form that is known here. ``plain`` is a beginning of the segment."""
    return SegmentHeader.parse(plain, segment.name).page_size == PAGE_SIZE and _can_be_read(plain, segment)


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the last record of a segment begins, and where the one ``before`` its first record does, as that one says.

    None where that is not known. The next segment of the same WAL has this one's ``last`` for its ``before``.
    """

    before: Lsn | None = None
    last: Lsn | None = None


def ends_of(plain: Plain, segment: Segment) -> Ends:
    """Of a whole segment; nothing of one whose records cannot be read."""
    used, size = without_zeros(plain), segment.size
    first, last = _first_begin(plain), last_begin(plain, used - 1) if used else None
    record = None if first is None else read_record(plain, segment, first)
    if record is None or first is None or last is None:
        return Ends()
    reaches = (_end_by_length(plain, last) or 0) > size or read_record(plain, segment, last) is not None
    _, info, _, _, _ = _PAGE.unpack_from(plain, first - first % PAGE_SIZE)
    begun = info & _OVERWRITES or not record.previous  # the very first record of a server follows nothing
    return Ends(None if begun else record.previous, Lsn(segment.start + last) if reaches else None)


def goes_beyond(tail: Plain, local: Plain, segment: Segment) -> bool:
    """Whether ``tail``, a valid beginning of the segment, has all whole records of ``local`` and at least one more.

    ``local`` may be anything: the same segment written less far or further, behind it zeros or a recycled segment's bytes, other
    WAL, or no WAL. What this cannot be told of, local is taken for the better one: a standby may have acknowledged it.
    """
    differ = first_difference(tail, local)
    if differ >= len(tail):
        return False
    begin = last_begin(tail, differ)
    if begin is None:
        # Inside a record from the segment before. What was received of it ends with a page.
        return not _page_is_true(local, segment, differ)
    more = read_record(tail, segment, begin)
    if more is not None and more.end <= differ:
        begin = more.next
        more = read_record(tail, segment, begin)
    theirs = read_record(local, segment, begin)
    if more is None:
        # The last record goes on in the next segment. What was received of it ends with a page, as above.
        goes_on = len(tail) == segment.size and (_end_by_length(tail, begin) or 0) > segment.size
        page = (differ // PAGE_SIZE + 1) * PAGE_SIZE
        return goes_on and theirs is None and not _page_is_true(local, segment, page)
    if theirs is None:
        return True
    # A whole record that follows none of those before it is a recycled segment's. Of the first one here that is not known:
    # the two may part in the segment before.
    return theirs.previous != more.previous and begin != _first_begin(tail)


def ends_early(plain: Plain, segment: Segment) -> Lsn | None:
    """Where the WAL in a whole segment file ends, if it ends before the file does: then zeros were added to it.

    None for a segment that PostgreSQL completed: its last record reaches the end, or switches to the next segment. Only after
    such a switch are there pages without anything; within the last page only a whole record proves that it was the last one.
    And None for one whose records cannot be read: that is not a reason to take it for something else than its name says.
    """
    used = without_zeros(plain)
    if used > segment.size - 8 or _switches(plain, used) or not _can_be_read(plain, segment):
        return None
    pages = -(-used // PAGE_SIZE) * PAGE_SIZE
    begin = last_begin(plain, used - 1) if used else None
    end = None if begin is None else _end_by_length(plain, begin)
    if pages < segment.size:
        return Lsn(segment.start + (used if end is None else min(end, pages)))
    if begin is None or end is None or end >= segment.size or read_record(plain, segment, begin) is None:
        return None
    return Lsn(segment.start + end)


def check_complete(plain: Plain, segment: Segment, history: History | None) -> None:
    """That PostgreSQL completed this segment, whose first page was checked: told by the bytes, not by the name (P13).

    Each page's header says that it is the page of its place; zeros at the end come after a switch. Raises BadSegment.
    """
    check_every_page(plain, segment, history)
    if SegmentHeader.parse(plain, segment.name).page_size != PAGE_SIZE:
        return
    if (end := ends_early(plain, segment)) is not None:
        raise BadSegment(f"{segment}: its WAL ends at {end}, and zeros follow", hint=NOT_WHOLE)


def _can_be_read(plain: Plain, segment: Segment) -> bool:
    """Whether records have the form that is known here. A newer PostgreSQL's have, if the first whole one's checksum is right."""
    return bytes(plain[:2]) in _KNOWN or next(records(plain, segment), None) is not None


def _aligned(offset: int) -> int:
    return (offset + 7) // 8 * 8


def _next(end: int) -> int:
    """Where the record after one that ends there begins: not in a page's header."""
    return end + _SHORT_SIZE if end % PAGE_SIZE == 0 else end


def _page_is_true(data: Plain, place: Place, offset: int) -> bool:
    """Whether the page that this offset is in has the header that it should have."""
    page = offset - offset % PAGE_SIZE
    if page + _PAGE.size > len(data):
        return False
    magic, info, timeline, address, _ = _PAGE.unpack_from(data, page)
    right = place.start + page
    long = bool(info & _LONG) == (right % place.size == 0)
    return may_be_magic(magic) and long and address == right and 0 < timeline <= place.timeline


def _continues(data: Plain, place: Place, page: int, left: int) -> bool:
    """Whether that page goes on with a record of which so many bytes are left."""
    if not _page_is_true(data, place, page):
        return False
    _, info, _, _, remaining = _PAGE.unpack_from(data, page)
    return bool(info & _CONTINUED) and remaining == left


def _first_in_page(data: Plain, page: int) -> int | None:
    """Where the first record that begins in that page begins; None if none does, or its header is not there."""
    if page + _PAGE.size > len(data):
        return None
    _, info, _, _, remaining = _PAGE.unpack_from(data, page)
    begin = _LONG_SIZE if info & _LONG else _SHORT_SIZE
    if info & _CONTINUED:
        begin = _aligned(begin + remaining)
    return page + begin if begin < PAGE_SIZE else None


def _first_begin(data: Plain) -> int | None:
    begins = (_first_in_page(data, page) for page in range(0, len(data), PAGE_SIZE))
    return next((begin for begin in begins if begin is not None), None)


def _end_by_length(data: Plain, begin: int) -> int | None:
    """Where the record at that offset ends by its own account; None if it says nothing."""
    if begin + _LENGTH.size > len(data):
        return None
    (left,) = _LENGTH.unpack_from(data, begin)
    if left < _RECORD.size:
        return None
    return _end_of(begin, left)


def _end_of(begin: int, left: int) -> int:
    """Where so many bytes of a record end that begin, or go on, at that offset."""
    here = min(left, PAGE_SIZE - begin % PAGE_SIZE)
    pages, rest = divmod(left - here, PAGE_SIZE - _SHORT_SIZE)
    end = begin + here + pages * PAGE_SIZE
    return _aligned(end + _SHORT_SIZE + rest if rest else end)


def _switches(plain: Plain, used: int) -> bool:
    """Whether the last thing before ``used``, where only zeros follow, is a record that ends its segment, with a true checksum.

    Looked for by its own 24 bytes, which may go over a page's end: so it does not matter how other records are aligned.
    """
    return any(_is_switch(plain, begin) for begin in range(max(0, used - 48) // 4 * 4, used, 4))


def _is_switch(plain: Plain, begin: int) -> bool:
    here = plain[begin : begin + min(_RECORD.size, PAGE_SIZE - begin % PAGE_SIZE)]
    there = begin + len(here) + _SHORT_SIZE
    header = bytes(here + plain[there : there + _RECORD.size - len(here)])
    if len(header) < _RECORD.size:
        return False
    length, _, _, info, manager, checksum = _RECORD.unpack(header)
    if length != _RECORD.size or manager != _XLOG_MANAGER or info & _INFO_MASK != _SWITCH:
        return False
    return bool(crc32c(header[:_CHECKSUM_AT]) == checksum)
