"""Proof that a segment, or a piece of the open one, is durable in the store."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.tail import Piece


@dataclass(frozen=True, slots=True)
class Receipt:
    """The store confirmed this segment. Only ``walkeeper.archive.write`` makes one; a test holds everybody to it.

    ``sha256`` is that of the plain segment, in hex. ``was_present`` says that the same bytes were stored before.
    ``stored_bytes`` is the size of the object.
    """

    segment: Segment
    sha256: str
    stored_bytes: int
    was_present: bool


@dataclass(frozen=True, slots=True)
class TailReceipt:
    """The store confirmed this piece of a segment. Only ``walkeeper.tail`` makes one.

    ``stored_bytes`` is the size of the object, ``key`` its key.
    """

    segment: Segment
    piece: Piece
    stored_bytes: int
    key: str

    @property
    def end(self) -> Lsn:
        """The first position after it."""
        return Lsn(self.segment.start + self.piece.end)
