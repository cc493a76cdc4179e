"""The tail: the received part of the open segment, in pieces; which of them make a chain, and when they are merged."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import BadName

MERGED_AT_ONCE: Final = 32
"""Pieces of one level that become one of the next: some hundred objects a segment at most."""
MAX_PIECE: Final = 16 * 1024 * 1024
"""Bytes. No piece is larger, and what would be is not merged."""

_NAME: Final = re.compile(r"([0-9A-F]{8})-([0-9A-F]{8})-([0-9a-z]{1,40})\Z", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """The bytes of one segment from offset ``begin`` up to ``end``, as ``owner`` received them.

    An owner is one run of a receiver: its pieces begin at offset 0 and continue each other.
    """

    begin: int
    end: int
    owner: str

    @property
    def name(self) -> str:
        return f"{self.begin:08X}-{self.end:08X}-{self.owner}"

    @classmethod
    def parse(cls, name: str) -> Piece:
        """Raises BadName for what is not a piece's name."""
        match = _NAME.match(name)
        if match is None or int(match[1], 16) >= int(match[2], 16):
            raise BadName(f"{name!r}: not the name of a piece of a tail")
        return cls(int(match[1], 16), int(match[2], 16), match[3])


@dataclass(frozen=True, slots=True)
class TailReach:
    """How far a tail goes, in bytes of its segment: as its pieces hold together, and as their names say that they should.

    ``ignored``: the key of one that could not be used. ``whole``: they have all of the segment, and nothing contradicts them.
    """

    reached: int = 0
    listed: int = 0
    ignored: str = ""
    whole: bool = False


NO_TAIL: Final = TailReach()


def longest_chain(pieces: Collection[Piece]) -> list[Piece]:
    """Pieces of one owner that continue each other from offset 0 and reach furthest; of those, the fewest."""
    best: dict[int, tuple[int, int, Piece | None]] = {}
    for piece in sorted(pieces, reverse=True):
        reach, count, _ = best.get(piece.end, (piece.end, 0, None))
        known = best.get(piece.begin)
        if known is None or (reach, -count - 1) > (known[0], -known[1]):
            best[piece.begin] = (reach, count + 1, piece)
    chain: list[Piece] = []
    at = 0
    while (step := best.get(at)) is not None and step[2] is not None:
        chain.append(step[2])
        at = step[2].end
    return chain


def due_for_merge(levels: Sequence[int]) -> int:
    """How many pieces at the end of a chain are to become one, which then has the next level; 0 for none.

    ``levels`` has each piece's level, in the order of the chain; a piece as it was received has level 0.
    """
    if len(levels) < MERGED_AT_ONCE or len(set(levels[-MERGED_AT_ONCE:])) > 1:
        return 0
    return MERGED_AT_ONCE


def inner_fork(history: History, segment: Segment) -> Lsn:
    """Where the last timeline switch inside that segment of the chain is; its start if there is none.

    A tail that ends before it could hold less than a standby has under the name of the older timeline: PostgreSQL reads
    the file of the newest one and would not look at the other.
    """
    inside = [switch.lsn for switch in history.switches if segment.start < switch.lsn < segment.end]
    return max(inside, default=segment.start)
