"""Positions in the write-ahead log, and the sizes of its segments."""

from __future__ import annotations

import re
from typing import Final, Self

from walkeeper.errors import BadName, BadSegment

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")

MIB: Final = 1024 * 1024


class Lsn(int):
    """A byte position in the WAL, an unsigned 64-bit number; written ``HI/LO`` in hex as PostgreSQL does."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < 1 << 64:
            raise BadName(f"{value}: not a WAL position (it must fit 64 bits)")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """``"0/5000028"`` to a position. Raises BadName for anything else."""
        match = _LSN.match(text)
        if match is None:
            raise BadName(f"{text!r}: not a WAL position", hint="It looks like 16/B374D848.")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"

    def floor(self, size: SegmentSize) -> Lsn:
        """The start of the segment that this position lies in."""
        return Lsn(self - self % size)


class SegmentSize(int):
    """``wal_segment_size`` in bytes: a power of two from 1 MiB to 1 GiB."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not (MIB <= value <= 1024 * MIB and value & (value - 1) == 0):
            raise BadSegment(f"segment size {value}: not a power of two from 1 MiB to 1 GiB")
        return super().__new__(cls, value)

    @property
    def per_log(self) -> int:
        """How many segments share the middle eight characters of the name."""
        return (1 << 32) // self
