"""Reading files of WAL: whole or not at all, into memory that is used again."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadSegment
from walkeeper.postgres.wal_file import Memory, Sums, read_segment, read_wal_file, sums_of

SEGMENT = Segment(1, 3, SegmentSize(MIB))
WAYS: list[Callable[[Path], object]] = [
    lambda path: read_wal_file(path, MIB),
    lambda path: read_wal_file(path, MIB, Memory()),
    lambda path: sums_of(path, SEGMENT),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / SEGMENT.name
    path.write_bytes(os.urandom(MIB))
    return path


@pytest.mark.parametrize("reads", [read_segment, sums_of])
def test_only_a_plain_file_of_the_right_size_is_read(tmp_path: Path, reads: Callable[[Path, Segment], object]) -> None:
    path = tmp_path / SEGMENT.name
    os.mkfifo(path)
    with pytest.raises(BadSegment):  # and it does not block
        reads(path, SEGMENT)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadSegment):
        reads(path, SEGMENT)
    path.rmdir()
    for size in (0, MIB - 1, MIB + 1):
        path.write_bytes(b"x" * size)
        with pytest.raises(BadSegment, match=f"{size} bytes"):
            reads(path, SEGMENT)
    path.unlink()
    (tmp_path / "target").write_bytes(b"x" * MIB)
    path.symlink_to(tmp_path / "target")
    with pytest.raises((BadSegment, OSError)):
        reads(path, SEGMENT)


def test_memory_begins_with_a_page() -> None:
    memory = Memory()
    for size in (16 * MIB, MIB, MIB + 1):
        room = memory.of(size)
        assert len(room) == size
        assert ctypes.addressof(ctypes.c_char.from_buffer(room)) % mmap.PAGESIZE == 0
        assert memory.of(size) is room
    assert len(memory.of(5)) == 5


def test_what_is_read_into_memory_is_only_what_the_file_has(path: Path) -> None:
    memory = Memory()
    for size in (MIB, MIB, 5, 2 * MIB, 0, MIB):
        path.write_bytes(content := os.urandom(size))
        assert read_wal_file(path, memory=memory).plain == content
    assert read_segment(path, SEGMENT, memory) is read_segment(path, SEGMENT, memory)
    path.write_bytes(b"")
    assert memory.of(MIB) == content
    memory.release()
    assert memory.of(MIB) == bytearray(MIB)


@pytest.mark.parametrize("reads", WAYS)
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
def test_a_file_that_changes_while_it_is_read_is_refused(
    path: Path, size: int, reads: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        os.truncate(path, size)
        os.utime(path, ns=(0, 0))
        return found

    monkeypatch.setattr("walkeeper.postgres.wal_file.os.fstat", fstat)
    with pytest.raises(BadSegment, match="changed while it was read"):
        reads(path)


@pytest.mark.parametrize("reads", WAYS)
@pytest.mark.parametrize("written", [False, True])
def test_a_segment_that_is_recycled_while_it_is_read_is_gone(
    path: Path, reads: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """PostgreSQL renames it, and only then writes into it. Pages tell old bytes from new by their headers alone."""
    real = os.open

    def recycle(name: Path, flags: int) -> int:
        opened = real(name, flags)
        renamed = path.rename(path.with_name("000000010000000000000009"))
        if written:
            renamed.write_bytes(b"later" + renamed.read_bytes()[5:])
        return opened

    monkeypatch.setattr("walkeeper.postgres.wal_file.os.open", recycle)
    with pytest.raises(FileNotFoundError):
        reads(path)


def test_a_file_whose_name_leads_to_another_one_has_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        other = path.with_suffix(".other")
        other.write_bytes(path.read_bytes())
        other.rename(path)
        return real(descriptor)

    monkeypatch.setattr("walkeeper.postgres.wal_file.os.fstat", fstat)
    with pytest.raises(BadSegment, match="changed while it was read"):
        read_segment(path, SEGMENT)


def test_sums_are_those_of_the_whole_file_and_of_its_ranges(path: Path) -> None:
    content, step = path.read_bytes(), 256 * 1024
    ranges = [(0, MIB), (0, 1), (0, step), (step, 2 * step), (step - 1, step + 1), (5, 3 * step + 7), (MIB - 1, MIB)]
    found = sums_of(path, SEGMENT, [*ranges, (0, MIB + 1)])
    assert found.whole == hashlib.sha256(content).hexdigest()
    assert found.ranges == {(a, b): hashlib.sha256(content[a:b]).hexdigest() for a, b in ranges}
    assert sums_of(path, SEGMENT) == Sums(found.whole, {})


def test_sums_hold_no_segment(path: Path) -> None:
    path.write_bytes(bytes(16 * MIB))
    large = Segment(1, 3, SegmentSize(16 * MIB))
    tracemalloc.start()
    try:
        sums_of(path, large, [(0, 16 * MIB)])
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
