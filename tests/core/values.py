"""Values for property tests: segment sizes, segments, histories, and made-up segments with true headers."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from walkeeper.core.backup import Backup, BackupId, Place, WalRange
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_records import crc32c

SIZES = [SegmentSize(MIB << shift) for shift in range(11)]
sizes = st.sampled_from(SIZES)
PAGE = 8192
lsns = st.integers(0, (1 << 64) - 1).map(Lsn)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    size = draw(sizes)
    return Segment(draw(st.integers(1, 0xFFFFFFFF)), draw(st.integers(0, (1 << 64) // size - 1)), size)


@st.composite
def histories(draw: st.DrawFn, max_timelines: int = 8, max_lsn: int = 1 << 40) -> History:
    count = draw(st.integers(0, max_timelines))
    numbers = sorted(draw(st.sets(st.integers(1, 40), min_size=count + 1, max_size=count + 1)))
    ends = sorted(draw(st.lists(st.integers(1, max_lsn), min_size=count, max_size=count)))
    return History(numbers[-1], tuple(Switch(n, Lsn(e)) for n, e in zip(numbers[:-1], ends, strict=True)))


@st.composite
def forked_pairs(draw: st.DrawFn) -> tuple[History, History]:
    """Two histories of one cluster: the same up to somewhere, then each its own way."""
    trunk = draw(histories())
    numbers = draw(st.lists(st.integers(trunk.timeline + 1, trunk.timeline + 20), min_size=2, max_size=2, unique=True))
    begun = trunk.switches[-1].lsn if trunk.switches else 0
    ends = [Lsn(begun + draw(st.integers(0, 1 << 34))) for _ in numbers]
    one, other = (
        History(number, (*trunk.switches, Switch(trunk.timeline, end)))
        for number, end in zip(numbers, ends, strict=True)
    )
    return (trunk, one) if draw(st.booleans()) else (one, other)


def history_text(history: History) -> bytes:
    return b"".join(f"{s.timeline}\t{s.lsn}\tno recovery target specified\n\n".encode() for s in history.switches)


def long_header(segment: Segment, system_identifier: int, *, magic: int = 0xD110, timeline: int | None = None) -> bytes:
    """The first page's header as PostgreSQL writes it."""
    return struct.pack(
        "=HHIQI4xQII", magic, 2, timeline or segment.timeline, segment.start, 0, system_identifier, segment.size, 8192
    )


def control_file(
    timeline: int,
    checkpoint: int,
    reached: int = 0,
    *,
    state: int = 5,
    system_identifier: int = 7300000000000000001,
    version: int = 1300,
    segment_size: int = 0,
) -> bytes:
    """``pg_control`` of a server whose last checkpoint was there, and which had got to ``reached`` in recovery."""
    positions = struct.pack("=QQI84xQI", checkpoint, checkpoint, timeline, reached, timeline if reached else 0)
    sizes = struct.pack("=56xId4I", 8, 1234567.0, 8192, 131072, 8192, segment_size) if segment_size else b""
    return struct.pack("=QI4xi12x", system_identifier, version, state) + positions + sizes + bytes(8000)


def plain_segment(
    segment: Segment, system_identifier: int, *, fill: bytes = b"w", timeline: int | None = None
) -> bytes:
    """A segment with true page headers; the rest is filler."""
    whole = bytearray(fill * (segment.size // len(fill)))
    short = struct.Struct("=HHIQI4x")
    for address in range(segment.start, segment.end, PAGE):
        short.pack_into(whole, address - segment.start, 0xD110, 0, timeline or segment.timeline, address, 0)
    header = long_header(segment, system_identifier, timeline=timeline)
    whole[: len(header)] = header
    return bytes(whole)


def switch_record() -> bytes:
    """What pg_switch_wal() writes, as the last thing in its segment."""
    body = struct.pack("=IIQBB2x", 24, 0, 0, 0x40, 0)
    return body + struct.pack("=I", crc32c(body))


def paged_segment(
    segment: Segment,
    system_identifier: int,
    history: History | None = None,
    *,
    written: int | None = None,
    magic: int = 0xD110,
) -> bytes:
    """A segment with a true header on each of its pages, up to ``written`` bytes: a switch, and zeros from there on.

    Pages from before the segment's timeline began are of the one before it, as after a promotion.
    """
    pages = []
    for address in range(segment.start, segment.end, PAGE):
        timeline = segment.timeline
        for switch in reversed(history.switches if history else ()):
            timeline = switch.timeline if address < switch.lsn else timeline
        header = (
            long_header(segment, system_identifier, timeline=timeline, magic=magic)
            if address == segment.start
            else struct.pack("=HHIQI4x", magic, 0, timeline, address, 0)
        )
        pages.append(header + b"w" * (PAGE - len(header)))
    plain = b"".join(pages)
    if written is None:
        return plain
    if written % PAGE >= 64:
        plain = plain[: written // 8 * 8 - 24] + switch_record()
    return plain[:written].ljust(segment.size, b"\0")


def a_backup(id_: BackupId, **changed: Any) -> Backup:
    """A complete one of timeline 3, from 0/2000028 to 0/2000100."""
    fields: dict[str, Any] = {
        "id": str(id_),
        "system_identifier": "7",
        "segment_size": MIB,
        "version": 150018,
        "start": Place(3, "0/2000028", "2026-11-28T02:00:00+00:00"),
        "stop": Place(3, "0/2000100", "2026-11-28T02:01:00+00:00"),
        "wal": (WalRange(3, "0/2000028", "0/2000100"),),
        "checksums": True,
        "suffix": ".zst",
        "index": "1" * 64,
        "manifest": "2" * 64,
        "order": "3" * 64,
        "files": 1,
        "bytes": 1,
        "pieces": 1,
        "packed_bytes": 1,
        "seed": 0,
        "member": "node1",
        "walkeeper": "0.2.0",
    }
    return Backup(**(fields | changed))


def commit_record(time: int, *, aborted: bool = False, more: int = 0, previous: int = 0) -> bytes:
    """The end of a transaction at that time, in microseconds since 2000, with so many bytes more in its main data."""
    length = 8 + more
    data = (b"\xff" + bytes([length]) if length < 256 else b"\xfe" + struct.pack("=I", length)) + struct.pack(
        "=q", time
    )
    data += b"m" * more
    head = struct.pack("=IIQBB2x", 24 + len(data), 7, previous, 0xA0 if aborted else 0x80, 1)
    return head + struct.pack("=I", crc32c(data + head)) + data


def message_record(length: int) -> bytes:
    """One that says nothing of interest, so many bytes long in all; its checksum is wrong."""
    head = struct.pack("=IIQBB2xI", length, 7, 0, 0, 21, 0)
    return (head + b"\xfe" + struct.pack("=I", length - 29)).ljust(length, b"m")


def wal_of(
    history: History, size: SegmentSize, system_identifier: int, number: int, records: Iterable[bytes]
) -> tuple[dict[Segment, bytes], list[tuple[Lsn, Lsn]]]:
    """Whole segments of that chain from ``number`` on, and where each record begins and ends; behind the last one are zeros."""
    base = number * size
    stream = bytearray()

    def header(left: int) -> None:
        address = base + len(stream)
        timeline = next((switch.timeline for switch in history.switches if address < switch.lsn), history.timeline)
        info = (0 if address % size else 2) | (1 if left else 0)
        stream.extend(struct.pack("=HHIQI4x", 0xD110, info, timeline, address, left))
        if address % size == 0:
            stream.extend(struct.pack("=QII", system_identifier, size, PAGE))

    places = []
    for record in records:
        stream.extend(bytes(-len(stream) % 8))
        if len(stream) % PAGE == 0:
            header(0)
        begin, at = Lsn(base + len(stream)), 0
        while at < len(record):
            if at:
                header(len(record) - at)
            room = PAGE - len(stream) % PAGE
            stream.extend(record[at : at + room])
            at += room
        places.append((begin, Lsn(base + len(stream) + -len(stream) % 8)))
    stream.extend(bytes(-len(stream) % size))
    segments = {
        history.segment(number + index, size): bytes(stream[index * size : (index + 1) * size])
        for index in range(len(stream) // size)
    }
    return segments, places


def new_objects(make: Callable[[], Any]) -> int:
    """How many more there are while what was made is there."""
    gc.collect()
    before = len(gc.get_objects())
    made = make()
    gc.collect()
    count = len(gc.get_objects()) - before
    del made
    return count
