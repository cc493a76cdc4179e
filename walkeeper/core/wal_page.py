"""The headers of WAL pages (``XLogLongPageHeaderData`` and its short brother in ``src/include/access/xlog_internal.h``)."""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Final, TypeAlias

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadSegment, WrongCluster

# magic, info, timeline, page address, length of a record continued from the page before, (padding), system identifier,
# segment size, block size; in the byte order of the machine that runs PostgreSQL, which is ours.
_LONG_HEADER: Final = struct.Struct("=HHIQI4xQII")
_SHORT_HEADER: Final = struct.Struct("=HHIQ")
_FIRST_WORD: Final = struct.Struct("=HHI")
_LONG_HEADER_FLAG: Final = 0x0002
_KNOWN_FLAGS: Final = 0x000F

Plain: TypeAlias = bytes | bytearray
"""A segment, or a part of one, as PostgreSQL wrote it."""

HEADER_SIZE: Final = _LONG_HEADER.size
PAGE_SIZE: Final = 8192
"""``XLOG_BLCKSZ``; a server that was built with another one has no tail."""
_ZEROS: Final = bytes(PAGE_SIZE)
NOT_WHOLE: Final = (
    "It is a segment that is still being written, or it is damaged. Nothing is stored of it; PostgreSQL hands a segment over "
    "when it is complete."
)

MAGIC: Final = {
    0xD106: 13,
    0xD10D: 14,
    0xD110: 15,
    0xD113: 16,
    0xD116: 17,
    0xD118: 18,
    0xD122: 19,
}
"""Page magic to PostgreSQL major version."""
_HIGHEST: Final = 0xD1FF
_OLDER: Final = range(0xD05C, min(MAGIC))
"""From PostgreSQL 8.0 on."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first page says about its segment. ``postgres_major`` is None for a PostgreSQL that is not known here."""

    magic: int
    postgres_major: int | None
    timeline: int
    address: Lsn
    system_identifier: int
    segment_size: SegmentSize
    page_size: int

    @classmethod
    def parse(cls, data: Plain | memoryview, what: str) -> SegmentHeader:
        """The first HEADER_SIZE bytes to a header. ``what`` names the segment in the error. Raises BadSegment."""
        if len(data) < HEADER_SIZE:
            raise BadSegment(f"{what}: {len(data)} bytes, too short for a WAL page header")
        magic, info, timeline, address, _, system, size, page_size = _LONG_HEADER.unpack_from(data)
        if magic == 0:
            raise BadSegment(f"{what}: it starts with zeros", hint="The file was allocated and never written.")
        oldest = min(MAGIC.values())
        if magic in _OLDER:
            raise BadSegment(
                f"{what}: page magic {magic:04X} is that of a PostgreSQL older than {oldest}",
                hint=f"Archive PostgreSQL {oldest} or newer with walkeeper.",
            )
        if not may_be_magic(magic):
            raise BadSegment(
                f"{what}: page magic {magic:04X} is not that of PostgreSQL {oldest} or newer",
                hint="The file is damaged, or is not a WAL segment.",
            )
        if not info & _LONG_HEADER_FLAG:
            raise BadSegment(f"{what}: the first page has no long header")
        return cls(magic, MAGIC.get(magic), timeline, Lsn(address), system, SegmentSize(size), page_size)


def may_be_magic(magic: int) -> bool:
    """Whether PostgreSQL 13 or a newer one, also one that does not exist yet, may begin its WAL pages with that.

    PostgreSQL adds one with each change of the format during development, some five a year: 0xD05C in 8.0, 0xD106 in 13,
    0xD122 in 19. So what is above the known ones, and between them, is a newer major's or a development version's; 0xD1FF
    is decades away. What makes a segment this cluster's is not the magic, but system identifier, sizes, timeline, page
    addresses, and that all its pages have the same one.
    """
    return min(MAGIC) <= magic <= _HIGHEST


def check_header(
    header: SegmentHeader, segment: Segment, system_identifier: int, history: History | None = None
) -> None:
    """That name, cluster and first page agree (promise P5). Raises BadSegment or WrongCluster.

    The page's timeline may be older than the name's: PostgreSQL copies the boundary segment at a promotion. It must
    then be one of ``history``'s timelines, where a history is known that has the named one.
    """
    if header.system_identifier != system_identifier:
        raise WrongCluster(
            f"{segment}: its system identifier is {header.system_identifier}, the cluster's is {system_identifier}",
            hint="The file belongs to another cluster. Look at what wrote it here.",
        )
    if header.segment_size != segment.size:
        raise BadSegment(
            f"{segment}: its header says {header.segment_size} bytes a segment, the cluster {segment.size}"
        )
    if header.address != segment.start:
        raise BadSegment(
            f"{segment}: its first page is that of {header.address}, not of {segment.start}",
            hint="The file is a recycled or renamed one.",
        )
    if header.timeline > segment.timeline:
        raise BadSegment(f"{segment}: its first page is of timeline {header.timeline}, newer than its name")
    if history and history.includes(segment.timeline) and not history.includes(header.timeline):
        raise BadSegment(
            f"{segment}: its first page is of timeline {header.timeline}, which is not an ancestor of {segment.timeline}"
        )


def check_pages(plain: Plain, segment: Segment, history: History | None = None) -> None:
    """That every page's header agrees with the segment, whose first one was checked. Raises BadSegment for the first one.

    Zeros up to the end are fine: PostgreSQL fills a segment up with them where it leaves it early (a switch, a promotion).
    Timelines never go back from page to page, and are ancestors where ``history`` is known.
    """
    if len(plain) != segment.size:
        raise BadSegment(f"{segment}: {len(plain)} bytes, a whole segment has {segment.size}")
    first = SegmentHeader.parse(plain, segment.name)
    size = first.page_size
    if size < HEADER_SIZE or size & (size - 1) or segment.size % size:
        raise BadSegment(f"{segment}: its header says that a page has {size} bytes")
    magic, _, timeline, _ = _SHORT_HEADER.unpack_from(plain)
    # A newer PostgreSQL may have further flags.
    flags = _KNOWN_FLAGS if magic in MAGIC else 0xFFFF
    written = without_zeros(plain)
    for offset in range(size, written, size):
        what = f"{segment}: page at {Lsn(segment.start + offset)}"
        found, info, its_timeline, address = _SHORT_HEADER.unpack_from(plain, offset)
        if found != magic:
            raise BadSegment(f"{what}: its magic is {found:04X}, the first page's is {magic:04X}")
        if info & ~flags or info & _LONG_HEADER_FLAG:
            raise BadSegment(f"{what}: its flags are {info:04X}")
        if address != segment.start + offset:
            raise BadSegment(f"{what}: it says that it is the page of {Lsn(address)}")
        if not timeline <= its_timeline <= segment.timeline or (history and not history.includes(its_timeline)):
            raise BadSegment(f"{what}: it is of timeline {its_timeline}, after a page of {timeline}")
        timeline = its_timeline


def check_every_page(plain: Plain, segment: Segment, history: History | None) -> None:
    """As ``check_pages``, but for the flags, of which a new PostgreSQL may have more: all pages at once, for each segment that
    is stored. 0.1 ms for 16 MiB. Raises BadSegment.
    """
    first = SegmentHeader.parse(plain, segment.name)
    size = first.page_size
    if size < HEADER_SIZE or size & (size - 1) or segment.size % size or len(plain) != segment.size:
        raise BadSegment(f"{segment}: its header says that a page has {size} bytes")
    with memoryview(plain).cast("Q") as words:
        begins, found = words[:: size // 8].tolist(), words[1 :: size // 8].tobytes()
    expected = array("Q", range(segment.start, segment.end, size)).tobytes()
    pages = len(begins) if found == expected else first_difference(found, expected) // 8
    kinds = {_FIRST_WORD.unpack(word.to_bytes(8, sys.byteorder)) for word in set(begins[:pages])}
    if not ends_in_zeros(plain, pages * size):
        what = f"{segment}: page at {Lsn(segment.start + pages * size)}"
        (stated,) = struct.unpack_from("=Q", found, pages * 8)
        if stated == 0:
            raise BadSegment(f"{what}: it is empty, and more follows", hint=NOT_WHOLE)
        raise BadSegment(f"{what}: it says that it is the page of {Lsn(stated)}", hint=NOT_WHOLE)
    if len({magic for magic, _, _ in kinds}) != 1:
        raise BadSegment(f"{segment}: not all of its pages have the magic of its first one", hint=NOT_WHOLE)
    timelines = {timeline for _, _, timeline in kinds}
    if max(timelines) > segment.timeline or (len(timelines) > 1 and not _rises(begins[:pages])):
        raise BadSegment(f"{segment}: the timelines of its pages do not follow each other", hint=NOT_WHOLE)
    if history and history.includes(segment.timeline) and not all(map(history.includes, timelines)):
        raise BadSegment(
            f"{segment}: a page is of a timeline that is not an ancestor of {segment.timeline}",
            hint=NOT_WHOLE,
        )


def _rises(begins: list[int]) -> bool:
    """Whether the timelines in the first eight bytes of those pages never go back."""
    timelines = [_FIRST_WORD.unpack(word.to_bytes(8, sys.byteorder))[2] for word in begins]
    return timelines == sorted(timelines)


def ends_in_zeros(plain: Plain, begin: int) -> bool:
    """Whether all bytes from there on, the start of a page, are zeros."""
    return all(plain.startswith(_ZEROS[: len(plain) - at], at) for at in range(begin, len(plain), PAGE_SIZE))


def first_difference(one: Plain, other: Plain) -> int:
    """The first offset at which they differ, or the shorter one's length."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def check_part(data: bytes | memoryview, begin: int, segment: Segment) -> None:
    """That every page which starts in these bytes, from offset ``begin`` of the segment on, is that segment's own.

    Raises BadSegment. The first page's long header is for ``check_header``.
    """
    first: int | None = None
    for offset in range(-begin % PAGE_SIZE, len(data), PAGE_SIZE):
        address = segment.start + begin + offset
        if len(data) - offset < _SHORT_HEADER.size:
            raise BadSegment(f"{segment}: cut inside the header of the page at {Lsn(address)}")
        magic, _, timeline, stated = _SHORT_HEADER.unpack_from(data, offset)
        first = magic if first is None else first
        own = may_be_magic(magic) and magic == first
        if not own or stated != address or not 0 < timeline <= segment.timeline:
            raise BadSegment(
                f"{segment}: the page at {Lsn(address)} has the header of another one",
                hint="The file is damaged, or its rest is a recycled one's.",
            )


def without_zeros(plain: Plain) -> int:
    """The length without the zeros at the end: of a segment that was switched early, most of it.

    Page by page: ``rstrip`` looks at each byte singly, and copies the rest.
    """
    for end in range(len(plain), 0, -PAGE_SIZE):
        page = plain[max(0, end - PAGE_SIZE) : end]
        if page != _ZEROS[: len(page)]:
            return end - len(page) + len(page.rstrip(b"\0"))
    return 0
