"""The ordered frontier: receipts come in any order, the frontier moves over an unbroken chain only (promise P4)."""

from __future__ import annotations

from collections.abc import Collection

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt


class Frontier:
    """Where the chain of ``history`` is stored up to: the start of a segment, or the end of the tail in the segment that
    is still being written. Not safe for several threads, but that any may read ``lsn`` and ``next_segment``.
    """

    def __init__(self, history: History, lsn: Lsn, size: SegmentSize) -> None:
        self.history = history
        self.size = size
        self._next = lsn // size
        self._ahead: dict[int, Receipt] = {}
        self._gaps: dict[int, int] = {}
        self._tails: dict[str, int] = {}
        self._tail_end = lsn.floor(size)
        self.below: tuple[int, str] | None = None
        """Number and SHA-256 of the whole segment that the frontier passed last; None before one, and right behind a gap."""

    @property
    def lsn(self) -> Lsn:
        return max(Lsn(self._next * self.size), self._tail_end)

    @property
    def next_segment(self) -> Segment:
        """The first one of the chain that is not stored as a whole."""
        return self.history.segment(self._next, self.size)

    def first_missing(self, present: Collection[Segment]) -> Segment:
        """The first segment of the chain without a receipt that is neither ``present`` nor in a recorded gap."""
        number = self._next
        while True:
            segment = self.history.segment(number, self.size)
            if number in self._ahead or segment in present:
                number += 1
            elif number in self._gaps:
                number = self._gaps[number]
            else:
                return segment

    def add(self, receipt: Receipt) -> bool:
        """Take a receipt in; True when the frontier moved. One for another branch, or from below, changes nothing."""
        segment = receipt.segment
        if segment.number < self._next or not self.history.contains(segment):
            return False
        self._ahead[segment.number] = receipt
        return self._advance()

    def add_tail(self, receipt: TailReceipt) -> bool:
        """Take a piece of ``next_segment`` in; True when the frontier moved. An owner's pieces count from offset 0 on, each
        as far as it continues those before it."""
        segment, piece = receipt.segment, receipt.piece
        if segment != self.next_segment or piece.begin > self._tails.get(piece.owner, 0):
            return False
        self._tails[piece.owner] = max(piece.end, self._tails.get(piece.owner, 0))
        moved = receipt.end > self._tail_end
        self._tail_end = max(self._tail_end, receipt.end)
        return moved

    def add_gap(self, first: Segment, end: Lsn) -> bool:
        """From ``first`` up to ``end`` WAL exists nowhere, and that was recorded; True when the frontier moved over it.

        It is passed in its turn: what lies below it and has no receipt yet still holds the frontier up.
        """
        self._gaps[first.number] = end // self.size
        return self._advance()

    def _advance(self) -> bool:
        before = self._next
        while True:
            if self._next in self._ahead:
                self.below = self._next, self._ahead.pop(self._next).sha256
                self._next += 1
            elif self._next in self._gaps:
                self._next, self.below = self._gaps.pop(self._next), None
            else:
                break
        if self._next != before:
            self._tails.clear()
        return self._next != before
