"""Transactions and restore points are found by their records, across pages and segments too."""

from __future__ import annotations

import struct

import pytest

from tests.core.values import long_header, message_record
from walkeeper.core.landmarks import Find, restore_point, transaction_end
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_records import crc32c

SIZE = SegmentSize(MIB)
FIRST, SECOND = Segment(1, 5, SIZE), Segment(1, 6, SIZE)


def record(xid: int, info: int, manager: int, data: bytes) -> bytes:
    body = b"\xff" + bytes([len(data)]) + data
    head = struct.pack("=IIQBB2x", 24 + len(body), xid, 0, info, manager)
    return head + struct.pack("=I", crc32c(body + head)) + body


TIME = struct.pack("=q", 1)
COMMIT, ABORT = record(700, 0x80, 1, TIME), record(700, 0x20, 1, TIME)
PREPARED = record(0, 0xB0, 1, TIME + struct.pack("=III", 0x10, 0, 700))
POINT = record(0, 0x70, 0, TIME + b"here".ljust(64, b"\0"))
OTHERS = record(700, 0x00, 10, TIME), record(701, 0x80, 1, TIME), record(0, 0x70, 0, TIME + b"here2".ljust(64, b"\0"))


def wal(*records: bytes) -> tuple[bytes, bytes]:
    """Two segments with those records, one behind the other, with true headers of pages."""
    stream = b"".join(each.ljust(-(-len(each) // 8) * 8, b"\0") for each in records)
    sizes = [len(each) for each in records]
    ends = [sum(-(-size // 8) * 8 for size in sizes[: n + 1]) for n in range(len(sizes))]
    begins = [end - -(-size // 8) * 8 for end, size in zip(ends, sizes, strict=True)]
    out, at = bytearray(), 0
    for segment in (FIRST, SECOND):
        for page in range(0, SIZE, 8192):
            left = next((b + s - at for b, s in zip(begins, sizes, strict=True) if b < at < b + s), 0)
            address = segment.start + page
            if page == 0:
                header = bytearray(long_header(segment, 7))
                header[2:4] = struct.pack("=H", 3 if left else 2)
                header[16:20] = struct.pack("=I", left)
            else:
                header = bytearray(struct.pack("=HHIQI4x", 0xD110, 1 if left else 0, 1, address, left))
            room = 8192 - len(header)
            out += header + stream[at : at + room].ljust(room, b"\0")
            at += room
    return bytes(out[:SIZE]), bytes(out[SIZE:])


@pytest.mark.parametrize(
    ("find", "wanted"),
    [(transaction_end(700), COMMIT), (transaction_end(700), ABORT), (transaction_end(700 + (5 << 32)), COMMIT),
     (transaction_end(700), PREPARED), (restore_point("here"), POINT)],
    ids=["commit", "rollback", "64 bits", "prepared", "restore point"],
)  # fmt: skip
@pytest.mark.parametrize("before", [100, 8192 - 24 - 40 - 16, 8000, 8100, SIZE - 128 * 24 - 16 - 3 * 112 - 40, SIZE])
def test_it_is_found_wherever_it_lies(find: Find, wanted: bytes, before: int) -> None:
    first, second = wal(message_record(before // 8 * 8), *OTHERS, wanted, message_record(64))
    found = find(first, FIRST, second, Lsn(0)) or find(second, SECOND, b"", Lsn(0))
    assert found is not None
    plain = first + second
    end = found - FIRST.start
    assert wanted[-1:] in plain[end - 8 : end] or wanted[-1] == 0
    assert FIRST.start < found < SECOND.end


def test_what_is_not_there_is_not_found() -> None:
    first, second = wal(message_record(5000), *OTHERS, COMMIT, POINT)
    for find in (transaction_end(702), restore_point("her"), restore_point("here3")):
        assert find(first, FIRST, second, Lsn(0)) is None
    end = Lsn(FIRST.start + 40 + 5000 + 40 * 2 + 104 + 40)
    assert transaction_end(700)(first, FIRST, second, Lsn(0)) == end


def test_of_two_in_one_segment_the_one_behind_a_position_is_found() -> None:
    first, second = wal(message_record(5000), POINT, message_record(64), POINT)
    here = restore_point("here")
    one = here(first, FIRST, second, FIRST.start)
    assert one is not None
    assert here(first, FIRST, second, Lsn(one - 1)) == one
    two = here(first, FIRST, second, one)
    assert two is not None
    assert two > one
    assert here(first, FIRST, second, two) is None
