"""Reading a file of WAL: whole, once, and never anything but a plain file."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import MIB
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import Plain
from walkeeper.errors import BadSegment, PostgresError

MAX_BYTES: Final = 1024 * MIB
"""No file that PostgreSQL archives is larger than its largest segment."""

_PART: Final = 256 * 1024
"""Bytes that are read at a time where a file is not kept."""

TICK_NS: Final = 50_000_000
"""Kernels stamp files by a clock that ticks, at least every 10 ms."""


class Memory:
    """Room for one file, used again for the next: fresh pages take a tenth to a half of the CPU time of reading and packing."""

    def __init__(self) -> None:
        self._room = bytearray()

    def of(self, size: int) -> bytearray:
        """So many bytes, and what was there is gone. Raises MemoryError."""
        if len(self._room) != size:
            self.release()
            self._room = _aligned(size)
        return self._room

    def release(self) -> None:
        self._room = bytearray()


def _aligned(size: int) -> bytearray:
    """From the start of a page on: the kernel copies into it at a sixth less CPU time."""
    room = bytearray(size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    del room[: -address % mmap.PAGESIZE]  # it begins there now; nothing is copied
    del room[size:]
    return room


@dataclass(frozen=True, slots=True)
class WalBytes:
    """A file's content, and the modification time that it had before and after it was read.

    ``mtime_ns`` is None where it says nothing: a file that was written a moment ago may be written again without a change of it.
    """

    plain: Plain
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class Sums:
    """SHA-256 of a segment, and of ranges of it, by first offset and end, in hex; not of those that go beyond its end."""

    whole: str
    ranges: Mapping[tuple[int, int], str]


def read_wal_file(path: Path, limit: int = MAX_BYTES, memory: Memory | None = None) -> WalBytes:
    """A file of pg_wal. Raises BadSegment for what is not a plain file, is too large or changes meanwhile, FileNotFoundError for
    what is not there or loses its name meanwhile, or PostgresError.

    With ``memory`` the content is there, until something else is read into it.
    """
    try:
        return _read_whole(path, limit, memory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None


def is_there(path: Path) -> bool:
    """Whether something has that name. Raises PostgresError where that cannot be told."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PostgresError(
            f"{path}: {error.strerror} (uid {os.geteuid()})", hint="The agent reads pg_wal as PostgreSQL's own user."
        ) from None
    return True


def read_segment(path: Path, segment: Segment, memory: Memory | None = None) -> Plain:
    """A whole segment from any directory; ``memory`` as in ``read_wal_file``. Raises BadSegment, or OSError, as that does."""
    plain = _read_whole(path, segment.size, memory).plain
    if len(plain) != segment.size:
        raise _not_whole(path, len(plain), segment)
    return plain


def sums_of(path: Path, segment: Segment, ranges: Iterable[tuple[int, int]] = ()) -> Sums:
    """The checksums of a whole segment from any directory, of which no more than a part is held. Raises as ``read_segment``."""
    whole, found = hashlib.sha256(), {each: hashlib.sha256() for each in ranges if each[1] <= segment.size}
    room, at = bytearray(_PART), 0
    with _unchanged(path, segment.size) as (file, before), memoryview(room) as part:
        if before.st_size != segment.size:
            raise _not_whole(path, before.st_size, segment)
        while at < segment.size and (count := file.readinto(part)):
            whole.update(part[:count])
            for (begin, end), one in found.items():
                one.update(part[min(max(begin - at, 0), count) : min(max(end - at, 0), count)])
            at += count
    return Sums(whole.hexdigest(), {each: one.hexdigest() for each, one in found.items()})


def _not_whole(path: Path, size: int, segment: Segment) -> BadSegment:
    return BadSegment(f"{path}: {size} bytes, a whole segment has {segment.size}")


def _read_whole(path: Path, limit: int, memory: Memory | None) -> WalBytes:
    with _unchanged(path, limit) as (file, before):
        if memory is None:
            plain: Plain = file.read(before.st_size + 1)
        else:
            plain = memory.of(before.st_size)
            file.readinto(plain)
    # The clock that the stamps come from, read after the file was. Where another one makes them, the worst is a second look.
    settled = time.clock_gettime_ns(time.CLOCK_REALTIME) - before.st_mtime_ns > TICK_NS
    return WalBytes(plain, before.st_mtime_ns if settled else None)


@contextmanager
def _unchanged(path: Path, limit: int) -> Iterator[tuple[BufferedReader, os.stat_result]]:
    """A plain file, to be read to its end; at the end it raises where that is not what the file is then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise BadSegment(
                f"{path}: not a plain file", hint="PostgreSQL does not make such files. Look at who put it there."
            )
        if before.st_size > limit:
            raise BadSegment(f"{path}: {before.st_size} bytes, more than such a file can have ({limit})")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, before
            size = file.tell()
        after = os.fstat(descriptor)
        there = path.lstat()  # PostgreSQL renames a file before it writes other WAL into it
    finally:
        os.close(descriptor)
    same = os.path.samestat(there, after) and (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if size != before.st_size or not same:
        raise BadSegment(f"{path}: it changed while it was read", hint="Something else writes to it.")


def unreadable(path: Path, error: OSError) -> BadSegment | PostgresError:
    """A link or a socket can never be read; everything else may pass."""
    if path.is_symlink() or path.is_socket():
        return BadSegment(
            f"{path}: not a plain file", hint="PostgreSQL does not make such files. Look at who put it there."
        )
    return PostgresError(
        f"{path}: {error.strerror} (uid {os.geteuid()})", hint="PostgreSQL keeps the file and asks again."
    )
