"""What PostgreSQL servers write: branches of one cluster's WAL, and the files that hold them.

A branch is what one promotion began. Its timeline number may be another branch's too, when two servers were promoted
apart from each other; what its files contain never is.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tests.core.values import PAGE, history_text, long_header
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.errors import BadSegment
from walkeeper.postgres import wal_file
from walkeeper.postgres.wal_file import Sums, WalBytes

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
_HEAD: Final = 4096
"""The files are sparse: everything that tells one from another stands in their first bytes."""
_NAME: Final = 24
_LONG_HEADER: Final = 40
_SHORT_HEADER: Final = 24


class Plain(bytes):
    """A whole segment of which only the beginning is kept; a slice has all of its bytes."""

    __slots__ = ()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, part: Any) -> Any:
        return written_out(bytes(self))[part]


@lru_cache(maxsize=16)
def written_out(kept: bytes) -> bytes:
    """All bytes of the segment with that beginning: true page headers, and between them who wrote what where."""
    whole = bytearray()
    for text in kept[_LONG_HEADER:].decode().rstrip(" \0").split():
        serial, timeline, start, end = (int(number, 16) for number in text.replace("-", ":").split(":"))
        for page in range(start // PAGE * PAGE, end, PAGE):
            header = struct.pack("=HHIQI4x", 0xD110, 0, timeline, page, 0)
            if not page % SIZE:
                header = kept[:_LONG_HEADER]
            body = struct.pack("=HHI", serial + 1, 0xABBA, page // PAGE) * (PAGE // 8)
            whole += (header.ljust(_LONG_HEADER, b"h") + body)[max(start - page, 0) : min(end - page, PAGE)]
    return bytes(whole)


def readable(lsn: int) -> int:
    """How far WAL that was written up to there can be sent: not a part of a record's first bytes or of a page's header."""
    lsn -= lsn % 8
    header = _LONG_HEADER if lsn % SIZE < PAGE else _SHORT_HEADER
    return lsn if lsn % PAGE >= header else lsn // PAGE * PAGE


class Branch:
    """WAL from ``begun`` on, and that of its ancestors before.

    A standby that knows of a newer timeline and is promoted before it has got there names that timeline as the parent all
    the same: then the positions in its history file (``written``) fall, and ``history`` is what they mean.
    """

    def __init__(
        self,
        serial: int,
        timeline: int,
        parent: Branch | None = None,
        begun: int = 0,
        *,
        lived: tuple[Branch, int] | None = None,
    ) -> None:
        self.serial = serial
        self.parent = parent
        self.begun = begun
        self._lived = lived
        """The branch of which this one is a second life, on the same timeline, from that position on: a volume went back."""
        switches = () if parent is None else (*parent.written.switches, Switch(parent.timeline, Lsn(begun)))
        self.written: History = History(timeline, switches)
        ends = [min(switch.lsn for switch in switches[n:]) for n in range(len(switches))]
        self.history = History(timeline, tuple(Switch(s.timeline, end) for s, end in zip(switches, ends, strict=True)))
        self._plain: dict[int, Plain] = {}
        self._sha256: dict[int, str] = {}

    @property
    def lived(self) -> Branch | None:
        """The branch of which this one is a second life."""
        return None if self._lived is None else self._lived[0]

    def __repr__(self) -> str:
        return f"branch {self.serial} (timeline {self.history.timeline} from {Lsn(self.begun)})"

    @property
    def timeline(self) -> int:
        return self.written.timeline

    def ancestry(self) -> list[tuple[Branch, int]]:
        """The branches from the first to this one, each with its end (the next one's beginning)."""
        before, until = self._lived or (self.parent, self.begun)
        line = [] if before is None else before.ancestry()
        return [*((branch, min(end, until)) for branch, end in line), (self, 1 << 62)]

    def parts_from(self, other: Branch) -> int:
        """The position up to which both have the same WAL; a branch is the same as itself for ever."""
        shared = 0
        for (mine, my_end), (its, its_end) in zip(self.ancestry(), other.ancestry(), strict=False):
            if mine is not its:
                break
            shared = min(my_end, its_end)
        return shared

    def segment(self, number: int) -> Segment:
        return self.history.segment(number, SIZE)

    def plain(self, number: int) -> Plain:
        """The whole segment of this branch's chain with that number, once it is complete."""
        if number not in self._plain:
            segment = self.segment(number)
            pieces = list(self._pieces(segment))
            header = long_header(segment, SYSTEM, timeline=pieces[0][0].timeline)
            text = "".join(f" {b.serial:x}:{b.timeline:x}:{start:x}-{end:x}" for b, start, end in pieces)
            self._plain[number] = Plain(header + text.encode().ljust(64))
        return self._plain[number]

    def written_out(self, number: int) -> bytes:
        """That segment's bytes as they are on disk, whether or not they have been written yet."""
        return written_out(bytes(self.plain(number)))

    def sha256(self, number: int) -> str:
        if number not in self._sha256:
            self._sha256[number] = hashlib.sha256(self.plain(number)).hexdigest()
        return self._sha256[number]

    def _pieces(self, segment: Segment) -> Iterator[tuple[Branch, int, int]]:
        begun = 0
        for branch, end in self.ancestry():
            if begun < segment.end and end > segment.start and begun < end:
                yield branch, max(begun, segment.start), min(end, segment.end)
            begun = end


class PgWal:
    """A server's pg_wal: whole segments, the histories of its branch, and what its archiver still has to do.

    Files have times that a seed decides: the n-th that is written anywhere is n seconds old.
    """

    def __init__(self, directory: Path, times: Iterator[int]) -> None:
        self.directory = directory
        self.segments: set[Segment] = set()
        self._times = times
        self._status = directory / "archive_status"
        self._status.mkdir(parents=True)

    def put(self, branch: Branch, number: int, *, ready: bool = False) -> None:
        """``ready``: for its archiver. What a standby receives is not."""
        segment = branch.segment(number)
        if segment not in self.segments:
            self.segments.add(segment)
            path = self.directory / segment.name
            write_segment(path, branch.plain(number))
            time = next(self._times)
            os.utime(path, (time, time))
            if ready:
                self.mark_ready(segment.name)

    def mark_ready(self, name: str) -> None:
        self._ready(name).touch()

    def mark_done(self, name: str) -> None:
        self._ready(name).unlink(missing_ok=True)

    def is_ready(self, name: str) -> bool:
        return self._ready(name).exists()

    def ready(self) -> list[str]:
        """In the order in which PostgreSQL hands them over: histories first."""
        return sorted((path.stem for path in self._status.iterdir()), key=lambda name: (len(name) == _NAME, name))

    def content(self, name: str) -> bytes:
        """What the file has, without the zeros at its end; nothing where there is none."""
        path = self.directory / name
        return path.read_bytes()[:_HEAD].rstrip(b"\0") if path.exists() else b""

    def drop(self, segment: Segment) -> None:
        self.segments.remove(segment)
        (self.directory / segment.name).unlink()
        self.mark_done(segment.name)

    def clear(self) -> None:
        for segment in list(self.segments):
            self.drop(segment)
        for path in [*self.directory.glob("0*"), *self._status.iterdir()]:
            path.unlink()

    def _ready(self, name: str) -> Path:
        return self._status / f"{name}.ready"

    def put_histories(self, branch: Branch) -> None:
        for ancestor, _ in branch.ancestry()[1:]:
            if ancestor.timeline > 1:  # a second life of the first one has none
                write_history(self.directory, ancestor)

    def knows(self, timeline: int) -> bool:
        return (self.directory / HistoryFile(timeline).name).exists()


def write_history(directory: Path, branch: Branch) -> None:
    (directory / HistoryFile(branch.timeline).name).write_bytes(history_text(branch.written))


def write_segment(path: Path, plain: bytes) -> None:
    """A file of a segment's size with that beginning."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, plain)
    os.ftruncate(descriptor, SIZE)
    os.close(descriptor)


def read_wal_file(path: Path, limit: int = 0, memory: wal_file.Memory | None = None) -> WalBytes:
    """walkeeper.postgres.wal_file.read_wal_file, without reading a megabyte of a segment."""
    if len(path.name) != _NAME:
        return wal_file.read_wal_file(path)
    segment = Segment.parse(path.name, SIZE)
    return WalBytes(read_segment(path, segment), path.stat().st_mtime_ns)


def read_segment(path: Path, segment: Segment, memory: wal_file.Memory | None = None) -> bytes:
    """walkeeper.postgres.wal_file.read_segment, without reading a megabyte."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size != segment.size:
            raise BadSegment(f"{path}: {os.fstat(descriptor).st_size} bytes, a whole segment has {segment.size}")
        return Plain(os.read(descriptor, _HEAD).rstrip(b"\0").ljust(64, b"\0"))
    finally:
        os.close(descriptor)


def sums_of(path: Path, segment: Segment, ranges: Iterable[tuple[int, int]] = ()) -> Sums:
    """walkeeper.postgres.wal_file.sums_of, of what ``read_segment`` reads."""
    plain = read_segment(path, segment)
    return Sums(_sha256(plain), {(begin, end): _sha256(plain[begin:end]) for begin, end in ranges})


def _sha256(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()
